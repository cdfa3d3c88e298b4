"""Which networks this node is the gateway to: who asked for what, and what all of that comes to."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_interface, ip_network
from typing import Final, TypeAlias

from ztnode.node.api import GatewayInfo, NetworkInfo

Network: TypeAlias = IPv4Network | IPv6Network

FLOWS: Final = 4096
"""At a time, unless it is said how many."""
MAX_FLOWS: Final = 65536
MAX_TARGETS: Final = 4096
"""Networks that the targets of all gateways may come to."""
SPECIAL: Final = tuple(
    ip_network(cidr)
    for cidr in (
        "0.0.0.0/8",  # this host: Linux takes it for loopback
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "224.0.0.0/4",
        "240.0.0.0/4",
        "100.100.100.200/32",  # metadata services outside link-local: Alibaba,
        "168.63.129.16/32",  # Azure,
        "192.0.0.192/32",  # Oracle,
        "fd00:ec2::/32",  # Amazon,
        "fd20:ce::254/128",  # Google,
        "fd00:c1::a9fe:a9fe/128",  # Oracle,
        "fd00:42::42/128",  # Scaleway
        "::/96",  # unspecified, loopback, and IPv4 addresses in an obsolete form
        "::ffff:0:0/96",  # IPv4 addresses once more,
        "64:ff9b::/96",  # by NAT64 (RFC 6052),
        "64:ff9b:1::/48",  # of whichever prefix (RFC 8215),
        "2002::/16",  # by 6to4
        "2001::/32",  # and by Teredo
        "fe80::/10",
        "fec0::/10",  # site-local, as of old
        "ff00::/8",
    )
)
"""What a wider target does not stand for: the host itself, its link, groups, IPv4 addresses in disguise, and the
services that tell a cloud's machine its secrets. To reach them through a gateway they must be named, by a network
inside one of these."""


def targets(named: Sequence[str], excepted: Sequence[str] = ()) -> list[Network]:
    """The networks that lie in ``named`` (CIDR, or one address) but not in ``excepted`` nor, unless named for
    themselves, in ``SPECIAL``. Raises ValueError for what is no network, or for nothing left."""
    without = [parse(text) for text in excepted]
    found: list[Network] = []
    for text in named:
        target = parse(text)
        special = [each for each in SPECIAL if each.version == target.version and not _within(target, each)]
        found += _subtract(target, [*special, *without])
    collapsed = _collapse(found)
    if not collapsed:
        raise ValueError("nothing is left to lead to: the exceptions cover all that was named")
    if len(collapsed) > MAX_TARGETS:
        raise ValueError(f"these are {len(collapsed)} networks after the exceptions; {MAX_TARGETS} at most")
    return collapsed


def parse(text: str) -> Network:
    """A network as people write it: CIDR, or one address. Raises ValueError with one line for a person."""
    try:
        return ip_network(text)
    except ValueError as error:
        try:
            wider = ip_interface(text).network
        except ValueError:
            raise ValueError(f"{text!r} is no network, such as 192.168.55.0/24") from error
        raise ValueError(f"{text} has bits beyond its prefix: is {wider} meant?") from None


def _within(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type] # of one version


def _subtract(target: Network, without: Iterable[Network]) -> list[Network]:
    left = [target]
    for hole in without:
        if hole.version != target.version:
            continue
        pieces: list[Network] = []
        for piece in left:
            if _within(hole, piece):
                pieces += piece.address_exclude(hole)  # type: ignore[arg-type] # of one version
            elif not _within(piece, hole):
                pieces.append(piece)
        left = pieces
    return left


def _collapse(networks: Iterable[Network]) -> list[Network]:
    found = list(networks)
    four = collapse_addresses(each for each in found if isinstance(each, IPv4Network))
    six = collapse_addresses(each for each in found if isinstance(each, IPv6Network))
    return [*four, *six]


@dataclass(frozen=True, slots=True)
class _Gateway:
    named: tuple[str, ...]
    targets: list[Network]
    flows: int


class Gateways:
    """All gateways of one node. ``tell`` is told, at each change, all targets and how many flows there may be."""

    def __init__(self, tell: Callable[[Sequence[str], int], None]) -> None:
        self._tell = tell
        self._open: dict[int, _Gateway] = {}
        self._ids = itertools.count(1)

    def open(self, named: Sequence[str], excepted: Sequence[str], flows: int) -> int:
        """One more. Raises ValueError."""
        if not 0 <= flows <= MAX_FLOWS:
            raise ValueError(f"a gateway may have 1 to {MAX_FLOWS} flows, not {flows}")
        gateway = _Gateway(tuple(named), targets(named, excepted), flows or FLOWS)
        number = next(self._ids)
        self._open[number] = gateway
        try:
            self._changed()
        except ValueError:
            del self._open[number]
            raise
        return number

    def close(self, number: int) -> None:
        """One less. Raises KeyError."""
        del self._open[number]
        self._changed()

    def describe(self, number: int, networks: Sequence[NetworkInfo]) -> GatewayInfo:
        """How one stands with the managed routes of the joined networks. Raises KeyError."""
        gateway = self._open[number]
        routed: list[tuple[int, str, str]] = []
        led: list[Network] = []
        for network in networks:
            own = {str(ip_interface(address).ip) for address in network.addresses}
            for route in network.routes:
                target = ip_network(route.target, strict=False)
                if route.via in own and any(_within(target, each) or _within(each, target) for each in gateway.targets):
                    routed.append((network.nwid, route.target, route.via))
                    led.append(target)
        unrouted = tuple(text for text in gateway.named if _subtract(ip_network(text), led))
        return GatewayInfo(tuple(routed), unrouted, pings())

    def _changed(self) -> None:
        wanted = _collapse(target for gateway in self._open.values() for target in gateway.targets)
        if len(wanted) > MAX_TARGETS:
            raise ValueError(f"the gateways of this node come to {len(wanted)} networks; {MAX_TARGETS} at most")
        flows = max((gateway.flows for gateway in self._open.values()), default=0)
        self._tell([str(target) for target in wanted], flows)


def pings() -> tuple[int, ...]:
    """The versions of IP in which the kernel has unprivileged sockets for pings for this process."""
    allowed = []
    for version, family, protocol in (
        (4, socket.AF_INET, socket.IPPROTO_ICMP),
        (6, socket.AF_INET6, socket.IPPROTO_ICMPV6),
    ):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM, protocol):
            allowed.append(version)
    return tuple(allowed)
