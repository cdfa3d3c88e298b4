"""The MAC address of a network's member follows from its ZeroTier address and the NWID. Source: reference MAC.hpp."""

from __future__ import annotations

from typing import Final

BROADCAST: Final = 0xFFFFFFFFFFFF
_MULTICAST_BIT: Final = 1 << 40


def first_octet(nwid: int) -> int:
    """The first octet of every member's MAC on this network: locally administered, unicast, never 0x52 (KVM's)."""
    octet = (nwid & 0xFE) | 0x02
    return 0x32 if octet == 0x52 else octet


def _mask(nwid: int) -> int:
    """The five octets of the NWID (bits 8 to 47, least significant first) that scramble the address."""
    return int.from_bytes(((nwid >> 8) & 0xFFFFFFFFFF).to_bytes(5, "little"), "big")


def mac_of(address: int, nwid: int) -> int:
    """The 48-bit MAC of the member ``address`` (40 bits) on network ``nwid``."""
    return first_octet(nwid) << 40 | (address ^ _mask(nwid))


def address_of(mac: int, nwid: int) -> int:
    """The ZeroTier address behind a MAC of this network; meaningless for a MAC whose first octet is another's."""
    return (mac & 0xFFFFFFFFFF) ^ _mask(nwid)


def is_multicast(mac: int) -> bool:
    """True for a group address, broadcast included."""
    return bool(mac & _MULTICAST_BIT)


def format_mac(mac: int) -> str:
    """``aa:bb:cc:dd:ee:ff``."""
    return mac.to_bytes(6, "big").hex(":")


def parse_mac(text: str) -> int:
    """The inverse of ``format_mac``; ``-`` or nothing between the octets is accepted. Raises ValueError."""
    digits = text.replace(":", "").replace("-", "")
    if len(digits) != 12:
        raise ValueError(f"not a MAC address: {text!r}")
    return int(digits, 16)
