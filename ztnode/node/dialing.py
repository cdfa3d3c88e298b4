"""A dial's second chances and last words, which take a look at the networks that the stack does not have."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Final, TypeVar

from ztnode.node.api import DialError, JoinState, NetworkInfo
from ztnode.wire.address import format_nwid

PAUSE: Final = 0.25
"""Seconds between two tries."""
_T = TypeVar("_T")


def concerned(networks: Sequence[NetworkInfo], host: str, nwid: int | None) -> list[NetworkInfo]:
    """The networks in which ``host``, a numeric address, may be."""
    if nwid is not None:
        return [network for network in networks if network.nwid == nwid]
    address = ip_address(host.partition("%")[0])
    targets = {
        network.nwid: [ip_network(cidr, strict=False) for cidr in network.addresses]
        + [ip_network(route.target, strict=False) for route in network.routes if route.via is None]
        for network in networks
    }
    return [network for network in networks if any(address in target for target in targets[network.nwid])]


def followed(network: NetworkInfo) -> list[tuple[str, str | None]]:
    """The managed routes that the stack is to take: target and gateway. A default route, which would draw everything,
    only where the user allows it (the reference's ``allowDefault``), or where it is ourselves that it leads to."""
    own = {address.partition("/")[0] for address in network.addresses}
    return [
        (route.target, route.via)
        for route in network.routes
        if network.settings.allow_default or route.via in own or ip_network(route.target, strict=False).prefixlen
    ]


async def persist(
    dial: Callable[[float], Awaitable[_T]], is_lonely: Callable[[], bool], timeout: float, *, pause: float = PAUSE
) -> _T:
    """Dial again while the host "does not answer" only because nobody can have heard the question: no member of the
    network is known yet. ``dial`` is told how many seconds are left. Raises DialError."""
    now = asyncio.get_running_loop().time
    deadline = now() + timeout
    unheard: DialError | None = None
    while True:
        try:
            return await dial(max(deadline - now(), 0.0))
        except DialError as error:
            if error.errno == errno.ETIMEDOUT and unheard is not None:
                # The last try's short rest is over, and its words are of that alone.
                raise unheard from None
            if error.errno != errno.EHOSTUNREACH or not is_lonely():
                raise
            unheard = DialError(error.errno, f"{error.strerror}; no other member of its network is known so far")
            if now() + pause >= deadline:
                raise unheard from error
        await asyncio.sleep(pause)


def explained(
    error: DialError, networks: Sequence[NetworkInfo], host: str, nwid: int | None, *, online: bool
) -> DialError:
    """The error, with the network and its state, or that the node is offline, where that is the likely reason."""
    if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT):
        return error
    reasons = [] if online else ["this node is offline: no root answers"]
    if error.errno != errno.ETIMEDOUT:
        suspects = concerned(networks, host, nwid) or [network for network in networks if not network.addresses]
        reasons += [
            f"network {format_nwid(network.nwid)} is {network.state.value.replace('_', ' ')}"
            + (f" ({network.detail})" if network.detail else "")
            for network in suspects
            if network.state is not JoinState.OK
        ]
    if not reasons:
        return error
    return DialError(error.errno, f"{error.strerror}; " + "; ".join(reasons[:3]))
