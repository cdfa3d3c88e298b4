"""What the parts of one ``Vl1`` share, and what its verbs report: the state of a node of the overlay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from ztnode.vl1.contacts import BUSY_TICK, Contacts
from ztnode.vl1.introductions import Introductions
from ztnode.vl1.path import DOUBTED_AFTER, SURE_FOR, Path
from ztnode.vl1.peer import Peer
from ztnode.vl1.scope import Scope
from ztnode.vl1.self_awareness import SelfAwareness
from ztnode.vl1.topology import Topology
from ztnode.vl1.traffic import Traffic
from ztnode.vl1.transmit import Transmit
from ztnode.vl1.trusted_paths import TrustedPaths
from ztnode.vl1.twins import Twins
from ztnode.vl1.vl1_config import Vl1Config
from ztnode.vl1.vl1_events import Event, Online, PathMtuFound, PathNotTrusted, PeerPathChanged, SurfaceAddress
from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.known_peers import KnownPeers
from ztnode.wire.packet import VERB_PUSH_DIRECT_PATHS, trusted_path_id
from ztnode.wire.push_direct_paths import FLAG_CLUSTER_REDIRECT, DirectPath, build_push_direct_paths
from ztnode.wire.world import World

REDIRECT_WITHIN: Final = 40.0
"""Seconds after a frame during which a connection may be waiting for the peer to find us again."""
FLOWING: Final = 0.4
"""Seconds since the last frame of a peer up to which a connection with it is no stalled one."""
REDIRECT_INTERVAL: Final = 5.0
"""Seconds between two such requests: a peer takes a handful of PUSH_DIRECT_PATHS in 30 s. Twice as many each time
while nothing but the memory of a dead path is the reason: who has heard it once need not hear it for ever."""
MAX_REDIRECTS: Final = 16
"""Times that one message names the endpoint: so many changes of path a peer follows before one of its paths expires."""
Message: TypeAlias = tuple[Peer, int, int, Buffer]
"""``(peer, verb, packet id, payload)``: an authenticated, decompressed packet; the payload begins after the verb byte.
That of OK is ``in-re verb (1) | in-re packet id (8) | ...`` and that of ERROR has the error code (1) after these
(``wire.reply``)."""


class Vl1Core:
    """Driven by ``Vl1``; the handlers of the verbs work on it."""

    def __init__(
        self,
        identity: Identity,
        planet: World,
        moons: Sequence[World],
        seeds: Mapping[int, int],
        config: Vl1Config,
        random: Callable[[int], bytes],
        wall_clock: Callable[[float], int],
        deliver: Callable[[Peer, bytes, Endpoint, float], None],
        now: float,
        known: KnownPeers,
        own_keys: PeerKeys,
    ) -> None:
        """``wall_clock`` turns monotonic seconds into Unix milliseconds; ``deliver`` takes a whole packet of a peer
        that has just become known, and where it came from."""
        self.identity = identity
        self.config = config
        self.counters: Counter[str] = Counter()
        self.traffic = Traffic()
        self.messages: list[Message] = []
        """For the layer above, until it takes them."""
        self.events: list[Event] = []
        self.online = False
        self.answered_from_afar = float("-inf")
        """When a peer in the internet last answered straight what we asked."""
        self.heard_from_afar = float("-inf")
        """When something authentic last came straight from one, by a path that is not dead."""
        self.next_tick = now + BUSY_TICK
        self.path_endpoints: set[Endpoint] = set()
        """Where peers are known to be, as of the last tick, and what was learnt since."""
        self.topology = Topology(
            identity,
            planet,
            moons,
            seeds,
            config.max_peers,
            config.max_peers_of_root or config.max_peers,
            self.emit,
            self.counters,
        )
        self.trusted_paths = TrustedPaths(config.trusted_paths)
        self._told_of_distrust = False
        self.transmit = Transmit(self.topology, random, config.mtu, self.trusted_paths, self.traffic)
        self.contacts = Contacts(
            identity,
            self.topology,
            self.transmit,
            config,
            wall_clock,
            self._path_changed,
            lambda peer, mtu: self.emit(PathMtuFound(peer.address, mtu)),
            self.counters,
        )
        self.introductions = Introductions(
            identity, self.topology, self.transmit, self.contacts, config, deliver, self.counters, known
        )
        self.awareness = SelfAwareness()
        self.twins = Twins(self.topology, self.transmit, own_keys, random, wall_clock, self.emit, self.counters, now)

    @property
    def is_relay(self) -> bool:
        """Whether we relay for others: by configuration, or because a world names us as a root."""
        return self.config.relay or self.topology.is_root

    def emit(self, event: Event) -> None:
        """Queue an event for the owner."""
        self.events.append(event)

    def set_online(self, root: int) -> None:
        """A root has answered, or we are one."""
        self.online = True
        self.emit(Online(root))

    def hurry_tick(self, now: float) -> None:
        """Something was sent: look soon whether it is answered."""
        soon = now + BUSY_TICK
        if soon < self.next_tick:
            self.next_tick = soon

    def trusts(self, packet: bytes, endpoint: Endpoint) -> bool | None:
        """Whether an unprotected packet comes on a trusted path, counted if not; None for any other packet."""
        path_id = trusted_path_id(packet)
        if path_id is None:
            return None
        if self.trusted_paths.accepts(endpoint[0], path_id):
            return True
        self.counters["drop_path_not_trusted"] += 1
        if not self._told_of_distrust:
            self._told_of_distrust = True
            self.emit(PathNotTrusted(int.from_bytes(packet[13:18], "big"), endpoint, path_id))
        return False

    # What the verbs report

    def path_proved(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """An OK came straight from the peer: it can be reached at ``endpoint``."""
        self.contacts.answered(peer, endpoint)
        path = peer.paths.get(endpoint)
        if path is None:
            if not self.contacts.is_usable(peer.address, endpoint):
                self.counters["drop_unusable_endpoint"] += 1
                return
            path = peer.learn(endpoint, now, self.config.mtu_to(endpoint[0]))
            self.path_endpoints.add(endpoint)
            # A new path while others are silent: the peer may have moved. Those that still lead to it answer at once.
            for other in peer.paths.values():
                if not other.dead and now - other.last_receive > SURE_FOR:
                    self._doubt(peer, other, now)
        path.answered(now)
        if path.scope is Scope.GLOBAL:
            self.answered_from_afar = self.heard_from_afar = now
        if peer.choose_path():
            self._path_changed(peer, now)
        if not self.online and self.topology.is_upstream(peer.address):
            self.set_online(peer.address)

    def heard_on(self, peer: Peer, path: Path, now: float) -> None:
        """Something came straight over a path that we know. If the peer is silent on the one that we send into, it may
        have moved: what it says comes from where it is."""
        path.last_receive = now
        path.probes = 0
        if path.scope is Scope.GLOBAL:
            self.heard_from_afar = now
        used = peer.path
        if used is None or used is path or used.last_send <= used.last_receive or used.probes >= DOUBTED_AFTER:
            return
        if now - used.last_receive > max(SURE_FOR, 2 * (used.latency or 0.0)):
            self._doubt(peer, used, now)
            if peer.choose_path():
                self._path_changed(peer, now)

    def _doubt(self, peer: Peer, path: Path, now: float) -> None:
        """Prefer any other path until this one answers."""
        path.probes = max(path.probes, DOUBTED_AFTER - 1)
        self.contacts.probe(peer, path, now)
        self.hurry_tick(now)

    def surface_reported(self, peer: Peer, endpoint: Endpoint, surface: Endpoint, now: float) -> None:
        """A peer at ``endpoint`` says from where our packets reach it."""
        before = self.awareness.surface_addresses()
        seen_before = self.awareness.seen_by(peer.address, endpoint)
        trusted = self.topology.is_upstream(peer.address)
        known = peer.trusts_through(now)
        changed = self.awareness.report(peer.address, endpoint, surface, trusted=trusted, now=now, known=known)
        if surface not in before and surface in self.awareness.surface_addresses():
            self.emit(SurfaceAddress(surface, peer.address))
        if seen_before not in (None, surface):
            peer.redirect_pause = REDIRECT_INTERVAL
            self._redirect(peer, endpoint, now)
        elif _has_lost_a_path(peer):
            self._redirect(peer, endpoint, now)
        if changed is not None:
            self.counters["path_resets"] += 1
            self.contacts.reset_paths(changed, ipv6=":" in surface[0], now=now)

    def _redirect(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """We are no longer where a peer has sent to, in the middle of a connection: ask it to send to where it has
        seen us last by way of ``endpoint``. The reference would go on sending there for 19 s (Path::quality), if it
        were not told by this flag (Peer::clusterRedirect)."""
        surface = self.awareness.seen_by(peer.address, endpoint)
        path = peer.paths.get(endpoint)
        connected = now - peer.last_frame < REDIRECT_WITHIN and peer.trusts_through(now)
        if path is None or not connected or now - peer.last_redirect < peer.redirect_pause:
            return
        if now - peer.last_frame_in < FLOWING:
            return  # where it sends to now reaches us
        if surface is None or now - path.last_receive > SURE_FOR:
            # The answer says where, and that this path is not as dead as the last.
            self.contacts.hello(peer, endpoint, now)
            return
        peer.last_redirect = now
        peer.redirect_pause *= 2
        self.counters["redirects_sent"] += 1
        # The reference gives the endpoint the priority of the path that this comes by, 1 unless it was sent there so,
        # and 2 more; what has no less stays in its choice, so where it was sent to before must be outbid.
        peer.redirects = min(peer.redirects + 1, MAX_REDIRECTS)
        parts = (build_push_direct_paths([DirectPath(surface, FLAG_CLUSTER_REDIRECT)] * peer.redirects),)
        self.transmit.send(peer, VERB_PUSH_DIRECT_PATHS, parts, path, now)

    def world_offered(self, world: World, now: float) -> None:
        """A root has sent a planet or a moon."""
        if self.topology.offer_world(world):
            self.roots_changed(now)

    def roots_changed(self, now: float) -> None:
        """There are other roots than before, or we have become one: greet them."""
        if self.topology.is_root and not self.online:
            self.set_online(self.identity.address)
        self.contacts.root_lost(now)
        self.contacts.due(now)
        self.introductions.seek(now)

    def pass_up(self, peer: Peer, verb: int, packet_id: int, payload: Buffer) -> None:
        """Leave a message to the layer above."""
        self.messages.append((peer, verb, packet_id, payload))

    def _path_changed(self, peer: Peer, now: float) -> None:
        self.emit(PeerPathChanged(peer.address, peer.endpoint))
        if self.topology.is_upstream(peer.address):
            if peer.path is None:
                self.contacts.root_lost(now)
            else:
                self.introductions.root_reachable(now)
        if peer.path is not None and _has_lost_a_path(peer):
            peer.redirect_pause = REDIRECT_INTERVAL
            self._redirect(peer, peer.path.endpoint, now)
        if peer.path is not None and peer.address in self.introductions.waiting:
            self.introductions.met(peer, now)


def _has_lost_a_path(peer: Peer) -> bool:
    return any(path.dead or path.probes >= DOUBTED_AFTER for path in peer.paths.values())
