"""The private IPv6 addresses that follow from an NWID and a ZeroTier address by arithmetic alone."""

from __future__ import annotations

from ipaddress import IPv6Interface
from typing import Final

RFC4193_BITS: Final = 88
SIXPLANE_BITS: Final = 40


def rfc4193_address(nwid: int, address: int) -> IPv6Interface:
    """The member's RFC 4193 address, fdNN:NNNN:NNNN:NNNN:NN99:93DD:DDDD:DDDD/88 (reference
    InetAddress::makeIpv6rfc4193)."""
    packed = b"\xfd" + nwid.to_bytes(8, "big") + b"\x99\x93" + address.to_bytes(5, "big")
    return IPv6Interface((packed, RFC4193_BITS))


def sixplane_address(nwid: int, address: int) -> IPv6Interface:
    """The member's 6PLANE address, fcXX:XXXX:XXDD:DDDD:DDDD::1/40, X being both halves of the NWID folded by XOR
    (reference InetAddress::makeIpv66plane). The host owns the whole /80 below it."""
    folded = (nwid ^ (nwid >> 32)) & 0xFFFFFFFF
    packed = b"\xfc" + folded.to_bytes(4, "big") + address.to_bytes(5, "big") + b"\x00\x00\x00\x00\x00\x01"
    return IPv6Interface((packed, SIXPLANE_BITS))
