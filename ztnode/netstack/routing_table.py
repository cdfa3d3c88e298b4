"""The routing table: longest prefix first, over all ports of the stack."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network


@dataclass(frozen=True, slots=True, order=True)
class NextHop:
    """``gateway`` is None for a network that is reached directly. Ordered by preference among equal prefixes."""

    metric: int
    port_index: int
    gateway: bytes | None = None


class RoutingTable:
    """Look-up by prefix length, longest first: one dict probe for every length in use."""

    def __init__(self) -> None:
        # Per address length in bytes: (prefix length, shift, network bits -> routes), longest prefix first.
        self._tables: dict[int, list[tuple[int, int, dict[int, list[NextHop]]]]] = {4: [], 16: []}
        self._routes: dict[int, list[tuple[IPv4Network | IPv6Network, NextHop]]] = {}

    def replace(
        self, port_index: int, connected: Iterable[str], routes: Iterable[tuple[str, str | None]], metric: int = 0
    ) -> None:
        """Set all routes of one port: the prefixes of its addresses, and (target, gateway) pairs.

        A pair whose gateway is of another family than its target is left out. Raises ValueError for text that is no
        network or address.
        """
        parsed: list[tuple[IPv4Network | IPv6Network, NextHop]] = [
            (ip_network(cidr, strict=False), NextHop(metric, port_index)) for cidr in connected
        ]
        for target, via in routes:
            network = ip_network(target, strict=False)
            if via is None:
                parsed.append((network, NextHop(metric, port_index)))
            else:
                gateway = ip_address(via)
                if gateway.version == network.version:
                    parsed.append((network, NextHop(metric, port_index, gateway.packed)))
        self._routes[port_index] = parsed
        self._rebuild()

    def remove(self, port_index: int) -> None:
        """Forget the routes of a port."""
        if self._routes.pop(port_index, None) is not None:
            self._rebuild()

    def _rebuild(self) -> None:
        tables: dict[int, dict[int, dict[int, list[NextHop]]]] = {4: {}, 16: {}}
        for entries in self._routes.values():
            for network, route in entries:
                size = network.max_prefixlen // 8
                bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
                tables[size].setdefault(network.prefixlen, {}).setdefault(bits, []).append(route)
        for size, lengths in tables.items():
            for networks in lengths.values():
                for candidates in networks.values():
                    # A direct route goes before one through a gateway: it is an address's own prefix.
                    candidates.sort(key=lambda route: (route.metric, route.port_index, route.gateway or b""))
            self._tables[size] = [
                (length, size * 8 - length, lengths[length]) for length in sorted(lengths, reverse=True)
            ]

    def lookup(self, destination: bytes, ports: Container[int]) -> NextHop | None:
        """The best route to a packed address by one of the ports named."""
        value = int.from_bytes(destination, "big")
        for _, shift, networks in self._tables[len(destination)]:
            for route in networks.get(value >> shift, ()):
                if route.port_index in ports:
                    return route
        return None
