"""Trusted paths: physical networks on which packets are neither encrypted nor authenticated, because whoever runs the
node says so (``physical`` in the reference's local.conf). In the place of the MAC such a packet has the number that
both ends were given for the network (Packet::setTrusted, Topology::shouldInboundPathBeTrusted)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, TypeAlias

TrustedNetwork: TypeAlias = tuple[IPv4Network | IPv6Network, int]
"""A physical network and its number, 1 to 2^64 - 1."""

_MAX_REMEMBERED: Final = 1024


class TrustedPaths:
    """Which endpoints are on a trusted path. False where none is configured."""

    def __init__(self, networks: Sequence[TrustedNetwork]) -> None:
        self._networks = sorted(networks, key=lambda entry: entry[0].prefixlen, reverse=True)
        self._ids: dict[str, tuple[int, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def id_for(self, ip: str) -> int:
        """The number to send to this address with, by its most specific network; 0 where the path is not trusted."""
        ids = self._fitting(ip)
        return ids[0] if ids else 0

    def accepts(self, ip: str, path_id: int) -> bool:
        """Whether a packet with this number may come from this address unprotected."""
        return path_id in self._fitting(ip)

    def _fitting(self, ip: str) -> tuple[int, ...]:
        if not self._networks:
            return ()
        found = self._ids.get(ip)
        if found is None:
            if len(self._ids) >= _MAX_REMEMBERED:
                self._ids.clear()
            address = ip_address(ip)
            found = self._ids[ip] = tuple(path_id for network, path_id in self._networks if address in network)
        return found
