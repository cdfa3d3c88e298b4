"""Ethernet II frames (IEEE 802.3 clause 3, RFC 894) and the multicast addresses that IP derives."""

from __future__ import annotations

import struct
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

HEADER_LENGTH: Final = 14
HEADER: Final = struct.Struct("!6s6sH")
"""Destination, source, EtherType."""

TYPE_IPV4: Final = 0x0800
TYPE_ARP: Final = 0x0806
TYPE_IPV6: Final = 0x86DD

BROADCAST: Final = b"\xff" * 6


def mac_bytes(mac: int) -> bytes:
    """The six bytes, in transmission order, of a MAC kept as an integer."""
    return mac.to_bytes(6, "big")


def is_group(mac: Buffer) -> bool:
    """Whether the address is multicast or broadcast: the I/G bit, the first on the wire."""
    return bool(mac[0] & 1)


def ipv4_multicast(group: bytes) -> bytes:
    """The MAC of an IPv4 multicast group: 01:00:5e and the low 23 bits (RFC 1112 section 6.4)."""
    return b"\x01\x00\x5e" + bytes((group[1] & 0x7F, group[2], group[3]))


def ipv6_multicast(group: bytes) -> bytes:
    """The MAC of an IPv6 multicast group: 33:33 and the last 32 bits (RFC 2464 section 7)."""
    return b"\x33\x33" + group[12:16]


def parse(frame: Buffer) -> tuple[bytes, bytes, int, memoryview]:
    """(destination, source, EtherType, payload view). Link padding, if any, is still at the payload's end.

    Raises WireError for a frame shorter than its header.
    """
    if len(frame) < HEADER_LENGTH:
        raise WireError("Ethernet frame shorter than a header")
    destination, source, ethertype = HEADER.unpack_from(frame)
    return destination, source, ethertype, memoryview(frame)[HEADER_LENGTH:]


def build(destination: bytes, source: bytes, ethertype: int) -> bytes:
    """The 14-byte header."""
    return HEADER.pack(destination, source, ethertype)
