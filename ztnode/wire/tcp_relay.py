"""Packets on a TCP connection to a relay, for hosts from which UDP goes nowhere: records that look like those of TLS.

A record is 0x17 0x03 0x03, the length of the rest (2 bytes), and the rest. The first one is a greeting: the version of
its sender in four bytes. Each one after it, either way, is 4 (IPv4), address (4 bytes), port (2 bytes) and a packet: to
where it goes, or from where it came. Source: reference tcp-proxy/tcp-proxy.cpp, OneService.cpp (``phyOnTcpData``,
``nodeWirePacketSendFunction``).
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from ztnode.wire.endpoint import Endpoint
from ztnode.wire.wire_error import WireError

MIN_PACKET: Final = 16
"""Bytes: shorter ones are none, and the relay passes none on."""
_MARK: Final = b"\x17\x03\x03"
_HEAD: Final = struct.Struct(">3sH")
_PACKET: Final = struct.Struct(">3sHB4sH")
_IPV4: Final = 4
_TO_PACKET: Final = _PACKET.size - _HEAD.size
MAX_RECORD: Final = 16384
"""Bytes of the rest: more than any packet has."""


def build_greeting(major: int, minor: int, revision: int) -> bytes:
    """The first record."""
    return _HEAD.pack(_MARK, 4) + struct.pack(">BBH", major, minor, revision)


def build_record(endpoint: Endpoint, packet: bytes) -> bytes:
    """A packet to or from an IPv4 endpoint. ValueError for another."""
    address = ipaddress.IPv4Address(endpoint[0]).packed
    return _PACKET.pack(_MARK, _TO_PACKET + len(packet), _IPV4, address, endpoint[1]) + packet


class RecordReader:
    """Cuts a stream into packets."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, Endpoint]]:
        """The packets that are whole now, each with where it came from; records of other kinds are passed over. Holds
        one record at the most. WireError where the stream is none of these."""
        self._held += data
        packets: list[tuple[bytes, Endpoint]] = []
        at = 0
        while len(self._held) - at >= _HEAD.size:
            mark, length = _HEAD.unpack_from(self._held, at)
            if mark != _MARK or length > MAX_RECORD:
                raise WireError("not a record of a TCP relay")
            end = at + _HEAD.size + length
            if len(self._held) < end:
                break
            if length >= _TO_PACKET + MIN_PACKET and self._held[at + _HEAD.size] == _IPV4:
                _, _, _, address, port = _PACKET.unpack_from(self._held, at)
                endpoint = str(ipaddress.IPv4Address(address)), port
                packets.append((bytes(self._held[at + _PACKET.size : end]), endpoint))
            at = end
        del self._held[:at]
        return packets
