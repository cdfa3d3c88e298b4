"""The node: VL1, VL2, the stack workers, the transport and the kept state joined on one event loop. Glue alone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import os
import platform
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pluggy

from ztnode import __version__, plugins
from ztnode.hookspecs import Datagrams
from ztnode.node import dialing, interfaces, snapshots
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
from ztnode.node.conflation import Conflation
from ztnode.node.fail_over import FailOver
from ztnode.node.figures import DatagramFigures, Dials, NodeFigures, TraceDial, untraced
from ztnode.node.gateways import Gateways
from ztnode.node.home import Home
from ztnode.node.identity_pool import IdentityChecks, generate_identity, usable_cores
from ztnode.node.keeping import Complaints, Documents
from ztnode.node.lease import Lease
from ztnode.node.memberships import Memberships
from ztnode.node.moon_orbits import MoonOrbits
from ztnode.node.opening import StoreOptions, open_state, unknown
from ztnode.node.os_arch import os_arch
from ztnode.node.port_mapping import PortMapping
from ztnode.node.root_watch import RootWatch
from ztnode.node.supervisor import Supervisor
from ztnode.node.transports import WaysOut, is_tcp, joined, named_transports, relay_use
from ztnode.node.wall_clock import wall_clock
from ztnode.vl1 import (
    IdentityCollision,
    IdentityShared,
    MoonUpdated,
    Offline,
    Online,
    PathMtuFound,
    PathNotTrusted,
    Peer,
    PeerReturned,
    PeerShared,
    PlanetUpdated,
    Vl1,
    Vl1Config,
)
from ztnode.vl1.scope import Scope, scope_of
from ztnode.vl1.trusted_paths import TrustedNetwork
from ztnode.vl2 import ConfigStored, NetworkChanged, Vl2
from ztnode.wire.address import format_address, format_nwid
from ztnode.wire.default_planet import DEFAULT_PLANET
from ztnode.wire.endpoint import Endpoint, format_endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.mac import address_of, first_octet, format_mac, mac_of
from ztnode.wire.multicast import MulticastGroup
from ztnode.wire.packet import DEFAULT_PHYSICAL_MTU
from ztnode.wire.world import World, format_world_id

if TYPE_CHECKING:  # loaded where a node is a controller
    from ztnode.controller import Controller
    from ztnode.node.administration import Administration

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 9993
MAX_KEYS_NAMED: Final = 32
"""Of those in a file that mean nothing here, in one line of the log."""
HOME: Final = "zerotier"
"""The state directory's part that is laid out as a ZeroTier One home."""
INTERFACES_PERIOD: Final = 60.0
"""Seconds between two looks at the host's own addresses."""
CONFLICT_CHECK: Final = 60.0
"""Seconds between two looks at whether another host has our identity, once it did."""
FIRST_MEMORY: Final = 30.0
MEMORY_PERIOD: Final = 300.0
"""Seconds after the start when, and between which, the known peers are written."""
HASHES_PER_CORE: Final = 4.0
"""Checks of strangers' identities that a root makes in a second with each core: half of what it can do."""
MAX_PEERS: Final = 16384
MAX_PEERS_OF_LEAF: Final = 4096
"""Peers kept in memory, at 10 KB each: what strangers with good identities can take of a leaf is 40 MB."""
FRAME_OVERHEAD: Final = 51
"""Bytes of an EXT_FRAME around an IP packet: header and verb (28), network, flags, two MAC addresses, EtherType."""
CROWD: Final = 128
"""Datagrams of one batch that mean that more come than are read."""
FAVOR_INTERVAL: Final = 2.0
"""Seconds between two looks at whose datagrams strangers' should not hold up."""
MAX_FAVORED: Final = 32
"""Of those; each costs the transport a socket."""
TIMER_SLACK: Final = 0.001
"""Seconds by which a timer may come late, so that a batch rarely has to arm it anew."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What ``ztnode serve`` was asked for."""

    state: Path
    planet: str | None = None
    store: str | None = None
    """State store URL; None: the directory ``<state>/zerotier``."""
    port_mapping: bool = True
    """Whether the router before us is asked for a port; ``local.conf`` may say no, too."""
    ways_out: WaysOut = field(default_factory=WaysOut)
    store_key: bytes | None = None
    """Encrypts what is kept there, 32 bytes."""
    pool: int = 0
    """Take one of so many identities that the store keeps for several nodes."""
    standby: bool = True
    """Wait while another node holds the store."""
    identity: Identity | None = None
    """With its secret, in place of one that would be made."""
    port: int = DEFAULT_PORT
    """UDP port, 0: any. That of the last run goes first, and another one is taken when it is in use, unless
    ``port_required``."""
    port_required: bool = False
    workers: int = 1
    physical_mtu: int = DEFAULT_PHYSICAL_MTU
    """Longest UDP payload that is sent, bytes; ``local.conf`` may say otherwise for some networks, and each path finds
    out by itself if it carries less."""
    congestion: str = "cubic"
    """Congestion control of TCP, a name that ``netstack.tcp.congestion`` knows."""
    root: bool = False
    controller: bool = False
    sso_url: str = ""
    """Where members of the networks that it controls hand in their log-ins; empty: nowhere."""
    networks: tuple[int, ...] = ()
    ephemeral: bool = False
    """The identity ends with the node: controllers are asked to forget it then."""
    trusted_paths: tuple[TrustedNetwork, ...] = ()
    """Beside those of ``local.conf``."""


class Node:
    """A running node; the control plane's ``NodeApi``. Made by ``Node.start``."""

    def __init__(
        self,
        options: NodeOptions,
        home: Home,
        vl1: Vl1,
        vl2: Vl2,
        controller: Controller | None,
        documents: Documents,
        transport: FailOver,
        lease: Lease | None = None,
    ) -> None:
        self._options = options
        self._home = home
        self._lease = lease
        self._vl1 = vl1
        self._vl2 = vl2
        self.controller = controller
        self.administration: Administration | None = None
        """What the control plane may do with the controller; None on a node that is none."""
        if controller is not None:
            from ztnode.node.administration import Administration

            self.administration = Administration(controller, self._carry_out)
        self._transport = transport
        self._supervisor = Supervisor(
            options.state,
            self._frames_from_stack,
            on_groups=self._groups_changed,
            workers=options.workers,
            congestion=options.congestion,
            on_opened=lambda seconds: self._dials.opened.observe(seconds),
        )
        self._gateways = Gateways(self._supervisor.set_gateway)
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._interfaces: asyncio.TimerHandle | None = None
        self._memberships = Memberships(vl1, vl2, home, self._supervisor, self._pump)
        self._moons = MoonOrbits(vl1, home, self._pump)
        self._online_watchers: Conflation[None, bool] = Conflation()
        self._identity_watchers: Conflation[None, str] = Conflation()
        self._conflict_check: asyncio.TimerHandle | None = None
        self._complaints = Complaints()
        self._collided = False
        self._roots = RootWatch(self._loop, lambda: transport.in_use)
        self._documents = documents
        self._checks = IdentityChecks()
        self._checking: set[asyncio.Task[None]] = set()
        self._remembering: asyncio.TimerHandle | None = None
        self._state_id = _directory_id(options.state)
        self._state_lost = False
        self._avoided_interfaces: tuple[str, ...] = ()
        self._send_drops = 0
        self._received = self._bytes_received = self._sent = self._bytes_sent = 0
        self._dials = Dials()
        self._favor_at = 0.0
        self._port_mapping: PortMapping | None = None
        self._mapped: Endpoint | None = None
        """Where the router before us forwards to us."""
        self._counted: dict[str, Mapping[str, int]] = {}
        self._closed = False

    # Life

    @classmethod
    async def start(
        cls, options: NodeOptions, manager: pluggy.PluginManager, waiting: Callable[[str], None] = lambda _line: None
    ) -> Node:
        """Bring a node up as far as it greets its roots and its workers start; ``ready`` waits for these. ``waiting``
        is told what for while another node holds the store. Raises LeaseHeld, StateError, PluginError, OSError or
        ValueError, each with one clear line."""
        async with contextlib.AsyncExitStack() as undo:
            options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = await open_state(_store_options(options), manager, waiting)
            home = Home(opened.state)
            undo.push_async_callback(asyncio.to_thread, home.close)
            given = plugins.call(manager, "ztnode_planet", source=options.planet)
            if given is None:
                raise ValueError(unknown("planet source", options.planet or ""))
            # Before anything is made that takes long or stays: a name that nobody knows must leave nothing behind.
            named = named_transports(options.ways_out, manager)
            planet = home.planet(given, chosen=options.planet is not None)
            moons, networks, local_conf = home.moons(), home.networks(), home.local_conf()
            foreign = planet.updates_signed_by != World.parse(DEFAULT_PLANET).updates_signed_by
            transport = joined(named, options.ways_out, local_conf, manager, foreign=foreign)
            identity = await home.identity(_make_identity, options.identity)
            if local_conf.unused:
                log.warning("local.conf: nothing here acts on %s", _listed(local_conf.unused))
            for nwid, keys in home.unused_network_settings().items():
                log.warning("networks.d/%s.local.conf: nothing here acts on %s", format_nwid(nwid), _listed(keys))
            trusted = (*options.trusted_paths, *local_conf.trusted)
            for network, path_id in trusted:
                log.warning(
                    "packets on %s with the path id %d are neither encrypted nor authenticated", network, path_id
                )
            now, wall = time.monotonic(), wall_clock()
            vl1 = Vl1(
                identity,
                planet,
                moons=moons,
                seeds=home.seeds(),
                random=os.urandom,
                now=now,
                wall=wall,
                config=Vl1Config(
                    relay=options.root,
                    mtu=options.physical_mtu,
                    physical_mtus=local_conf.mtus,
                    defer_identity_checks=True,
                    max_peers=MAX_PEERS if options.root or options.controller else MAX_PEERS_OF_LEAF,
                    max_peers_of_root=MAX_PEERS,
                    trusted_paths=trusted,
                    hints=local_conf.hints,
                    avoided_of=local_conf.avoided_of,
                    hashes_per_second=HASHES_PER_CORE * usable_cores(),
                ),
                known=home.known_peers(wall),
            )
            documents = Documents(home, Complaints())
            controller = None
            if options.controller:
                from ztnode.controller import Controller  # what a node is not, it does not load

                kept = home.controller_documents()
                controller = Controller(
                    vl1,
                    identity,
                    random=os.urandom,
                    documents=kept,
                    commit=documents.commit,
                    sso_url=options.sso_url,
                    strict=opened.lease is not None,
                )
            vl2 = Vl2(
                vl1,
                identity,
                random=os.urandom,
                now=now,
                wall=wall,
                is_upstream=lambda: vl1.is_relay,
                upstreams=vl1.upstreams,
                acquaintances=vl1.acquaintances,
                os_arch=os_arch(sys.platform, platform.machine()),
                ephemeral=options.ephemeral,
                authorized=None if controller is None else controller.authorizes,
                controller=controller is not None,
            )
            node = cls(options, home, vl1, vl2, controller, documents, transport, opened.lease)
            node._memberships.avoided = local_conf.avoided
            node._avoided_interfaces = local_conf.avoided_interfaces
            vl1.avoid_networks(local_conf.avoided)
            undo.pop_all()  # from here on the node owns its parts
            undo.push_async_callback(node.close)
            transport.on_another = node._greet_again
            transport.answers = lambda: vl1.counters["answers"]
            await node._open_transport(local_conf.port)
            if (port := node._port()) and options.port_mapping and local_conf.port_mapping is not False:
                node._port_mapping = PortMapping(port, node._on_mapped)
            # Greet the roots before anything slow is done: so the node is online while the workers still start.
            node._look_at_host()
            node._flush()
            tokens = home.auth_tokens()
            for nwid, cached in networks.items():
                node._vl2.join(nwid, time.monotonic(), cached=cached, auth_token=tokens.get(nwid, ""))
            for nwid in options.networks:
                if nwid not in networks:
                    await node._memberships.join_new(nwid)
            node._pump(time.monotonic())
            node._remembering = node._loop.call_later(FIRST_MEMORY, node._remember_peers)
            await node._supervisor.start()
            undo.pop_all()
            return node

    async def ready(self) -> None:
        """Wait until every stack worker serves. Raises OSError when one does not come up."""
        await self._supervisor.ready()

    async def _open_transport(self, configured: int | None) -> None:
        """``configured``: what ``local.conf`` says, where the command line and its kind say nothing."""
        port, required = self._options.port, self._options.port_required
        if configured is not None and not required and port == DEFAULT_PORT:
            port, required = configured, configured > 0
        # The port of the last run first: peers go on sending there for a while.
        ports = [port] if required else [*self._home.port(), port, 0]
        for port in ports:
            try:
                await self._transport.open(port, self._datagrams)
                if bound := self._port():
                    self._keep(self._home.keep_port(bound), "the UDP port")
                return
            except OSError as error:
                if port == ports[-1]:
                    raise OSError(error.errno, f"cannot open UDP port {port}: {error.strerror or error}") from error

    async def close(self) -> None:
        """End everything that this node started; done within two seconds."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._interfaces, self._remembering, self._conflict_check):
            if timer is not None:
                timer.cancel()
        if self._options.ephemeral:
            self._vl2.say_goodbye(time.monotonic())
            self._flush()
        self._memberships.close()
        self._online_watchers.close()
        self._identity_watchers.close()
        self._roots.close()
        if self.administration is not None:
            self.administration.close()
        if self._port_mapping is not None:
            await self._port_mapping.close()
        await self._supervisor.stop()
        await self._transport.close()
        for task in self._checking:
            task.cancel()
        await self._checks.close()
        self._remember_peers()
        await asyncio.to_thread(self._home.close)

    async def lease_lost(self) -> str:
        """Return once another node may run with this state, with why; from then on nothing is sent. Never, where
        nothing can take it from this one."""
        lost: asyncio.Future[str] = self._loop.create_future()

        def tell(why: str) -> None:
            self._loop.call_soon_threadsafe(_settle, lost, why)

        if self._lease is not None:
            self._lease.when_lost(tell)
        return await lost

    # The hot path: a batch in, a batch out

    def _datagrams(self, datagrams: Datagrams) -> None:
        now = time.monotonic()
        crowd = len(datagrams) >= CROWD
        refused = self._vl1.refused if crowd else 0
        self._received += len(datagrams)
        self._bytes_received += sum([len(data) for data, _ in datagrams])
        self._vl1.receive(datagrams, now)
        self._pump(now)
        if now >= self._favor_at:
            self._favor_at = now + FAVOR_INTERVAL
            self._transport.favor(self._vl1.favored_endpoints(MAX_FAVORED, now))
        if crowd and self._vl1.refused - refused > len(datagrams) // 2:
            # There are more than we can look at, and most are good for nothing: a quarter of the time must do.
            self._transport.let_others_wait(3 * (time.monotonic() - now))

    def _frames_from_stack(self, records: list[tuple[int, memoryview]]) -> None:
        now = time.monotonic()
        nwids = self._memberships.nwid_of
        if len(nwids) == 1:
            ((index, nwid),) = nwids.items()
            self._vl2.send_frames(nwid, [frame for tag, frame in records if tag == index], now)
        else:
            by_port: defaultdict[int, list[memoryview]] = defaultdict(list)
            for tag, frame in records:
                by_port[tag].append(frame)
            for tag, frames in by_port.items():
                if tag in nwids:
                    self._vl2.send_frames(nwids[tag], frames, now)
        self._pump(now)

    def _pump(self, now: float) -> None:
        """Move what each layer has for the next until nothing is left, then arm the timer."""
        # There is more than one turn where this node talks to itself, as a member of a network that it controls.
        while messages := self._vl1.messages():
            self._vl2.receive(messages, now)
            if self.controller is not None:
                self.controller.receive(messages, now, wall_clock())
        self._deliver()
        self._flush()
        self._handle_events()
        for identity in self._vl1.identity_checks():
            self._check_identity(identity)
        self._arm(now)

    def _carry_out(self) -> None:
        """The controller was told something: keep it, and send what follows from it."""
        self._pump(time.monotonic())

    def _deliver(self) -> None:
        for nwid, frames in self._vl2.frames():
            index = self._memberships.index_of.get(nwid)
            if index is not None:
                self._supervisor.send_frames([(index, frame) for frame in frames])

    def _flush(self) -> None:
        if self._lease is not None and not self._lease.is_held():
            self._vl1.to_send()  # not a word more: another node may be this one by now
            return
        if self.controller is not None:
            # An address that was promised must not be forgotten: on the disk first, then on the wire.
            self._documents.keep(self.controller.changed_documents())
        send = self._transport.send
        for endpoint, datagrams in self._vl1.to_send():
            self._sent += len(datagrams)
            self._bytes_sent += sum(map(len, datagrams))
            self._send_drops += send(endpoint, datagrams)

    # Timers and events

    def _arm(self, now: float) -> None:
        layers = (self._vl1, self._vl2) if self.controller is None else (self._vl1, self._vl2, self.controller)
        due = min((at for layer in layers if (at := layer.next_timer()) is not None), default=float("inf"))
        if due >= self._timer_at - TIMER_SLACK and self._timer is not None:
            return  # an early alarm finds nothing due and arms itself for the right time
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due != float("inf") and not self._closed:
            self._timer = self._loop.call_later(max(0.0, due - now) + TIMER_SLACK, self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        now = time.monotonic()
        self._vl1.handle_timer(now)
        self._vl2.handle_timer(now)
        if self.controller is not None:
            self.controller.handle_timer(now, wall_clock())
        self._pump(now)

    def _look_at_host(self) -> None:
        """Tell VL1 where this host can be reached on its own networks; hosts move. And see that the state is there."""
        if _directory_id(self._options.state) != self._state_id and not self._state_lost:
            self._state_lost = True
            log.error(
                "%s was removed or replaced: from here on nothing is kept and no client finds this node; start it anew",
                self._options.state,
            )
        port = self._port()
        own = [(host, port) for host in interfaces.addresses(self._avoided_interfaces) if port]
        self._vl1.set_local_endpoints(own if self._mapped is None else [*own, self._mapped])
        self._ask_router()
        self._interfaces = self._loop.call_later(INTERFACES_PERIOD, self._look_at_host)

    def _greet_again(self) -> None:
        """Another transport is there: roots and peers need not wait for their turn."""
        self._vl1.greet_again()
        self._pump(time.monotonic())

    def _ask_router(self) -> None:
        """Have a port mapped where our packets reach others from addresses that are none of this host's."""
        if self._port_mapping is not None:
            own = interfaces.addresses()
            seen = [ip for ip, _ in self._vl1.surface_addresses if scope_of(ip) is Scope.GLOBAL and ":" not in ip]
            if any(ip not in own for ip in seen):
                self._port_mapping.start()

    def _on_mapped(self, mapped: Endpoint | None) -> None:
        self._mapped = mapped
        if self._interfaces is not None:
            self._interfaces.cancel()
        self._look_at_host()
        self._pump(time.monotonic())

    def _port(self) -> int:
        return next((port for _, port in self._transport.local_endpoints()), 0)

    def _handle_events(self) -> None:
        for event in self._vl1.events():
            match event:
                case Online(root):
                    self._ask_router()
                    self._roots.answered(format_address(root))
                    self._online_watchers.publish(None, True)
                case Offline():
                    self._roots.silent()
                    self._online_watchers.publish(None, False)
                case PlanetUpdated(data):
                    self._keep(self._home.keep_planet(data), "the new planet")
                case MoonUpdated(moon_id, data):
                    log.info("moon %s is there", format_world_id(moon_id))
                    self._keep(self._home.keep_moon(moon_id, data), "a moon")
                case PathNotTrusted(address, endpoint, path_id):
                    log.warning(
                        "%s at %s sends on a trusted path, id %d, which is none here: dropped (see --trusted-path)",
                        format_address(address),
                        format_endpoint(endpoint),
                        path_id,
                    )
                case PeerReturned(address):
                    self._peer_returned(address)
                case PathMtuFound(address, mtu):
                    self._limit_peer(address, mtu)
                case IdentityCollision(root):
                    self._collided = True
                    log.error("root %s: %s", format_address(root), self._conflict())
                    self._tell_conflict()
                case IdentityShared():
                    log.error("%s", self._conflict())
                    self._tell_conflict()
                case PeerShared(address, one, other):
                    log.info(
                        "the traffic of %s comes from %s and %s in turn: do two hosts have one identity?",
                        format_address(address),
                        format_endpoint(one),
                        format_endpoint(other),
                    )
        if self.administration is not None:
            self.administration.publish()
        self._handle_network_events()

    def _handle_network_events(self) -> None:
        for change in self._vl2.events():
            match change:
                case NetworkChanged(nwid):
                    self._memberships.changed(nwid)
                case ConfigStored(nwid, config):
                    self._keep(
                        self._home.keep_network(nwid, config), f"the configuration of network {format_nwid(nwid)}"
                    )

    def _peer_returned(self, address: int) -> None:
        for index, nwid in self._memberships.nwid_of.items():
            self._supervisor.neighbour_returned(index, mac_of(address, nwid))

    def _limit_peer(self, address: int, mtu: int | None) -> None:
        """The way to a peer is narrow: what it sends to us is to be short too, as far as we can have a say in that."""
        longest = None if mtu is None else mtu - FRAME_OVERHEAD
        for index, nwid in self._memberships.nwid_of.items():
            self._supervisor.limit_neighbour(index, mac_of(address, nwid), longest)

    def _check_identity(self, identity: Identity) -> None:
        """The memory-hard check of a stranger's identity takes a tenth of a second: in a process of its own."""

        async def check() -> None:
            valid = await self._checks.check(identity)
            if not self._closed:
                now = time.monotonic()
                self._vl1.identity_checked(identity, valid, now)
                self._pump(now)

        task = self._loop.create_task(check())
        self._checking.add(task)
        task.add_done_callback(self._checking.discard)

    def _remember_peers(self) -> None:
        """Keep who our peers are and where, so that a restart begins with that."""
        if len(self._vl1.peers()) > len(self._vl1.planet.roots):
            self._keep(self._home.keep_known_peers(self._vl1.known_peers(time.monotonic())), "the known peers")
        if not self._closed:
            self._remembering = self._loop.call_later(MEMORY_PERIOD, self._remember_peers)

    def _keep(self, write: concurrent.futures.Future[None], what: str) -> None:
        """Watch over a write that nobody waits for."""

        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                self._complaints.tell(f"cannot keep {what}", error)

        asyncio.wrap_future(write, loop=self._loop).add_done_callback(done)

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
            "transport.drop_send": self._send_drops,
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
            identity_conflict=self._conflict(),
            transport=self._transport.in_use,
            mapped_address="" if self._mapped is None else format_endpoint(self._mapped),
            tcp_relay=is_tcp(self._transport.in_use),
            port_mapping=self._port_mapping is not None,
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
            datagrams=DatagramFigures(self._received, self._bytes_received, self._sent, self._bytes_sent),
            networks=self._vl2.figures(),
            dials=self._dials,
            controller=None if self.administration is None else self.administration.figures(),
        )

    def _conflict(self) -> str:
        """What is wrong with our identity, and what to do about it."""
        if self._collided:
            return "another node has this node's address; remove identity.* from the state directory to get another"
        if self._vl1.is_shared(time.monotonic()):
            return (
                "another host runs with this node's identity, and packets reach the one or the other; stop it, or "
                "remove identity.* from the state directory of one of the two"
            )
        return ""

    def _tell_conflict(self) -> None:
        """Tell the watchers, and again when there are no signs of it any more."""
        conflict = self._conflict()
        self._identity_watchers.publish(None, conflict)
        if self._conflict_check is not None:
            self._conflict_check.cancel()
        self._conflict_check = self._loop.call_later(CONFLICT_CHECK, self._tell_conflict) if conflict else None

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
        now = time.monotonic()
        self._vl2.ask_again(nwid, now)
        self._pump(now)

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
        return self._identity_watchers.watch([(None, self._conflict())])

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
        on = self._memberships.nwid_of.get(found.index)
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

    def _groups_changed(self, index: int, macs: frozenset[int]) -> None:
        nwid = self._memberships.nwid_of.get(index)
        if nwid is not None:
            now = time.monotonic()
            self._vl2.join_groups(nwid, frozenset(MulticastGroup(mac) for mac in macs), now)
            self._pump(now)

    async def ping(self, host: str, *, nwid: int | None = None, size: int = 56, timeout: float = 3.0) -> float:
        """See NodeApi."""
        try:
            return await self._supervisor.ping(host, nwid=nwid, size=size, timeout=timeout)
        except DialError as error:
            raise self._explained(error, host, nwid) from error

    def capture(self, nwid: int, *, snaplen: int = 65535) -> AsyncIterator[bytes]:
        """See NodeApi."""
        return self._supervisor.capture(nwid, snaplen=snaplen)


async def _make_identity() -> Identity:
    """A new identity, made beside the event loop; stops soon when it is cancelled."""
    log.info("making an identity, which takes a few seconds")
    stop = threading.Event()
    try:
        return await asyncio.to_thread(generate_identity, stop=stop)
    finally:
        stop.set()


def _settle(future: asyncio.Future[str], result: str) -> None:
    if not future.done():
        future.set_result(result)


def _listed(keys: Sequence[str]) -> str:
    """Keys of a file, for one line of the log."""
    shown = [each[:64].encode("unicode_escape").decode() for each in keys[:MAX_KEYS_NAMED]]
    return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else "")


def _directory_id(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is nothing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _store_options(options: NodeOptions) -> StoreOptions:
    url = options.store or str((options.state / HOME).absolute())
    return StoreOptions(url, options.store_key, options.pool, options.standby)
