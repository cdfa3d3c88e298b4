"""ZeroTier addresses (40 bits, 10 hex digits) and network ids (64 bits, 16 hex digits) as people write them."""

from __future__ import annotations

import re
from typing import Final

ADDRESS_BITS: Final = 40
NWID_BITS: Final = 64
ADDRESS_RESERVED_PREFIX: Final = 0xFF
"""No node has an address whose first byte is this: in a packet it marks a fragment (reference: Constants.hpp)."""

_ADDRESS: Final = re.compile(r"[0-9a-fA-F]{10}")
_NWID: Final = re.compile(r"[0-9a-fA-F]{16}")


def is_reserved(address: int) -> bool:
    """Whether no node may have ``address``: zero, or with the reserved first byte (Address::isReserved)."""
    return address == 0 or address >> 32 == ADDRESS_RESERVED_PREFIX


def format_address(address: int) -> str:
    """``address`` as 10 hex digits. ValueError if it does not fit 40 bits."""
    if not 0 <= address < 1 << ADDRESS_BITS:
        raise ValueError(f"a ZeroTier address has 40 bits, and {address:#x} does not fit")
    return f"{address:010x}"


def parse_address(text: str) -> int:
    """The address written as 10 hex digits. ValueError with one clear line otherwise, also for a reserved one."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not a ZeroTier address: 10 hex digits such as 9ad07d0109")
    address = int(text, 16)
    if is_reserved(address):
        raise ValueError(f"{text!r} is a reserved address, which no node can have")
    return address


def format_nwid(nwid: int) -> str:
    """``nwid`` as 16 hex digits. ValueError if it does not fit 64 bits."""
    if not 0 <= nwid < 1 << NWID_BITS:
        raise ValueError(f"a network id has 64 bits, and {nwid:#x} does not fit")
    return f"{nwid:016x}"


def parse_nwid(text: str) -> int:
    """The network id written as 16 hex digits. ValueError with one clear line otherwise, also for zero."""
    if not _NWID.fullmatch(text):
        raise ValueError(f"{text!r} is not a network id: 16 hex digits such as 9ad07d01093a69e3")
    nwid = int(text, 16)
    if nwid == 0:
        raise ValueError("0000000000000000 is not a network id")
    return nwid


def controller_of(nwid: int) -> int:
    """The address of the controller of ``nwid``: its first 40 bits."""
    return nwid >> 24
