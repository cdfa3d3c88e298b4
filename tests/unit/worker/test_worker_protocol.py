"""Control messages: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.worker import protocol
from ztnode.worker.protocol import MAX_MESSAGE, MessageStream, ProtocolError, build, parse

INTEGERS = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(max_size=50)
BYTES = st.binary(max_size=20)
ENDPOINTS = st.tuples(TEXT, st.integers(0, 65535))
BY_ANNOTATION = {
    "int": INTEGERS,
    "float": st.floats(-1e9, 1e9, allow_nan=False),
    "str": TEXT,
    "bytes": BYTES,
    "bool": st.booleans(),
    "int | None": st.none() | INTEGERS,
    "str | None": st.none() | TEXT,
    "bytes | None": st.none() | BYTES,
    "Endpoint": ENDPOINTS,
    "tuple[str, ...]": st.lists(TEXT, max_size=5).map(tuple),
    "tuple[float, ...]": st.lists(st.floats(-1e9, 1e9, allow_nan=False), max_size=5).map(tuple),
    "tuple[int, ...]": st.lists(INTEGERS, max_size=5).map(tuple),
    "tuple[PortRoute, ...]": st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=5).map(tuple),
    "dict[str, int]": st.dictionaries(TEXT, INTEGERS, max_size=5),
}
KINDS = get_args(protocol.Message)
MESSAGES = st.one_of(
    *(st.builds(kind, **{field.name: BY_ANNOTATION[str(field.type)] for field in fields(kind)}) for kind in KINDS)
)


def test_every_kind_of_message_is_covered() -> None:
    assert len(KINDS) == 39


@given(st.lists(MESSAGES, max_size=6), st.integers(1, 40))
def test_messages_survive_any_segmentation(messages: list[protocol.Message], step: int) -> None:
    stream = b"".join(map(build, messages))
    messages_in = MessageStream()
    received = [
        message for start in range(0, len(stream), step) for message in messages_in.feed(stream[start : start + step])
    ]
    assert received == messages


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=200))
def test_noise_gives_protocol_error_or_nothing(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(noise)


@given(MESSAGES, st.data())
def test_a_message_with_one_wrong_field_is_refused_or_valid(message: protocol.Message, data: st.DataObject) -> None:
    body = json.loads(build(message)[4:])
    field = data.draw(st.sampled_from(sorted(body)))
    body[field] = data.draw(JSON)
    text = json.dumps(body).encode()
    try:
        again = parse(text)
    except ProtocolError:
        return
    assert parse(build(again)[4:]) == again


@pytest.mark.parametrize(
    "body",
    [
        {"type": "Cancel"},
        {"type": "Cancel", "id": 1, "more": 2},
        {"type": "Cancel", "id": True},
        {"type": "Cancel", "id": 1.0},
        {"type": "Cancel", "id": 2**64},
        {"type": "Cancel", "id": "1"},
        {"type": "Ready", "path": "x" * 5000},
        {"type": "Renew", "token": "no hexadecimal"},
        {"type": "Renew", "token": None},
        {"type": "Pong", "id": 1, "seconds": float("nan")},
        {"type": "Listening", "id": 1, "local": ["10.0.0.1"]},
        {
            "type": "PortUp",
            "index": 0,
            "nwid": 0,
            "mac": 0,
            "mtu": 0,
            "metric": 0,
            "routes": [],
            "addresses": ["a"] * 9000,
        },
        {"type": "Message"},
        {"type": ["Cancel"], "id": 1},
        {},
        [],
        7,
    ],
)
def test_what_no_side_sends_is_refused(body: object) -> None:
    with pytest.raises(ProtocolError):
        parse(json.dumps(body).encode())


def test_lengths_are_bounded_both_ways() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        MessageStream().feed((MAX_MESSAGE + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="too long"):
        build(protocol.Stats(0, {f"{n:0100}": n for n in range(20_000)}, {}))


def test_deep_nesting_is_no_crash() -> None:
    with pytest.raises(ProtocolError):
        parse(b"[" * 100_000)
