"""The channel between the node and a worker: a stream of bytes from a side that went mad."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from ztnode.worker.protocol import Dial, Listen, MessageStream, PortUp, ProtocolError, build, parse


def fuzz(data: bytes) -> None:
    """Pieces: even ones are bytes of a stream, odd ones the JSON of one message. What is read is what is written."""
    stream = MessageStream()
    for selector, content in split(data):
        with contextlib.suppress(ProtocolError):
            messages = [parse(content)] if selector & 1 else stream.feed(content)
            for message in messages:
                assert parse(build(message)[4:]) == message


def seeds() -> Iterator[bytes]:
    """Some messages, whole and in parts."""
    up = PortUp(0, 1, 2, 2800, ("10.0.0.1/24",), (("10.0.0.0/24", None),), 1)
    for message in (up, Dial(1, "10.0.0.2", 80, None, 5.0), Listen(1, None, 80, None, 128, bytes(16))):
        whole = build(message)
        yield join((1, whole[4:]))
        yield join((0, whole), (0, whole[:7]), (0, whole[7:]))
