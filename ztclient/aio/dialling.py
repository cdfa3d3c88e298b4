"""From a call that opens or accepts a connection to its socket, on an event loop: see ztclient.dialling."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from ztclient.aio import byte_stream, handoff
from ztclient.forms import is_numeric
from ztclient.handoff import CLAIM_TIMEOUT
from ztclient.overlay_socket import Connection, connection

if TYPE_CHECKING:
    from ztclient.aio.channel import Control
    from ztclient.destination import Destination
    from ztclient.v1 import node_pb2 as pb

HEAD_START: Final = 0.2
"""Seconds that dials wait for the answer to the first one on a channel, which says whom to ask from then on."""


async def dial(control: Control, to: Destination, timeout: float) -> Connection:
    """A connected socket, which does not block. ``timeout``: seconds until the node must have answered. Raises
    OSError."""
    from ztclient.v1 import node_pb2 as pb

    if control.address.scheme != "unix":
        return await _by_stream(control, pb.StreamRequest(dial=to.message()), timeout)
    waited = 0.0
    if is_numeric(to.ip) and (control.direct_path or control.first_dial is not None):
        began = time.monotonic()
        asked = await _by_worker(control, to)
        if asked is not None:
            return asked
        waited = time.monotonic() - began
    answer = await _by_node(control, to.message(waited), timeout)
    return await connected_socket(control, answer.connection)


async def _by_worker(control: Control, to: Destination) -> Connection | None:
    """What the worker itself is asked for, where it is known and answers at once. Two hundred dials at once would be
    two hundred calls of the node, all but one of them needless: the others wait for the first to say who it is, but
    what takes longer than usual holds nobody up a second time."""
    first = control.first_dial
    if not control.direct_path and (first is None or first.done()):
        return None
    if not control.direct_path and first is not None:
        await asyncio.wait([first], timeout=HEAD_START)
        _finish(first)
    return await handoff.ask(control.direct_path, to, control.idle) if control.direct_path else None


async def _by_node(control: Control, request: pb.DialRequest, timeout: float) -> pb.DialResponse:
    first: asyncio.Future[None] | None = None
    if control.first_dial is None:
        first = control.first_dial = asyncio.get_running_loop().create_future()
    try:
        answer: pb.DialResponse = await control.call(control.stub.Dial, request, timeout)
        control.learn(answer)
        return answer
    finally:
        if first is not None:
            _finish(first)


def _finish(first: asyncio.Future[None]) -> None:
    if not first.done():
        first.set_result(None)


async def connected_socket(control: Control, made: pb.Connection) -> Connection:
    """The socket of a connection that Dial or Accept gave, by hand-off where that is possible."""
    from ztclient.v1 import node_pb2 as pb

    if made.handoff_path:
        try:
            plain = await handoff.claim(made.handoff_path, made.token)
            return connection(plain, (made.local.ip, made.local.port), (made.remote.ip, made.remote.port))
        except (FileNotFoundError, PermissionError):
            # The control socket was brought into a container and the worker's was not: the stream goes there too.
            pass
    return await _by_stream(control, pb.StreamRequest(token=made.token), CLAIM_TIMEOUT)


async def _by_stream(control: Control, first: pb.StreamRequest, timeout: float) -> Connection:
    plain, opened = await byte_stream.open_stream(control, first, timeout)
    return connection(plain, (opened.local.ip, opened.local.port), (opened.remote.ip, opened.remote.port))
