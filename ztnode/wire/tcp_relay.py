"""Packets on a TCP connection to a relay, for hosts from which UDP goes nowhere: records that look like those of TLS.

A record is 0x17 0x03 0x03, the length of the rest (2 bytes), and the rest. The first one is a greeting: the version of
its sender in four bytes. Each one after it, either way, is 4 (IPv4), address (4 bytes), port (2 bytes) and a packet: to
where it goes, or from where it came. Source: reference tcp-proxy/tcp-proxy.cpp, OneService.cpp (``phyOnTcpData``,
``nodeWirePacketSendFunction``).
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Sequence
from typing import Final

from ztnode.wire.endpoint import Endpoint
from ztnode.wire.wire_error import WireError

MIN_PACKET: Final = 16
"""Bytes: shorter ones are none, and the relay passes none on."""
_MARK: Final = b"\x17\x03\x03"
_HEAD: Final = struct.Struct(">3sH")
_PORT: Final = struct.Struct(">H")
_GREETING: Final = struct.Struct(">BBH")
_IPV4: Final = 4
_TO_PACKET: Final = 7
_HEAD_BYTES: Final = _HEAD.size
_SHORTEST: Final = _TO_PACKET + MIN_PACKET
MAX_RECORD: Final = 16384
"""Bytes of the rest: more than any packet has."""


def parse_relay(text: str) -> Endpoint:
    """``HOST:PORT``, ``[IPv6]:PORT`` or, as in ``local.conf``, ``IP/PORT``. Raises ValueError."""
    host, _, port = text.rpartition("/" if "/" in text else ":")
    if not host.strip("[]") or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no address of a TCP relay, such as 192.0.2.1:443")
    return host.strip("[]"), int(port)


def build_greeting(major: int, minor: int, revision: int) -> bytes:
    """The first record."""
    return _HEAD.pack(_MARK, _GREETING.size) + _GREETING.pack(major, minor, revision)


def build_record(endpoint: Endpoint, packet: bytes) -> bytes:
    """A packet to or from an IPv4 endpoint. ValueError for another."""
    return build_records(endpoint, (packet,))


def build_records(endpoint: Endpoint, packets: Sequence[bytes]) -> bytes:
    """As ``build_record``, one after the other."""
    where = _build_ipv4(endpoint)
    parts: list[bytes] = []
    for packet in packets:
        parts += (_build_head(len(packet)), where, packet)
    return b"".join(parts)


@functools.lru_cache(2048)
def _build_head(size: int) -> bytes:
    return _HEAD.pack(_MARK, _TO_PACKET + size)


# To read or write an address as text takes longer than all the rest, and few are used at a time.
@functools.lru_cache(4096)
def _build_ipv4(endpoint: Endpoint) -> bytes:
    return bytes((_IPV4,)) + ipaddress.IPv4Address(endpoint[0]).packed + _PORT.pack(endpoint[1])


@functools.lru_cache(4096)
def _parse_ipv4(packed: bytes) -> Endpoint:
    return str(ipaddress.IPv4Address(packed[1:5])), _PORT.unpack_from(packed, 5)[0]


class RecordReader:
    """Cuts a stream into packets."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.greeting: tuple[int, int, int] | None = None
        """The version of the sender: major, minor, revision."""
        self.others = 0
        """Records so far that held no packet, a greeting included."""

    def feed(self, data: bytes) -> list[tuple[bytes, Endpoint]]:
        """The packets that are whole now, each with where it came from; records of other kinds are passed over. Holds
        one record at the most. WireError where the stream is none of these."""
        stream = bytes(self._held) + data if self._held else data
        packets: list[tuple[bytes, Endpoint]] = []
        at, size, unpack = 0, len(stream), _HEAD.unpack_from
        while size - at >= _HEAD_BYTES:
            mark, length = unpack(stream, at)
            if mark != _MARK or length > MAX_RECORD:
                raise WireError("not a record of a TCP relay")
            start = at + _HEAD_BYTES
            end = start + length
            if size < end:
                break
            if length >= _SHORTEST and stream[start] == _IPV4:
                body = start + _TO_PACKET
                packets.append((stream[body:end], _parse_ipv4(stream[start:body])))
            else:
                self.others += 1
                if length == _GREETING.size:
                    self.greeting = _GREETING.unpack_from(stream, start)
            at = end
        self._held[:] = stream[at:]
        return packets
