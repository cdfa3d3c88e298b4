"""The networks that a node is a member of: joining and leaving, what the user lets each do, what is shown of it, and
the port of the stack that carries it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from ztnode.node import dialing, snapshots
from ztnode.node.api import JoinState, NetworkInfo
from ztnode.node.assembly import Parts
from ztnode.node.conflation import Conflation
from ztnode.node.home import NO_CONFIG
from ztnode.node.network_settings import DEFAULTS
from ztnode.node.ports import Ports
from ztnode.node.supervisor import Supervisor
from ztnode.node.wall_clock import wall_clock
from ztnode.vl2 import NetworkSnapshot
from ztnode.wire.mac import mac_of
from ztnode.wire.multicast import MulticastGroup

FRAME_OVERHEAD: Final = 51
"""Bytes of an EXT_FRAME around an IP packet: header and verb (28), network, flags, two MAC addresses, EtherType."""
CONFIRMED, CACHED = 0, 1
"""Metrics of a network whose controller has answered in this run, and of one that is known from the last run alone."""


class Memberships:
    """What NodeApi says of networks. ``pump`` has the node send what follows."""

    def __init__(self, parts: Parts, ports: Ports, supervisor: Supervisor, pump: Callable[[float], None]) -> None:
        self._vl1 = parts.vl1
        self._vl2 = parts.vl2
        self._home = parts.home
        self._ports = ports
        self._supervisor = supervisor
        self._pump = pump
        self._settings = parts.home.network_settings()
        self._log_ins: dict[int, tuple[str, str]] = {}
        self._watchers: Conflation[int, NetworkInfo] = Conflation()
        self._avoided = parts.local_conf.avoided
        """Physical networks without paths, beside the managed ones."""
        self._vl1.avoid_networks(self._avoided)

    # Looking

    def all(self) -> Sequence[NetworkInfo]:
        """All of them."""
        return [self._info(snapshot) for snapshot in self._vl2.networks()]

    def one(self, nwid: int) -> NetworkInfo | None:
        """See NodeApi.network."""
        snapshot = self._vl2.network(nwid)
        return None if snapshot is None else self._info(snapshot)

    def watch(self) -> AsyncIterator[NetworkInfo]:
        """See NodeApi."""
        return self._watchers.watch((info.nwid, info) for info in self.all())

    def _info(self, snapshot: NetworkSnapshot) -> NetworkInfo:
        settings = self._settings.get(snapshot.nwid, DEFAULTS)
        info = snapshots.network(snapshot, time.monotonic(), wall_clock(), settings)
        return snapshots.with_log_in(info, *self._log_ins.get(snapshot.nwid, ("", "")))

    # Acting

    async def join(self, nwid: int, auth_token: str = "", *, allow_default: bool | None = None) -> NetworkInfo:
        """See NodeApi."""
        if allow_default is not None:
            await self._keep_settings(nwid, {"allow_default": allow_default})
        if auth_token:
            await asyncio.wrap_future(self._home.keep_auth_token(nwid, auth_token))
        if self.one(nwid) is None:
            await self.join_new(nwid, auth_token)
            self._pump(time.monotonic())
        elif auth_token:
            self._vl2.join(nwid, time.monotonic(), auth_token=auth_token)
            self._pump(time.monotonic())
        return self._joined(nwid)

    async def start(self, kept: Mapping[int, bytes], asked: Iterable[int]) -> None:
        """Join those of the last run, with their configurations, and those that were asked for. Raises OSError."""
        tokens = self._home.auth_tokens()
        for nwid, cached in kept.items():
            self._vl2.join(nwid, time.monotonic(), cached=cached, auth_token=tokens.get(nwid, ""))
        for nwid in asked:
            if nwid not in kept:
                await self.join_new(nwid)

    async def join_new(self, nwid: int, auth_token: str = "") -> None:
        """Join a network for the first time. Raises OSError if it cannot be kept on disk."""
        await asyncio.wrap_future(self._home.keep_network(nwid, NO_CONFIG))
        self._vl2.join(nwid, time.monotonic(), auth_token=auth_token)

    async def set(self, nwid: int, settings: Mapping[str, bool]) -> NetworkInfo:
        """See NodeApi.set_network."""
        self._joined(nwid)
        await self._keep_settings(nwid, settings)
        return self._joined(nwid)

    async def leave(self, nwid: int) -> None:
        """See NodeApi."""
        info = self._joined(nwid)
        # On the disk first: a network that the next start would join again was not left.
        self._home.keep_auth_token(nwid, None)
        await asyncio.wrap_future(self._home.keep_network(nwid, None))
        self._settings.pop(nwid, None)
        self._log_ins.pop(nwid, None)
        self._vl2.leave(nwid, time.monotonic())
        self._pump(time.monotonic())
        self._watchers.publish(nwid, snapshots.left(info))

    def show_log_in(self, nwid: int, url: str, detail: str) -> None:
        """Where a person logs in to a network, or (``url`` empty) why that cannot be yet."""
        self._log_ins[nwid] = url, detail
        self._publish(nwid)

    def close(self) -> None:
        """End all watches."""
        self._watchers.close()

    async def _keep_settings(self, nwid: int, settings: Mapping[str, bool]) -> None:
        before = self._settings.get(nwid, DEFAULTS)
        changes: dict[str, Any] = {**settings}
        after = replace(before, **changes)
        if after != before:
            await asyncio.wrap_future(self._home.keep_network_settings(nwid, after))
            self._settings[nwid] = after
            self.changed(nwid)

    def _joined(self, nwid: int) -> NetworkInfo:
        info = self.one(nwid)
        if info is None:
            raise KeyError(nwid)
        return info

    # What follows from a change

    def changed(self, nwid: int) -> None:
        """A network is not as it was: tell the stack, the watchers and VL1."""
        info = self.one(nwid)
        if info is not None and info.addresses and info.state is not JoinState.LEFT:
            self._supervisor.port_up(
                self._ports.open(nwid),
                nwid=nwid,
                mac=info.mac,
                mtu=info.mtu,
                addresses=info.addresses,
                routes=dialing.followed(info),
                # Whether the network still exists is not known until its controller has answered.
                metric=CACHED if info.from_cache else CONFIRMED,
                multicast=info.multicast_limit > 0,
                broadcast=info.broadcast,
            )
        elif (index := self._ports.close(nwid)) is not None:
            self._supervisor.port_down(index)
        self._publish(nwid)
        self._vl1.avoid_networks({*self._managed(), *self._avoided})

    def groups_changed(self, index: int, macs: frozenset[int]) -> None:
        """Sockets of the stack have joined these multicast groups, and no others, at a port."""
        nwid = self._ports.nwid_of.get(index)
        if nwid is not None:
            now = time.monotonic()
            self._vl2.join_groups(nwid, frozenset(MulticastGroup(mac) for mac in macs), now)
            self._pump(now)

    def peer_returned(self, address: int) -> None:
        """A peer that was silent is heard again, or packets to it go by another way: what the stack has for it need not
        wait."""
        for index, nwid in self._ports.nwid_of.items():
            self._supervisor.neighbour_returned(index, mac_of(address, nwid))

    def limit_peer(self, address: int, mtu: int | None) -> None:
        """The way to a peer is narrow: what it sends to us is to be short too, as far as we can have a say in that."""
        longest = None if mtu is None else mtu - FRAME_OVERHEAD
        for index, nwid in self._ports.nwid_of.items():
            self._supervisor.limit_neighbour(index, mac_of(address, nwid), longest)

    def _publish(self, nwid: int) -> None:
        info = self.one(nwid)
        if info is not None:
            self._watchers.publish(nwid, info)

    def _managed(self) -> Iterator[IPv4Network | IPv6Network]:
        # Where ZeroTier runs on this host too, a path to a managed address would lead packets in a circle.
        for network in self._vl2.networks():
            for address in network.addresses:
                yield address.network
