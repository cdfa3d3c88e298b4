"""The node: its parts joined on one event loop, and what the control plane may do with them. Glue alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ztnode import __version__
from ztnode.node import dialing, snapshots
from ztnode.node.api import (
    DEFAULT_STREAM,
    ConnectionInfo,
    DialError,
    GatewayInfo,
    Handoff,
    MoonInfo,
    NetworkInfo,
    NetworkRules,
    NodeStatus,
    PeerInfo,
    StreamOptions,
    Whois,
)
from ztnode.node.assembly import Parts
from ztnode.node.conflation import Conflation
from ztnode.node.data_path import DataPath
from ztnode.node.events import Events
from ztnode.node.figures import Dials, NodeFigures, TraceDial, untraced
from ztnode.node.gateways import Gateways
from ztnode.node.host_watch import HostWatch
from ztnode.node.identity_conflicts import IdentityConflicts
from ztnode.node.identity_pool import IdentityChecks
from ztnode.node.keeping import Writes
from ztnode.node.lanes import Lanes
from ztnode.node.memberships import Memberships
from ztnode.node.moon_orbits import MoonOrbits
from ztnode.node.options import NodeOptions
from ztnode.node.peer_memory import PeerMemory
from ztnode.node.ports import Ports
from ztnode.node.root_watch import RootWatch
from ztnode.node.supervisor import Supervisor
from ztnode.node.transports import is_tcp, relay_use
from ztnode.vl1 import Peer
from ztnode.wire.endpoint import Endpoint, format_endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.mac import address_of, first_octet, format_mac

if TYPE_CHECKING:  # loaded where a node is a controller
    from ztnode.node.administration import Administration


class Node:
    """A running node; the control plane's ``NodeApi``. Made by ``start``, which calls ``begin``."""

    def __init__(self, options: NodeOptions, parts: Parts) -> None:
        self._options = options
        self._parts = parts
        self._home = parts.home
        self._vl1 = parts.vl1
        self._vl2 = parts.vl2
        self._transport = parts.transport
        self.controller = parts.controller
        self.administration: Administration | None = None
        """What the control plane may do with the controller; None on a node that is none."""
        if parts.controller is not None:
            from ztnode.node.administration import Administration

            self.administration = Administration(parts.controller, self._pump_now)
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._dials = Dials()
        ports = Ports()
        self._path = DataPath(parts, ports, self._turn_ended)
        pump = self._path.pump
        self._supervisor = Supervisor(
            options.state,
            self._path.send_frames,
            on_groups=lambda index, macs: self._memberships.groups_changed(index, macs),
            workers=options.workers,
            congestion=options.congestion,
            on_opened=self._dials.opened.observe,
        )
        self._path.to_stack = self._supervisor.send_frames
        if options.lanes and parts.lease is None:
            # With a lease another node may be this one any moment, and then not a word more may be said.
            lanes = Lanes(parts.vl1, parts.vl2, parts.transport, ports, self._supervisor)
            self._path.lanes = lanes
            self._supervisor.on_lane_used = self._path.lane_used
            self._supervisor.on_lane_refused = lanes.refused
            self._supervisor.on_lanes_lost = lanes.end_all
        self._gateways = Gateways(self._supervisor.set_gateway)
        self._ports = ports
        self._memberships = Memberships(parts, ports, self._supervisor, pump)
        self._moons = MoonOrbits(parts.vl1, parts.home, pump)
        self._host = HostWatch(options.state, parts, pump)
        self._conflicts = IdentityConflicts(parts.vl1)
        self._online_watchers: Conflation[None, bool] = Conflation()
        self._roots = RootWatch(self._loop, lambda: parts.transport.in_use)
        self._checks = IdentityChecks()
        self._writes = Writes()
        self._memory = PeerMemory(parts.vl1, parts.home, self._writes)
        self._events = Events(
            parts,
            memberships=self._memberships,
            host=self._host,
            roots=self._roots,
            conflicts=self._conflicts,
            writes=self._writes,
            online=self._online_watchers,
            administration=self.administration,
        )
        self._counted: dict[str, Mapping[str, int]] = {}
        if self._path.lanes is not None:
            self._counted["lanes"] = self._path.lanes.counters
        self._closed = False

    # Life

    async def begin(self) -> None:
        """Go on where ``start`` greeted the roots, as far as the workers start."""
        parts, options = self._parts, self._options
        parts.transport.on_another = self._greet_again
        parts.transport.answers = lambda: parts.vl1.counters["answers"]
        parts.transport.answered = lambda: parts.vl1.answered_from_afar
        parts.transport.heard = lambda: parts.vl1.heard_from_afar
        parts.transport.ask = self._ask_afar
        if port := self._host.port:
            self._writes.watch(self._home.keep_port(port), "the UDP port")
        self._host.start(map_port=options.port_mapping and parts.local_conf.port_mapping is not False)
        await self._memberships.start(parts.kept_networks, options.networks)
        self._pump_now()
        parts.transport.hand_to(self._path.receive)
        for batch in parts.early.take():
            self._path.receive(batch)
        if parts.early.dropped:
            parts.vl1.counters["drop_early"] += parts.early.dropped
        self._memory.start()
        await self._supervisor.start()

    async def ready(self) -> None:
        """Wait until every stack worker serves. Raises OSError when one does not come up."""
        await self._supervisor.ready()

    async def close(self) -> None:
        """End everything that this node started; done within two seconds."""
        if self._closed:
            return
        self._closed = True
        self._path.close()
        self._host.stop_looking()
        if self._options.ephemeral:
            self._vl2.say_goodbye(time.monotonic())
            self._path.flush()
        self._memberships.close()
        self._online_watchers.close()
        self._conflicts.close()
        self._roots.close()
        if self.administration is not None:
            self.administration.close()
        await self._host.close()
        await self._supervisor.stop()
        await self._transport.close()
        await self._checks.close()
        self._memory.close()
        await asyncio.to_thread(self._home.close)

    async def lease_lost(self) -> str:
        """Return once another node may run with this state, with why; from then on nothing is sent. Never, where
        nothing can take it from this one."""
        lost: asyncio.Future[str] = self._loop.create_future()

        def tell(why: str) -> None:
            self._loop.call_soon_threadsafe(_settle, lost, why)

        if self._parts.lease is not None:
            self._parts.lease.when_lost(tell)
        return await lost

    # What follows from what

    def _turn_ended(self) -> None:
        self._events.handle()
        for identity in self._vl1.identity_checks():
            # The memory-hard check of a stranger's identity takes a twentieth of a second: in a process of its own.
            self._checks.begin(identity, self._identity_checked)

    def _identity_checked(self, identity: Identity, valid: bool) -> None:
        now = time.monotonic()
        self._vl1.identity_checked(identity, valid, now)
        self._path.pump(now)

    def _greet_again(self) -> None:
        """Another transport is there: roots and peers need not wait for their turn."""
        self._vl1.greet_again()
        self._pump_now()

    def _ask_afar(self) -> None:
        """Nothing is answered: is it the peer, or the transport?"""
        self._vl1.ask_afar(time.monotonic())
        self._pump_now()

    def _pump_now(self) -> None:
        self._path.pump(time.monotonic())

    # NodeApi

    def status(self) -> NodeStatus:
        """See NodeApi."""
        to_stack, from_stack = self._supervisor.traffic()
        counters = {
            **snapshots.prefixed("vl1", self._vl1.counters),
            **snapshots.prefixed("vl2", self._vl2.counters),
            **snapshots.prefixed("worker", self._supervisor.counters),
            "worker.bytes_to_worker": to_stack,
            "worker.bytes_from_worker": from_stack,
            "transport.drop_send": self._path.send_drops,
            **snapshots.prefixed("transport", self._transport.counters),
        }
        if self.controller is not None:
            counters.update(snapshots.prefixed("controller", self.controller.counters))
        for part, counted in self._counted.items():
            counters.update(snapshots.prefixed(part, counted))
        return NodeStatus(
            address=self._vl1.identity.address,
            public_identity=self._vl1.identity.build_text(),
            online=self._vl1.online,
            version=__version__,
            uptime=time.monotonic() - self._started,
            planet_id=self._vl1.planet.id,
            planet_timestamp=self._vl1.planet.timestamp,
            listening=tuple(format_endpoint(endpoint) for endpoint in self._transport.local_endpoints()),
            surface_addresses=tuple(format_endpoint(endpoint) for endpoint in self._vl1.surface_addresses),
            workers=self._supervisor.workers(),
            counters=counters,
            identity_conflict=self._conflicts.text(),
            transport=self._transport.in_use,
            mapped_address="" if self._host.mapped is None else format_endpoint(self._host.mapped),
            tcp_relay=is_tcp(self._transport.in_use),
            port_mapping=self._host.asks_router,
            tcp_relay_use=relay_use(self._transport.names),
        )

    def count(self, part: str, counters: Mapping[str, int]) -> None:
        """Show these, of a part that works beside the node, among its own."""
        self._counted[part] = counters

    def figures(self) -> NodeFigures:
        """What was counted."""
        return NodeFigures(
            traffic=self._vl1.traffic,
            peers=self._vl1.peers(),
            datagrams=self._path.figures(),
            networks=self._vl2.figures(),
            dials=self._dials,
            controller=None if self.administration is None else self.administration.figures(),
        )

    def local_conf(self) -> bytes | None:
        """``local.conf`` of the home as it is; None where there is none."""
        return self._home.local_conf_text()

    async def keep_local_conf(self, data: bytes) -> None:
        """Write ``local.conf``; the next start acts on it. Raises OSError."""
        await asyncio.wrap_future(self._home.keep_local_conf(data))

    def networks(self) -> Sequence[NetworkInfo]:
        """See NodeApi."""
        return self._memberships.all()

    def network(self, nwid: int) -> NetworkInfo | None:
        """See NodeApi."""
        return self._memberships.one(nwid)

    def rules(self, nwid: int) -> NetworkRules | None:
        """See NodeApi."""
        config = self._vl2.config(nwid)
        return None if config is None else snapshots.rules(config)

    def show_log_in(self, nwid: int, url: str, detail: str) -> None:
        """Where a person logs in to a network, or (``url`` empty) why that cannot be yet."""
        self._memberships.show_log_in(nwid, url, detail)

    def ask_controller(self, nwid: int) -> None:
        """Something was done that may change what a network's controller says."""
        self._vl2.ask_again(nwid, time.monotonic())
        self._pump_now()

    def peers(self) -> Sequence[PeerInfo]:
        """See NodeApi."""
        return self._described(self._vl1.peers())

    def peer(self, address: int) -> PeerInfo | None:
        """See NodeApi."""
        found = self._vl1.peer(address)
        return None if found is None else self._described([found])[0]

    def peer_traffic(self, address: int) -> tuple[int, int] | None:
        """See NodeApi."""
        found = self._vl1.peer(address)
        return None if found is None else (found.received, found.sent)

    def network_traffic(self, nwid: int) -> tuple[int, int] | None:
        """See NodeApi."""
        for network in self._vl2.figures():
            if network.nwid == nwid:
                return network.bytes_received, network.bytes_sent
        return None

    def _described(self, peers: Iterable[Peer]) -> list[PeerInfo]:
        now = time.monotonic()
        roots = {root.identity.address for root in self._vl1.planet.roots}
        moon_roots = {root.identity.address for moon in self._vl1.moons for root in moon.roots}
        return [snapshots.peer(peer, roots, moon_roots, now) for peer in peers]

    def moons(self) -> Sequence[MoonInfo]:
        """See NodeApi."""
        return self._moons.all()

    async def orbit(self, moon: int, seed: int) -> MoonInfo:
        """See NodeApi."""
        return await self._moons.orbit(moon, seed)

    async def orbit_world(self, data: bytes) -> MoonInfo:
        """See NodeApi."""
        return await self._moons.orbit_world(data)

    async def deorbit(self, moon: int) -> None:
        """See NodeApi."""
        await self._moons.deorbit(moon)

    async def join(self, nwid: int, auth_token: str = "", *, allow_default: bool | None = None) -> NetworkInfo:
        """See NodeApi."""
        return await self._memberships.join(nwid, auth_token, allow_default=allow_default)

    async def set_network(self, nwid: int, settings: Mapping[str, bool]) -> NetworkInfo:
        """See NodeApi."""
        return await self._memberships.set(nwid, settings)

    async def leave(self, nwid: int) -> None:
        """See NodeApi."""
        await self._memberships.leave(nwid)

    def watch(self) -> AsyncIterator[NetworkInfo]:
        """See NodeApi."""
        return self._memberships.watch()

    def watch_online(self) -> AsyncIterator[bool]:
        """See NodeApi."""
        return self._online_watchers.watch([(None, self._vl1.online)])

    def watch_identity(self) -> AsyncIterator[str]:
        """See NodeApi."""
        return self._conflicts.watch()

    @property
    def direct_dials(self) -> bool:
        """See NodeApi."""
        return self._options.workers == 1 and self._dials.traced is untraced

    async def dial(
        self,
        host: str,
        port: int,
        *,
        nwid: int | None = None,
        timeout: float = 30.0,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> Handoff:
        """See NodeApi."""

        def is_lonely() -> bool:
            return any(self._vl2.is_lonely(network.nwid) for network in dialing.concerned(self.networks(), host, nwid))

        async def once(left: float) -> Handoff:
            return await self._supervisor.dial(host, port, nwid=nwid, timeout=left, options=options)

        started = time.monotonic()
        with self._dials.traced(host, port, nwid):
            try:
                opened = await dialing.persist(once, is_lonely, timeout)
                self._dials.opened.observe(time.monotonic() - started)
                return opened
            except DialError as error:
                self._dials.failure(error)
                raise self._explained(error, host, nwid) from error

    def trace_dials(self, traced: TraceDial | None) -> None:
        """Have ``traced`` go around each dial; None: nothing any more."""
        self._dials.traced = traced or untraced

    def _explained(self, error: DialError, host: str, nwid: int | None) -> DialError:
        return dialing.explained(error, self.networks(), host, nwid, online=self._vl1.online)

    async def listen(
        self,
        host: str | None,
        port: int,
        *,
        nwid: int | None = None,
        backlog: int = 128,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> tuple[int, Endpoint]:
        """See NodeApi."""
        return await self._supervisor.listen(host, port, nwid=nwid, backlog=backlog, options=options)

    def open_gateway(self, targets: Sequence[str], excepted: Sequence[str] = (), *, flows: int = 0) -> int:
        """See NodeApi."""
        return self._gateways.open(targets, excepted, flows)

    def gateway(self, gateway: int) -> GatewayInfo:
        """See NodeApi."""
        return self._gateways.describe(gateway, self.networks())

    def close_gateway(self, gateway: int) -> None:
        """See NodeApi."""
        self._gateways.close(gateway)

    async def whois(self, ip: str, *, nwid: int | None = None) -> Whois:
        """See NodeApi."""
        try:
            found = await self._supervisor.find_neighbour(ip, nwid=nwid)
        except DialError as error:
            raise self._explained(error, ip, nwid) from error
        on = self._ports.nwid_of.get(found.index)
        if on is None:
            raise DialError(errno.ENETDOWN, f"the network of {ip} was left")
        address = address_of(found.mac, on)
        if found.mac >> 40 != first_octet(on):
            raise DialError(errno.EHOSTUNREACH, f"{ip} is behind a bridge: {format_mac(found.mac)} is no member's MAC")
        own = address == self._vl1.identity.address
        peer = self._vl1.peer(address)
        identity = self._vl1.identity if own else None if peer is None else peer.identity
        name = ""
        if self.administration is not None:
            with contextlib.suppress(KeyError):
                name = self.administration.member(on, address).name
        return Whois(
            ip=ip,
            gateway=None if found.address == ip else found.address,
            nwid=on,
            mac=found.mac,
            address=address,
            public_identity="" if identity is None else identity.build_text(),
            peer=self.peer(address),
            name=name,
        )

    async def connections(self) -> Sequence[ConnectionInfo]:
        """See NodeApi."""
        return await self._supervisor.connections()

    def attended(self, listener: int) -> Handoff | None:
        """See NodeApi."""
        return self._supervisor.attended(listener)

    async def accept(self, listener: int) -> Handoff:
        """See NodeApi."""
        return await self._supervisor.accept(listener)

    async def close_listener(self, listener: int) -> None:
        """See NodeApi."""
        await self._supervisor.close_listener(listener)

    async def open_udp(self, host: str | None, port: int, *, nwid: int | None = None, reuse: bool = False) -> Handoff:
        """See NodeApi."""
        return await self._supervisor.open_udp(host, port, nwid=nwid, reuse=reuse)

    async def configure_udp(
        self, token: bytes, option: str, *, address: str | None = None, source: str | None = None, value: int = 0
    ) -> None:
        """See NodeApi."""
        await self._supervisor.configure_udp(token, option, address=address, source=source, value=value)

    async def ping(self, host: str, *, nwid: int | None = None, size: int = 56, timeout: float = 3.0) -> float:
        """See NodeApi."""
        try:
            return await self._supervisor.ping(host, nwid=nwid, size=size, timeout=timeout)
        except DialError as error:
            raise self._explained(error, host, nwid) from error

    def capture(self, nwid: int, *, snaplen: int = 65535) -> AsyncIterator[bytes]:
        """See NodeApi."""
        return self._supervisor.capture(nwid, snaplen=snaplen)


def _settle(future: asyncio.Future[str], result: str) -> None:
    if not future.done():
        future.set_result(result)
