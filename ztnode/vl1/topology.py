"""Who is in the overlay as this node knows it: the planet, the moons, their roots, and all peers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from ztnode.vl1.path import Path
from ztnode.vl1.peer import Peer
from ztnode.vl1.scope import Scope, scope_of
from ztnode.vl1.vl1_events import Event, MoonUpdated, PlanetUpdated
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World, WorldType

MAX_MOONS: Final = 16
"""Moons that a node orbits or looks for."""


class Topology:
    """The worlds in force, which of their roots are upstream of us, and the table of peers."""

    def __init__(
        self,
        identity: Identity,
        planet: World,
        moons: Sequence[World],
        seeds: Mapping[int, int],
        max_peers: int,
        max_peers_of_root: int,
        emit: Callable[[Event], None],
        counters: Counter[str],
    ) -> None:
        self.identity = identity
        self.planet = planet
        self.moons: dict[int, World] = {moon.id: moon for moon in moons[:MAX_MOONS]}
        self.moon_seeds: dict[int, int] = {
            moon: seed for moon, seed in [*seeds.items()][:MAX_MOONS] if moon not in self.moons
        }
        """Moons asked for and not yet known, with the root that may give them to us."""
        self.by_wire: dict[bytes, Peer] = {}
        """Peers by their address as it stands in a packet header: the look-up of the hot path."""
        self.by_address: dict[int, Peer] = {}
        self.upstreams: dict[int, tuple[Endpoint, ...]] = {}
        """The roots other than ourselves, with the endpoints that their worlds give them."""
        self._anywhere: set[int] = set()
        """Roots for which a world names no endpoint: they may be wherever they answer from."""
        self.is_root = False
        """Whether a world names us as one of its roots."""
        self.on_loopback = False
        """Whether a root has a loopback endpoint: then the whole overlay is on this machine, for a test or demo."""
        self._max_peers = max_peers
        self._max_peers_of_root = max_peers_of_root
        self._emit = emit
        self._counters = counters
        self._collect_upstreams()

    # Peers

    def add(self, identity: Identity) -> Peer:
        """The peer with this identity, made if it is not known yet. The identity must have been proved to be the
        address's own. WireError if no key can be agreed upon, or if the address is ours or known with another key."""
        if identity.address == self.identity.address:
            raise WireError("this address is our own")
        peer = self.by_address.get(identity.address)
        if peer is None:
            return self.insert(Peer(identity, PeerKeys(self.identity.agree(identity))))
        if peer.identity.public != identity.public:
            raise WireError("this address is known with another key")
        return peer

    def insert(self, peer: Peer) -> Peer:
        """Enter a new peer into the table. The one that was silent longest makes room, roots excepted."""
        if len(self.by_address) >= (self._max_peers_of_root if self.is_root else self._max_peers):
            leaves = (known for known in self.by_address.values() if not self.is_sought(known.address))
            oldest = min(leaves, key=lambda known: (known.persistent, known.last_receive), default=None)
            if oldest is not None:
                self.forget(oldest)
                self._counters["peers_evicted"] += 1
        self.by_address[peer.address] = peer
        self.by_wire[peer.wire] = peer
        return peer

    def forget(self, peer: Peer) -> None:
        """Drop a peer from the table."""
        del self.by_address[peer.address]
        del self.by_wire[peer.wire]

    def is_upstream(self, address: int) -> bool:
        """Whether this is a root of a world that we live in."""
        return address in self.upstreams

    def is_sought(self, address: int) -> bool:
        """Whether our worlds want us to stay in contact with this peer: a root, or one that shall give us a moon."""
        return address in self.upstreams or address in self.moon_seeds.values()

    def upstream_peers(self) -> Iterable[Peer]:
        """The roots, in the order of their worlds."""
        return (self.by_address[address] for address in self.upstreams)

    def best_upstream(self) -> Peer | None:
        """The root to relay through: the nearest of those that answer (Topology::getUpstreamPeer)."""
        reachable = [peer for peer in self.upstream_peers() if peer.path is not None]
        return min(reachable, key=lambda peer: _latency(peer.path), default=None)

    # Worlds

    def permits(self, address: int, endpoint: Endpoint) -> bool:
        """Whether a peer may be at ``endpoint``: a root only where its world says, if it says so at all
        (Topology::isProhibitedEndpoint)."""
        stable = self.upstreams.get(address)
        return not stable or address in self._anywhere or any(endpoint[0] == ip for ip, _ in stable)

    def accepts_worlds_from(self, address: int) -> bool:
        """Whether world updates from this peer are worth a look (their signatures decide)."""
        return self.is_sought(address)

    def orbit(self, moon: int, seed: int) -> None:
        """Look for a moon of which ``seed`` is a root; one that is known already stays as it is. ValueError where that
        were too many."""
        if moon in self.moons:
            return
        if moon not in self.moon_seeds and len(self.moons) + len(self.moon_seeds) >= MAX_MOONS:
            raise ValueError(f"this node orbits or looks for {MAX_MOONS} moons already; leave one")
        self.moon_seeds[moon] = seed

    def add_moon(self, moon: World) -> None:
        """Orbit a moon that the user has given us, whose word is enough, as it is for a file in ``moons.d``
        (Topology::addMoon). ValueError where it is none, or no successor of the one that we have."""
        if moon.type is not WorldType.MOON or not moon.roots:
            raise ValueError("this is no moon: it is a planet or has no roots")
        present = self.moons.get(moon.id)
        if present == moon:
            return
        if present is not None and not present.may_be_replaced_by(moon):
            raise ValueError(
                "this is no later version, signed by the right key, of the moon that is orbited: leave that"
            )
        if present is None:
            self.orbit(moon.id, moon.roots[0].identity.address)
        self._take_moon(moon)

    def deorbit(self, moon: int) -> bool:
        """Leave a moon, or give up looking for it. False if there is none (Topology::removeMoon)."""
        seed, known = self.moon_seeds.pop(moon, None), self.moons.pop(moon, None)
        self._collect_upstreams()
        return seed is not None or known is not None

    def offer_world(self, world: World) -> bool:
        """Take a planet or moon that arrived, if it is newer and signed as the present one demands, or if it is a moon
        that we asked for (Topology::addWorld). True if something changed."""
        if world.type == WorldType.PLANET:
            if not self.planet.may_be_replaced_by(world):
                return False
            self.planet = world
            self._emit(PlanetUpdated(world.build()))
            self._collect_upstreams()
        else:
            present = self.moons.get(world.id)
            if present is not None:
                if not present.may_be_replaced_by(world):
                    return False
            elif self.moon_seeds.get(world.id) not in {root.identity.address for root in world.roots}:
                return False
            self._take_moon(world)
        return True

    def _take_moon(self, moon: World) -> None:
        self.moon_seeds.pop(moon.id, None)
        self.moons[moon.id] = moon
        self._emit(MoonUpdated(moon.id, moon.build()))
        self._collect_upstreams()

    def _collect_upstreams(self) -> None:
        upstreams: dict[int, list[Endpoint]] = {}
        self._anywhere = set()
        self.is_root = self.on_loopback = False
        for world in (self.planet, *self.moons.values()):
            for root in world.roots:
                # A root's own endpoint counts as well: who reaches it on loopback is on this machine.
                self.on_loopback |= any(scope_of(ip) is Scope.LOOPBACK for ip, _ in root.endpoints)
                if root.identity.public == self.identity.public:
                    self.is_root = True
                    continue
                try:
                    self.add(root.identity)
                except WireError:
                    self._counters["drop_root_identity"] += 1
                    continue
                endpoints = upstreams.setdefault(root.identity.address, [])
                endpoints.extend(endpoint for endpoint in root.endpoints if endpoint not in endpoints)
                if not root.endpoints:
                    self._anywhere.add(root.identity.address)
        self.upstreams = {address: tuple(endpoints) for address, endpoints in upstreams.items()}


def _latency(path: Path | None) -> float:
    return 1.0 if path is None or path.latency is None else path.latency
