"""Which managed addresses a member has, and which free one it is given. Pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Final

from ztnode.controller.documents import ControlledMember, ControlledNetwork, Pool
from ztnode.wire.computed_ipv6 import rfc4193_address, sixplane_address
from ztnode.wire.network_config import IpAddress, IpInterface

_MAX_TRIALS: Final = 1 << 16
"""Addresses looked at before a pool counts as full: a whole IPv4 /16, and a bound on what one request may cost."""


def routed_prefix(network: ControlledNetwork, address: IpAddress) -> int | None:
    """The prefix length of the longest route that contains ``address``; None: no route does, and a member with that
    address could not use it."""
    return max((r.target.prefixlen for r in network.routes if address in r.target), default=None)


def managed_addresses(network: ControlledNetwork, member: ControlledMember) -> tuple[IpInterface, ...]:
    """What the member's configuration names: the computed IPv6 addresses, then the assigned ones inside a route."""
    addresses: list[IpInterface] = []
    if not member.no_auto_assign_ips:
        if network.rfc4193:
            addresses.append(rfc4193_address(network.nwid, member.address))
        if network.sixplane:
            addresses.append(sixplane_address(network.nwid, member.address))
    for address in member.ip_assignments:
        prefix = routed_prefix(network, address)
        if prefix is not None:
            addresses.append(ipaddress.ip_interface((address, prefix)))
    return tuple(addresses)


def assign(
    network: ControlledNetwork,
    member: ControlledMember,
    taken: Container[IpAddress],
    random: Callable[[int], bytes],
    full: set[Pool] | None = None,
) -> ControlledMember:
    """The member with one more assignment for each family that the network assigns and that it has none of yet.
    ``taken``: every address that some member of the network holds. ``full``: pools in which none was free, which are
    not walked through for each newcomer again; those found so are added."""
    full = set() if full is None else full
    if member.no_auto_assign_ips:
        return member
    held = {a.version for a in member.ip_assignments if routed_prefix(network, a) is not None}
    for version, wanted in ((6, network.v6_assign), (4, network.v4_assign)):
        if not wanted or version in held:
            continue
        for pool in network.pools:
            if pool.first.version != version or pool in full:
                continue
            address = _pick(network, pool, member.address, taken, random)
            if address is not None:
                member = replace(member, ip_assignments=(*member.ip_assignments, address))
                break
            full.add(pool)
    return member


def _pick(
    network: ControlledNetwork, pool: Pool, member: int, taken: Container[IpAddress], random: Callable[[int], bytes]
) -> IpAddress | None:
    """A free address of ``pool``, starting where the member's own address points, so that it tends to get the same one
    again wherever it joins anew (the reference does so too)."""
    size = int(pool.last) - int(pool.first) + 1
    for trial in range(min(size, _MAX_TRIALS)):
        # A pool too large to walk through is nearly empty: any address will do.
        walk = trial == 0 or size <= _MAX_TRIALS
        offset = (member + trial if walk else int.from_bytes(random(16), "big")) % size
        address = pool.first + offset
        if address not in taken and _usable(network, address):
            return address
    return None


def _usable(network: ControlledNetwork, address: IpAddress) -> bool:
    """Whether a host may have ``address``: on a link of the network, and neither its own number nor its broadcast."""
    for route in network.routes:
        target = route.target
        if route.via is not None or address not in target:
            continue
        if target.version == 4 and target.prefixlen < 31:
            return address not in (target.network_address, target.broadcast_address)
        return True
    return False
