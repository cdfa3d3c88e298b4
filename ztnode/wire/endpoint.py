"""Physical addresses and how ZeroTier serialises them (reference: InetAddress.hpp, serialize/deserialize)."""

from __future__ import annotations

import functools
import ipaddress
from typing import Final, TypeAlias

from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

Endpoint: TypeAlias = tuple[str, int]
"""A numeric IPv4 or IPv6 address (no brackets, no scope) and a UDP port."""

_NIL: Final = 0x00
_ETHERNET: Final = 0x01
_BLUETOOTH: Final = 0x02
_OTHER: Final = 0x03
_IPV4: Final = 0x04
_IPV6: Final = 0x06


def format_endpoint(endpoint: Endpoint) -> str:
    """As people write it: ``192.0.2.1:9993`` or ``[2001:db8::1]:9993``."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def build_ip(ip: str) -> bytes:
    """The 4 or 16 bytes of a numeric address in network order. ValueError if it is none, or has a scope."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{ip!r} has a scope, which has no meaning to another host")
    return address.packed


def parse_ip(packed: bytes) -> str:
    """The numeric address in 4 or 16 bytes of network order. WireError for any other length."""
    if len(packed) == 4:
        return str(ipaddress.IPv4Address(packed))
    if len(packed) == 16:
        return str(ipaddress.IPv6Address(packed))
    raise WireError(f"an IP address has 4 or 16 bytes, not {len(packed)}")


@functools.lru_cache(1024)
def ip_text(packed: bytes) -> str:
    """As ``parse_ip``, for those that come again and again. No views: they would be kept."""
    return parse_ip(packed)


@functools.lru_cache(1024)
def ip_bytes(ip: str) -> bytes:
    """The 4 or 16 bytes of a numeric address that comes again and again, without its scope. ValueError if none."""
    return ipaddress.ip_address(ip).packed


def parse_endpoint_from(reader: Reader) -> Endpoint | None:
    """Read one serialised address: None for nil and for the kinds that exist but mean nothing over IP."""
    kind = reader.u8()
    if kind == _IPV4:
        return parse_ip(reader.take(4)), reader.u16()
    if kind == _IPV6:
        return parse_ip(reader.take(16)), reader.u16()
    if kind == _NIL:
        return None
    if kind in (_ETHERNET, _BLUETOOTH):
        reader.skip(6)
        return None
    if kind == _OTHER:
        reader.skip(reader.u16())
        return None
    raise WireError(f"unknown physical address type {kind:#04x}")


def build_endpoint(endpoint: Endpoint | None) -> bytes:
    """Serialise an address; None becomes the nil address. ValueError if it is no numeric IP address and port."""
    if endpoint is None:
        return bytes((_NIL,))
    ip, port = endpoint
    packed = build_ip(ip)
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"{port} is not a UDP port")
    return bytes((_IPV4 if len(packed) == 4 else _IPV6,)) + packed + port.to_bytes(2, "big")
