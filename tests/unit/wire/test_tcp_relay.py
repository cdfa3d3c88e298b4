"""Records of a TCP relay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.hookspecs import Endpoint
from ztnode.wire.tcp_relay import MAX_RECORD, RecordReader, build_greeting, build_record, build_records, parse_relay
from ztnode.wire.wire_error import WireError

ROOT: Endpoint = ("84.17.53.155", 9993)
PACKET = b"a packet of 24 bytes...."
RECORD = b"\x17\x03\x03\x00\x1f\x04\x54\x11\x35\x9b\x27\x09" + PACKET


def test_records() -> None:
    assert build_record(ROOT, PACKET) == RECORD
    assert build_records(ROOT, [PACKET, PACKET[:20]]) == RECORD + build_record(ROOT, PACKET[:20])
    assert build_greeting(1, 14, 1) == b"\x17\x03\x03\x00\x04\x01\x0e\x00\x01"
    others = b"\x17\x03\x03\x00\x00" + b"\x17\x03\x03\x00\x01\x06" + build_record(ROOT, b"short")
    reader = RecordReader()
    assert reader.feed(others + RECORD) == [(PACKET, ROOT)] and reader.greeting is None
    assert reader.feed(build_greeting(1, 14, 1)) == [] and reader.greeting == (1, 14, 1)
    with pytest.raises(ValueError, match="4 octets"):
        build_record(("2001:db8::1", 1), PACKET)


@pytest.mark.parametrize("stream", [b"HTTP/1.1 400 Bad Request\r\n", b"\x16\x03\x01\x02\x00", b"\x17\x03\x03\xff\xff"])
def test_what_is_none(stream: bytes) -> None:
    with pytest.raises(WireError):
        RecordReader().feed(stream)


@given(st.lists(st.binary(min_size=16, max_size=100), max_size=5), st.lists(st.integers(1, 50), max_size=30))
def test_a_stream_comes_in_any_pieces(packets: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(build_record(ROOT, packet) for packet in packets)
    reader, found = RecordReader(), []
    for cut in cuts:
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    found += reader.feed(stream)
    assert found == [(packet, ROOT) for packet in packets]
    assert len(reader._held) <= MAX_RECORD + 5


def test_names_of_relays() -> None:
    assert parse_relay("relay.example:443") == ("relay.example", 443)
    assert parse_relay("[2001:db8::1]:8443") == ("2001:db8::1", 8443)
    assert parse_relay("192.0.2.1/443") == ("192.0.2.1", 443)
    for text in ("", "relay.example", ":443", "relay.example:0", "relay.example:65536", "relay.example:https"):
        with pytest.raises(ValueError, match="no address of a TCP relay"):
            parse_relay(text)
