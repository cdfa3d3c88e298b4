"""Answers to neighbour solicitations that need nobody's help: RFC 4193 and 6PLANE addresses name their member.

Source: reference Switch::onLocalEthernet (NDP emulation).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Interface
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.computed_ipv6 import RFC4193_BITS, SIXPLANE_BITS, rfc4193_address, sixplane_address
from ztnode.wire.mac import mac_of
from ztnode.wire.network_config import IpInterface

_ICMPV6: Final = 0x3A
_SOLICITATION: Final = 0x87
_IPV6_HEADER: Final = 40
_TARGET: Final = slice(48, 64)
_ADVERTISEMENT_HEAD: Final = b"\x60\x00\x00\x00\x00\x20\x3a\xff"
"""IPv6 header up to the source address: 32 bytes of ICMPv6 with hop limit 255."""
_SOLICITED_OVERRIDE: Final = b"\x60\x00\x00\x00"
_TARGET_LINK_ADDRESS: Final = b"\x02\x01"


def solicited_target(packet: Buffer) -> IPv6Address | None:
    """The address that a neighbour solicitation (given as IPv6 packet) asks for; None if it is something else."""
    if len(packet) < _TARGET.stop or packet[6] != _ICMPV6 or packet[_IPV6_HEADER] != _SOLICITATION:
        return None
    return IPv6Address(bytes(packet[_TARGET]))


def embedded_address(target: IPv6Address, nwid: int, assigned: Iterable[IpInterface]) -> tuple[int, IPv6Address] | None:
    """The ZeroTier address inside ``target`` and our own address of the same family; None if it is of neither family or
    we have no address of that family."""
    packed = target.packed
    for interface in assigned:
        if not isinstance(interface, IPv6Interface):
            continue
        bits = interface.network.prefixlen
        if bits == RFC4193_BITS:
            prefix, embedded = rfc4193_address(nwid, 0).packed[:11], packed[11:]
        elif bits == SIXPLANE_BITS:
            prefix, embedded = sixplane_address(nwid, 0).packed[:5], packed[5:10]
        else:
            continue
        if interface.packed.startswith(prefix) and packed.startswith(prefix):
            return int.from_bytes(embedded, "big"), interface.ip
    return None


def advertisement(target: IPv6Address, destination: IPv6Address, address: int, nwid: int) -> bytes:
    """The IPv6 packet by which the member ``address`` would advertise ``target`` (RFC 4861, 4.4)."""
    mac = mac_of(address, nwid).to_bytes(6, "big")
    addresses = target.packed + destination.packed
    body = _SOLICITED_OVERRIDE + target.packed + _TARGET_LINK_ADDRESS + mac
    pseudo = addresses + b"\x00\x00\x00\x20\x00\x00\x00\x3a" + b"\x88\x00\x00\x00" + body
    total = sum(int.from_bytes(pseudo[at : at + 2], "big") for at in range(0, len(pseudo), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = (~total & 0xFFFF).to_bytes(2, "big")
    return _ADVERTISEMENT_HEAD + addresses + b"\x88\x00" + checksum + body
