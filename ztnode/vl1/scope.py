"""IP scopes: which physical addresses make paths, and which of two makes the better one.

The classes and their order are InetAddress::ipScope's in the reference; the order is a preference.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from ztnode.wire.endpoint import Endpoint


class Scope(IntEnum):
    """From how far an address can be reached; higher values make better paths."""

    NONE = 0
    MULTICAST = 1
    LOOPBACK = 2
    PSEUDOPRIVATE = 3
    """Assigned, but used by many as if private: 6.0.0.0/8, 11.0.0.0/8 and others."""
    GLOBAL = 4
    LINK_LOCAL = 5
    SHARED = 6
    PRIVATE = 7


PATH_SCOPES: Final = frozenset((Scope.PSEUDOPRIVATE, Scope.GLOBAL, Scope.SHARED, Scope.PRIVATE))
"""Scopes that paths may have (Path::isAddressValidForPath). Link-local addresses need an interface name to mean
anything, which no packet carries."""

_PSEUDOPRIVATE_V4: Final = frozenset((6, 11, 21, 22, 25, 26, 28, 29, 30, 51, 55, 56))
_PRIVATE_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "192.0.2.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
)
_LOOPBACK_DEVICE: Final = IPv6Address("fe80::1")
_UNIQUE_LOCAL_V6: Final = IPv6Network("fc00::/7")


@lru_cache(maxsize=4096)
def scope_of(ip: str) -> Scope:
    """The scope of a numeric IPv4 or IPv6 address; ``Scope.NONE`` for anything else."""
    try:
        address = ip_address(ip)
    except ValueError:
        return Scope.NONE
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return _scope_of_v6(address)
        address = address.ipv4_mapped
    return _scope_of_v4(address)


def _scope_of_v4(address: IPv4Address) -> Scope:
    first = address.packed[0]
    if first in (0, 255):
        return Scope.NONE
    if address.is_loopback:
        return Scope.LOOPBACK
    if address.is_link_local:
        return Scope.LINK_LOCAL
    if address.is_multicast:
        return Scope.MULTICAST
    if any(address in network for network in _PRIVATE_V4):
        return Scope.PRIVATE
    if first in _PSEUDOPRIVATE_V4 or first >= 240:
        return Scope.PSEUDOPRIVATE
    return Scope.GLOBAL


def _scope_of_v6(address: IPv6Address) -> Scope:
    if address.is_unspecified or address.scope_id is not None:
        return Scope.NONE
    if address.is_loopback or address == _LOOPBACK_DEVICE:
        return Scope.LOOPBACK
    if address.is_multicast:
        return Scope.MULTICAST
    if address.is_link_local:
        return Scope.LINK_LOCAL
    if address in _UNIQUE_LOCAL_V6:
        return Scope.PRIVATE
    return Scope.GLOBAL


def is_ipv6(endpoint: Endpoint) -> bool:
    """Whether the endpoint's address is an IPv6 one."""
    return ":" in endpoint[0]
