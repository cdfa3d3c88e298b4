"""Getting in contact and staying in it: HELLO to roots, attempts at endpoints where a peer may be, keep-alives,
probes of paths that have gone silent."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, TypeAlias

from ztnode.vl1.gates import KeyedInterval
from ztnode.vl1.path import (
    DOUBTED_AFTER,
    HEARTBEAT_PERIOD,
    PROBE_INTERVAL,
    PROBES,
    QUICK_INTERVAL,
    UNANSWERED,
    Path,
)
from ztnode.vl1.path_mtu import answered_length, question_payload
from ztnode.vl1.peer import Peer
from ztnode.vl1.scope import PATH_SCOPES, Scope, scope_of
from ztnode.vl1.topology import Topology
from ztnode.vl1.transmit import Transmit
from ztnode.vl1.vl1_config import Vl1Config
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.hello import Hello, Version, WorldVersion, build_hello
from ztnode.wire.identity import Identity
from ztnode.wire.packet import CIPHER_POLY1305_NONE, VERB_ECHO

PING_PERIOD: Final = 60.0
"""Seconds between two HELLOs to all paths of an active peer (ZT_PEER_PING_PERIOD)."""
ROOT_RETRY: Final = (0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between HELLOs to roots that do not answer; the last of these goes on. Quick at first: a root that does not
know us yet may have to check others of our network first, which it does one in two seconds."""
INTRODUCTION_PERIOD: Final = 5.0
"""Seconds between two HELLOs through a root to a peer whose version is unknown. Until it is known, packets to it must
be sealed with Salsa20/12, which is slow here. (The reference sends HELLO along paths only.)"""
ATTEMPT_RETRY: Final = (0.2, 0.8, 1.0)
"""Seconds after which HELLO is sent to a possible endpoint again: the first may be what opens our own NAT for the
peer's, and neither may arrive. After the last of these the endpoint may be suggested anew."""
PUNCH: Final = bytes(4)
"""Too short to be a packet, and enough to open our own NAT for the peer's (IncomingPacket::_doRENDEZVOUS)."""
PUNCH_LEAD: Final = 0.1
"""Seconds from a punch to the ECHO. The way from the root to the peer is seldom longer than that by us: so the ECHO
finds the peer's NAT open."""
MAX_ATTEMPTS: Final = 1024
CONFIRM_INTERVAL: Final = 1.0
"""Seconds between two questions whether a peer is at the same endpoint."""
PROTOCOL_VERSION_ECHO: Final = 5
GREETINGS_PER_TICK: Final = 64
"""HELLOs to peers that are due for one, sent in one go: each costs 100 µs, and a root has thousands of peers."""
DEAD_RETRY: Final = 5.0
"""Seconds between HELLOs along a dead path while there is traffic that has to go through a root instead."""
STALL_WATCH: Final = 40.0
"""Seconds after the last frame during which a connection may be open that has stalled, and its paths are asked about
every ``BUSY_TICK``. Whoever only receives would otherwise say nothing, and so never open a new way through a NAT that
has forgotten the old one. A peer of the reference takes 19 s to believe in the new one."""
STALL_AFTER: Final = 0.5
"""Seconds without a frame from which on that is so."""
STALL_RETRY: Final = 2.0
"""Seconds between HELLOs along a dead path meanwhile."""
WATCHES_PER_TICK: Final = 64
"""Paths that are asked about in one go."""
ASKED_AFAR: Final = 4
"""Peers that are asked, besides the roots, whether anybody is there."""
BUSY_TICK: Final = 1.0
QUICK_TICK: Final = 0.5
"""While a connection has several paths: soon enough to take another one within a second when one goes dead."""
SUSPECT_TICK: Final = QUICK_INTERVAL
"""While one of these is silent."""
QUICK_FOR: Final = 3.0
"""Seconds after a frame, the last one to come or one that was sent, during which that is so."""
IDLE_TICK: Final = 5.0

_Key: TypeAlias = tuple[int, Endpoint]


class _Attempt:
    """An endpoint at which a peer may be."""

    __slots__ = ("next_try", "tries")

    def __init__(self, next_try: float, tries: int) -> None:
        self.next_try = next_try
        self.tries = tries


class Contacts:
    """Sends every HELLO and every ECHO."""

    def __init__(
        self,
        identity: Identity,
        topology: Topology,
        transmit: Transmit,
        config: Vl1Config,
        wall_clock: Callable[[float], int],
        path_changed: Callable[[Peer, float], None],
        mtu_found: Callable[[Peer, int | None], None],
        counters: Counter[str],
    ) -> None:
        self._identity = identity.without_secret()
        self._topology = topology
        self._transmit = transmit
        self._config = config
        self._wall_clock = wall_clock
        self._path_changed = path_changed
        self._mtu_found = mtu_found
        self._counters = counters
        self._avoided: tuple[IPv4Network | IPv6Network, ...] = ()
        self._attempts: dict[_Key, _Attempt] = {}
        self._next_attempt: float | None = None
        self._confirmations = KeyedInterval(CONFIRM_INTERVAL, MAX_ATTEMPTS)
        self._root_tries = 0
        self._next_root = float("-inf")
        self._greetings = GREETINGS_PER_TICK
        self._watches = WATCHES_PER_TICK

    # What to send

    def hello(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """Send HELLO to a peer at an endpoint."""
        topology = self._topology
        moons = [WorldVersion(moon.id, moon.timestamp) for moon in topology.moons.values()]
        moons += [WorldVersion(moon, 0) for moon in topology.moon_seeds]
        hello = Hello(
            self._config.protocol,
            Version(*self._config.version),
            self._wall_clock(now),
            self._identity,
            endpoint if scope_of(endpoint[0]) is not Scope.NONE else None,
            WorldVersion(topology.planet.id, topology.planet.timestamp),
            tuple(moons),
        )
        packet_id = self._transmit.new_hello_id()
        plaintext = build_hello(hello, packet_id, peer.keys)
        sealed = peer.keys.seal(
            packet_id, peer.address, self._identity.address, (plaintext,), CIPHER_POLY1305_NONE, self._config.mtu
        )
        self._transmit.greet(peer, packet_id, sealed, endpoint, now)

    def echo(self, peer: Peer, path: Path, now: float) -> None:
        """Send ECHO along a path. An old peer gets HELLO, which it surely answers."""
        if peer.protocol >= PROTOCOL_VERSION_ECHO:
            self._transmit.send(peer, VERB_ECHO, (), path, now)
        else:
            self.hello(peer, path.endpoint, now)
            path.last_send = now

    def probe(self, peer: Peer, path: Path, now: float) -> None:
        """Ask whether a path is still one."""
        path.probes += 1
        self.echo(peer, path, now)

    # Where a peer may be

    def avoid(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """Never take an endpoint inside these networks for a path."""
        self._avoided = tuple(networks)

    def is_usable(self, address: int, endpoint: Endpoint) -> bool:
        """Whether ``endpoint`` may become a path to this peer (Node::shouldUsePathForZeroTierTraffic)."""
        ip, port = endpoint
        scope = scope_of(ip)
        if scope not in PATH_SCOPES and not (
            scope is Scope.LOOPBACK and (self._config.allow_loopback or self._topology.on_loopback)
        ):
            return False
        if not port or not self._topology.permits(address, endpoint):
            return False
        avoided_of = self._config.avoided_of.get(address, ())
        if not self._avoided and not avoided_of:
            return True
        parsed = ip_address(ip)
        return not any(parsed in network for network in (*self._avoided, *avoided_of))

    def attempt(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """Ask whether the peer is at an endpoint, a few times until it answers."""
        if not self.is_usable(peer.address, endpoint):
            self._counters["drop_unusable_endpoint"] += 1
            return
        if (peer.address, endpoint) not in self._attempts:
            self._schedule(peer, endpoint, now + ATTEMPT_RETRY[0])
            self._ask_at(peer, endpoint, now)

    def meet(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """Ask where a root says that the peer is, who is told of us in the same moment. An endpoint that one root names
        gets no more bytes than of the reference: an ECHO, late enough to arrive, behind a punch. If neither end's
        arrives, the root introduces us again."""
        if not self.is_usable(peer.address, endpoint):
            self._counters["drop_unusable_endpoint"] += 1
        elif (peer.address, endpoint) not in self._attempts:
            if scope_of(endpoint[0]) is not Scope.LOOPBACK:
                self._transmit.put(endpoint, PUNCH)
                self._schedule(peer, endpoint, now + PUNCH_LEAD, tries=len(ATTEMPT_RETRY) - 1)
            else:
                self._ask_at(peer, endpoint, now)  # no NAT lies between
                self._schedule(peer, endpoint, now + ATTEMPT_RETRY[-1], tries=len(ATTEMPT_RETRY))

    def _schedule(self, peer: Peer, endpoint: Endpoint, next_try: float, tries: int = 1) -> None:
        if len(self._attempts) >= MAX_ATTEMPTS:
            del self._attempts[next(iter(self._attempts))]
        self._attempts[peer.address, endpoint] = _Attempt(next_try, tries)
        if self._next_attempt is None or next_try < self._next_attempt:
            self._next_attempt = next_try

    def _ask_at(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """As little as it takes (Peer::attemptToContactAt): who has said HELLO before answers an ECHO."""
        if peer.protocol >= PROTOCOL_VERSION_ECHO:
            self._transmit.send_to(endpoint, peer, VERB_ECHO, (), now)
        else:
            self.hello(peer, endpoint, now)

    def confirm(self, peer: Peer, endpoint: Endpoint, now: float, *, by_hello: bool = False) -> None:
        """Ask once whether the peer is at an endpoint that it, or whoever writes its packets' sender, has named: with
        no more bytes than that took, for it may be a victim's. Comes anything from there again, it is asked again
        (Peer::received and _doPUSH_DIRECT_PATHS, with ``_lastTriedPath``)."""
        if not self.is_usable(peer.address, endpoint):
            self._counters["drop_unusable_endpoint"] += 1
        elif self._confirmations.admit((peer.address, endpoint), now):
            if by_hello:
                self.hello(peer, endpoint, now)
            else:
                self._ask_at(peer, endpoint, now)

    def answered(self, peer: Peer, endpoint: Endpoint) -> None:
        """The peer has answered from this endpoint: no need to try it further."""
        if self._attempts:
            self._attempts.pop((peer.address, endpoint), None)

    # The clock

    def next_timer(self) -> float:
        """When ``due`` has something next."""
        return self._next_root if self._next_attempt is None else min(self._next_root, self._next_attempt)

    def due(self, now: float) -> None:
        """Repeat what was not answered."""
        if now >= self._next_root:
            self._greet_roots(now)
        if self._next_attempt is not None and now >= self._next_attempt:
            self._repeat_attempts(now)

    def root_lost(self, now: float) -> None:
        """A root has become unreachable, or the roots have changed: begin again with quick retries."""
        self._root_tries = 0
        self._next_root = now

    def ask_afar(self, now: float) -> None:
        """Ask in the internet whether anybody is there: each root, where it was heard last, and the few peers that were
        heard most lately, for it may be the root that is gone."""
        for peer in self._topology.upstream_peers():
            if (path := peer.last_resort()) is not None:
                self.echo(peer, path, now)
        paths = (
            (path.last_receive, peer.address, peer, path)
            for peer in self._topology.by_address.values()
            if (path := peer.path) is not None
            and path.scope is Scope.GLOBAL
            and not self._topology.is_upstream(peer.address)
        )
        for _, _, peer, path in heapq.nlargest(ASKED_AFAR, paths):
            self.echo(peer, path, now)

    def _greet_roots(self, now: float) -> None:
        all_reached = True
        greetings: list[tuple[Peer, Endpoint]] = []
        for peer in self._topology.upstream_peers():
            reached = peer.path is not None
            all_reached = all_reached and reached
            greetings += [
                (peer, endpoint)
                for endpoint in self._topology.upstreams[peer.address] or _relayed_by(self._topology, peer)
                if not reached or endpoint not in peer.paths
            ]
        if all_reached:
            self._root_tries = 0
            self._next_root = now + PING_PERIOD
        else:
            self._next_root = now + ROOT_RETRY[min(self._root_tries, len(ROOT_RETRY) - 1)]
            self._root_tries += 1
        for peer, endpoint in greetings:
            self.hello(peer, endpoint, now)

    def _repeat_attempts(self, now: float) -> None:
        self._next_attempt = None
        for key, attempt in list(self._attempts.items()):
            if attempt.next_try <= now:
                peer = self._topology.by_address.get(key[0])
                if peer is None or attempt.tries >= len(ATTEMPT_RETRY):
                    del self._attempts[key]
                    continue
                attempt.next_try = now + ATTEMPT_RETRY[attempt.tries]
                attempt.tries += 1
                self._ask_at(peer, key[1], now)
            if self._next_attempt is None or attempt.next_try < self._next_attempt:
                self._next_attempt = attempt.next_try

    # Keeping paths alive

    def keep_alive(self, now: float) -> float:
        """Heartbeats, probes and expiry for all peers with paths. In how many seconds they should be looked after
        again."""
        soonest = IDLE_TICK
        self._greetings = GREETINGS_PER_TICK
        self._watches = WATCHES_PER_TICK
        for peer in list(self._topology.by_address.values()):
            if peer.paths:
                soonest = min(soonest, self._keep_peer_alive(peer, now))
            if peer.path is None and peer.is_active(now):
                if not peer.protocol:
                    soonest = min(soonest, BUSY_TICK)  # each INTRODUCTION_PERIOD to the second
                self._greet_through_root(peer, now)
                for endpoint in self._config.hints.get(peer.address, ()):
                    self.attempt(peer, endpoint, now)
        return soonest if self._greetings > 0 else min(soonest, BUSY_TICK)

    def heard_relayed(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """A peer whose version we may not know has reached us through the root at ``endpoint``."""
        if not peer.protocol and now - peer.last_hello >= INTRODUCTION_PERIOD:
            peer.last_hello = now
            self.hello(peer, endpoint, now)

    def _greet_through_root(self, peer: Peer, now: float) -> None:
        upstream = self._topology.best_upstream()
        if upstream is None or upstream.path is None or self._topology.is_upstream(peer.address):
            return  # roots that no world gives an endpoint to are greeted through each other by ``_greet_roots``
        if self._is_greeting_due(peer, PING_PERIOD if peer.protocol else INTRODUCTION_PERIOD, now):
            self.hello(peer, upstream.path.endpoint, now)

    def _keep_peer_alive(self, peer: Peer, now: float) -> float:
        peer.expire_paths(now)
        active = peer.is_active(now) or self._topology.is_sought(peer.address)
        greet = active and self._is_greeting_due(peer, PING_PERIOD, now)
        quick = now - peer.last_frame < QUICK_FOR and sum(not path.dead for path in peer.paths.values()) > 1
        soonest = QUICK_TICK if quick else IDLE_TICK
        in_use = now - peer.last_frame < STALL_WATCH
        watched = in_use and now - peer.last_frame >= STALL_AFTER
        for path in peer.paths.values():
            if greet:
                self.hello(peer, path.endpoint, now)
                path.last_send = now
            elif path.dead:
                if (now - peer.last_traffic < DEAD_RETRY <= now - path.last_send) or (
                    watched and now - path.last_send >= STALL_RETRY
                ):
                    self.hello(peer, path.endpoint, now)
                    path.last_send = now
            elif path.wants_probe(now, quick=quick):
                soonest = min(soonest, SUSPECT_TICK if quick else BUSY_TICK)
                if now < path.next_probe:
                    continue
                if path.probes >= PROBES:
                    path.dead = True
                    self._counters["paths_dead"] += 1
                    continue
                self.probe(peer, path, now)
                path.next_probe = now + (QUICK_INTERVAL if quick and path.probes < DOUBTED_AFTER else PROBE_INTERVAL)
            elif path is peer.path and in_use and self._ask_in_use(peer, path, now):
                pass
            elif watched and now - path.last_send >= STALL_AFTER and self._watches > 0:
                self._watches -= 1
                if now - peer.last_frame >= STALL_RETRY and now - path.last_hello >= STALL_RETRY:
                    self.hello(peer, path.endpoint, now)  # its answer says from where we are seen: we may have moved
                    path.last_hello = path.last_send = now
                else:
                    self.echo(peer, path, now)
            elif active and now - min(path.last_send, path.last_receive) >= HEARTBEAT_PERIOD:
                self.echo(peer, path, now)
            if path.last_send > path.last_receive or now - peer.last_traffic < IDLE_TICK or watched:
                soonest = min(soonest, BUSY_TICK)
        if peer.choose_path():
            self._path_changed(peer, now)
        return soonest

    def _ask_in_use(self, peer: Peer, path: Path, now: float) -> bool:
        """Whether a path that carries frames, and is not silent, had its question just now, or waits for the next."""
        if not path.is_unanswered(now):
            return self._ask_for_length(peer, path, now)
        if now >= path.next_probe:
            path.next_probe = now + PROBE_INTERVAL
            if path.deaf_probes >= UNANSWERED:
                path.dead = True
                self._counters["paths_deaf"] += 1
            else:
                path.deaf_probes += 1
                self.echo(peer, path, now)
        return True

    def _ask_for_length(self, peer: Peer, path: Path, now: float) -> bool:
        """Whether a path that carries frames was asked just now if it carries long ones."""
        if peer.protocol < PROTOCOL_VERSION_ECHO or self._watches <= 0:
            return False
        length = path.mtu_search.question(now, path.last_receive)
        if path.mtu_search.mtu < path.mtu:
            self._counters["path_mtu_lowered"] += 1
            path.mtu = path.mtu_search.mtu
            self._mtu_found(peer, path.mtu)
        if length is None:
            return False
        self._watches -= 1
        if length:
            self._transmit.probe_length(peer, path, question_payload(length), now)
        else:
            self.echo(peer, path, now)
        return True

    def carried(self, peer: Peer, path: Path, payload: int) -> None:
        """An ECHO with so many bytes was answered."""
        search = path.mtu_search
        if search.answered(answered_length(payload)):
            was_narrow = path.mtu < search.mtu
            path.mtu = search.mtu
            if path is peer.path and (search.is_narrow or was_narrow):
                self._mtu_found(peer, path.mtu if search.is_narrow else None)

    def _is_greeting_due(self, peer: Peer, period: float, now: float) -> bool:
        if now - peer.last_hello < period or self._greetings <= 0:
            return False
        self._greetings -= 1
        peer.last_hello = now
        return True

    def reset_paths(self, scope: Scope, *, ipv6: bool, now: float) -> None:
        """Our own address in this scope has changed: every path in it counts as dead until it answers again
        (Peer::resetWithinScope)."""
        for peer in list(self._topology.by_address.values()):
            touched = [path for path in peer.paths.values() if path.scope is scope and path.is_ipv6 is ipv6]
            for path in touched:
                path.dead = True
                self.echo(peer, path, now)
            if touched and peer.choose_path():
                self._path_changed(peer, now)


def _relayed_by(topology: Topology, root: Peer) -> tuple[Endpoint, ...]:
    """Where to greet a root that is at no stable endpoint: another root passes the HELLO on and introduces us to each
    other (Node.cpp, _PingPeersThatNeedPing)."""
    if root.path is not None:
        return ()
    upstream = topology.best_upstream()
    return () if upstream is None or upstream is root or upstream.path is None else (upstream.path.endpoint,)
