"""The PROXY protocol, versions 1 and 2, the sender's side: how a server behind a port learns who the peer is.

Source: "The PROXY protocol", versions 1 and 2, HAProxy Technologies, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, TypeAlias

Address: TypeAlias = tuple[str, int]
"""A numeric IPv4 or IPv6 address and a port."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_2_PROXY: Final = 0x21
_TCP: Final = 1
_IPV4: Final = 0x10
_IPV6: Final = 0x20


def build_version_1(source: Address, destination: Address) -> bytes:
    """The line that goes before everything else. Raises ValueError where the two are not of one family."""
    from_ip, to_ip = _pair(source, destination)
    return f"PROXY TCP{from_ip.version} {from_ip} {to_ip} {source[1]} {destination[1]}\r\n".encode("ascii")


def build_version_2(source: Address, destination: Address) -> bytes:
    """The binary header that goes before everything else. Raises ValueError where the two are not of one family."""
    from_ip, to_ip = _pair(source, destination)
    family = _IPV4 if from_ip.version == 4 else _IPV6
    addresses = from_ip.packed + to_ip.packed + struct.pack("!HH", source[1], destination[1])
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, family | _TCP, len(addresses)) + addresses


def _pair(
    source: Address, destination: Address
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ipaddress.IPv4Address | ipaddress.IPv6Address]:
    from_ip = ipaddress.ip_address(source[0])
    to_ip = ipaddress.ip_address(destination[0])
    if from_ip.version != to_ip.version:
        raise ValueError(f"{from_ip} and {to_ip} are not of one family")
    return from_ip, to_ip
