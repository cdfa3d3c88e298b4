"""ARP for IPv4 over Ethernet (RFC 826)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.ethernet import TYPE_IPV4
from ztnode.wire.wire_error import WireError

LENGTH: Final = 28
REQUEST: Final = 1
REPLY: Final = 2

_PACKET: Final = struct.Struct("!HHBBH6s4s6s4s")
_HARDWARE_ETHERNET: Final = 1


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet. MACs are 6 bytes, addresses 4."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


def parse(packet: Buffer) -> Arp:
    """Bytes after the packet (link padding) are ignored.

    Raises WireError when it is short or not IPv4 over Ethernet. Operations other than request and reply are passed
    through: it is the receiver's to ignore them.
    """
    if len(packet) < LENGTH:
        raise WireError("ARP packet too short")
    hardware, protocol, hardware_length, protocol_length, operation, sender_mac, sender, target_mac, target = (
        _PACKET.unpack_from(packet)
    )
    if (hardware, protocol, hardware_length, protocol_length) != (_HARDWARE_ETHERNET, TYPE_IPV4, 6, 4):
        raise WireError("ARP packet is not IPv4 over Ethernet")
    return Arp(operation, sender_mac, sender, target_mac, target)


def build(arp: Arp) -> bytes:
    """The 28 bytes."""
    return _PACKET.pack(
        _HARDWARE_ETHERNET, TYPE_IPV4, 6, 4, arp.operation, arp.sender_mac, arp.sender, arp.target_mac, arp.target
    )
