"""From an address to a peer: what is kept until we know whose it is, whom we ask, and when we find out ourselves.

Two sources make a peer known: a root's answer to WHOIS, which is taken at its word, and a HELLO, whose identity is
believed once a root confirms it or the memory-hard hash does (``strangers`` has the order of these checks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from ztnode.token_bucket import TokenBucket
from ztnode.vl1.contacts import Contacts
from ztnode.vl1.gates import KeyedBucket, source_network
from ztnode.vl1.peer import Peer
from ztnode.vl1.strangers import PATIENCE, Strangers
from ztnode.vl1.topology import Topology
from ztnode.vl1.transmit import Transmit
from ztnode.vl1.vl1_config import Vl1Config
from ztnode.vl1.waiting_room import Cause, Outgoing, WaitingRoom, Wanted
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.known_peers import KnownPeer, KnownPeers
from ztnode.wire.packet import ERROR_IDENTITY_COLLISION, VERB_ERROR, VERB_HELLO, VERB_WHOIS
from ztnode.wire.reply import build_error
from ztnode.wire.whois import build_whois
from ztnode.wire.wire_error import WireError

MAX_JUDGING: Final = 64
"""Identities whose validation by the owner is awaited."""
MAX_SUGGESTIONS: Final = 64
"""Endpoints kept for peers that a root has suggested before we know them."""
HASH_RATE: Final = (0.2, 4)
"""Memory-hard hashes of strangers' identities: per second, and at once."""
HASH_BURST_OF_ROOTS: Final = 16
"""At once, for a root; ``Vl1Config.hashes_per_second`` has the rate."""
SEEK_INTERVAL: Final = 5.0
"""Seconds between two HELLOs to a peer that shall give us a moon: it may not have the moon itself yet."""
UNPROVEN_RATE: Final = (50.0, 100.0)
"""Unknown addresses that packets out of one /24 or /48 may make us ask for: per second, and at once."""
RETURN_RATE: Final = (200.0, 512.0)
"""Key agreements for packets that claim to come from peers of the last run."""
LOOKUP_RATE: Final = (10.0, 64.0)
"""Unknown addresses that one peer's WHOIS may make us ask for."""
QUESTION_RATE: Final = (2000.0, 1000.0)
"""Addresses that strangers and peers may make us ask roots for in all."""
QUESTION_INTERVAL: Final = 0.02
"""Seconds between two WHOIS to the same root on account of others: what they want is asked for together."""
MAX_QUESTIONS: Final = 64
"""Addresses in one WHOIS; ours look no further (``verbs.MAX_WHOIS``)."""


class Introductions:
    """Makes peers known."""

    def __init__(
        self,
        identity: Identity,
        topology: Topology,
        transmit: Transmit,
        contacts: Contacts,
        config: Vl1Config,
        deliver: Callable[[Peer, bytes, Endpoint, float], None],
        counters: Counter[str],
        known: KnownPeers,
    ) -> None:
        """``deliver`` takes a whole packet of a peer that has just become known, and where it came from; ``known`` are
        the peers of the last run."""
        self._identity = identity
        self._topology = topology
        self._transmit = transmit
        self._contacts = contacts
        self._deliver = deliver
        self._counters = counters
        self._known = known
        self._defer_checks = config.defer_identity_checks
        self._strangers = Strangers(identity, counters)
        self._hashes = TokenBucket(*HASH_RATE)
        self._hashes_of_root = TokenBucket(config.hashes_per_second, HASH_BURST_OF_ROOTS)
        self._relay = config.relay
        self.waiting = WaitingRoom(counters)
        self._unproven = KeyedBucket(*UNPROVEN_RATE, 4096)
        self._returns = TokenBucket(*RETURN_RATE)
        self._lookups = KeyedBucket(*LOOKUP_RATE, 1024)
        self._questions = TokenBucket(*QUESTION_RATE)
        self._asked_at = float("-inf")
        self._kept: set[int] = set()
        self._suggestions: dict[int, Endpoint] = {}
        self._judging: dict[bytes, Peer] = {}
        self.checks: list[Identity] = []
        """What ``identity_checks`` will give."""

    # What the network brings

    def admits_hello(self, address: int, endpoint: Endpoint, now: float) -> bool:
        """Whether a HELLO in the clear, of no peer that we know, is to be looked into."""
        return self._strangers.admits(endpoint, now, is_known=self._known.get(address) is not None)

    def first_hello(self, identity: Identity, hello: bytes, endpoint: Endpoint, now: float) -> None:
        """HELLO in the clear from an address that we do not know."""
        known = self._known.get(identity.address)
        is_known = known is not None and known.identity.public == identity.public
        candidate = self._strangers.candidate(identity, hello)
        if candidate is None:
            return
        if is_known:  # its address was checked in an earlier run
            self.met(self._topology.insert(candidate), now)
            self._deliver(candidate, hello, endpoint, now)
            return
        wanted = self.waiting.want(identity.address, Cause.HELLO, now)
        if wanted.candidate is None:
            wanted.candidate = candidate
        self.waiting.keep_incoming(wanted, hello, endpoint, now)
        self.ask(now)

    def colliding_hello(self, identity: Identity, hello: bytes, endpoint: Endpoint, now: float) -> None:
        """Somebody has an address that we know with another key: tell them (IncomingPacket::_doHELLO)."""
        candidate = self._strangers.candidate(identity, hello)
        if candidate is not None:
            self._counters["drop_identity_collision"] += 1
            error = build_error(VERB_HELLO, int.from_bytes(hello[:8], "big"), ERROR_IDENTITY_COLLISION)
            self._transmit.send_to(endpoint, candidate, VERB_ERROR, (error[1:],), now)

    def packet_from_unknown(self, packet: bytes, endpoint: Endpoint, confirmed: bool, now: float) -> None:
        """A packet that cannot be opened yet: keep it while a root is asked who its sender is. ``confirmed``: it came
        from where a known peer is, a root that relays first of all."""
        address = int.from_bytes(packet[13:18], "big")
        wanted = self.waiting.get(address)
        if wanted is None:
            if address == self._identity.address or not (
                confirmed or self._unproven.admit(source_network(endpoint[0]), now)
            ):
                self._counters["drop_unknown_source"] += 1
                return
            if (known := self._known.get(address)) is not None:
                self._packet_from_known(known, packet, endpoint, now)
                return
            wanted = self.waiting.want(address, Cause.PACKET, now)
        self.waiting.keep_incoming(wanted, packet, endpoint, now)
        self._ask_for_others(now)

    def _packet_from_known(self, known: KnownPeer, packet: bytes, endpoint: Endpoint, now: float) -> None:
        """A packet that claims to come from a peer of the last run: that is one again if it does."""
        candidate = self._strangers.agree(known.identity) if self._returns.admit(now) else None
        if candidate is None or candidate.keys.open(packet) is None:
            self._counters["drop_forged"] += 1
            return
        self.met(self._topology.insert(candidate), now)
        self._deliver(candidate, packet, endpoint, now)

    def remembered(self, address: int, now: float) -> Peer | None:
        """The peer of the last run with this address, made one of this run and looked for where it was; None if there
        is none."""
        known = self._known.get(address)
        if known is None:
            return None
        try:
            peer = self._topology.add(known.identity)
        except WireError:
            return None
        peer.last_traffic = now
        for endpoint in known.endpoints:
            self._contacts.attempt(peer, endpoint, now)
        return peer

    def suggest(self, address: int, endpoint: Endpoint, now: float) -> None:
        """A root says that a peer is at ``endpoint``, perhaps before we know the peer."""
        peer = self._topology.by_address.get(address)
        if peer is not None:
            self._contacts.meet(peer, endpoint, now)
            return
        if len(self._suggestions) >= MAX_SUGGESTIONS:
            del self._suggestions[next(iter(self._suggestions))]
        self._suggestions[address] = endpoint

    def asked_for(self, asker: Peer, address: int, now: float) -> None:
        """A peer asked us for an address that we do not know."""
        if address in self.waiting or not self._topology.upstreams:
            return
        if not self._lookups.admit(asker.address, now):
            self._counters["drop_rate_whois"] += 1
            return
        self.waiting.want(address, Cause.ASKED, now)
        self._ask_for_others(now)

    # What the layer above wants

    def send_later(self, address: int, packet: Outgoing, now: float) -> None:
        """Keep a packet until its peer is known and can be reached."""
        if address not in self._topology.by_address:
            self.remembered(address, now)
        self.waiting.keep_outgoing(self.waiting.want(address, Cause.OWN, now), packet)
        self.ask(now)

    def keep(self, address: int, now: float) -> None:
        """Get to know ``address`` and stay in contact with it."""
        self._kept.add(address)
        peer = self._topology.by_address.get(address) or self.remembered(address, now)
        if peer is None:
            self.waiting.want(address, Cause.OWN, now)
            self.ask(now)
        else:
            peer.persistent = True

    def release(self, address: int) -> None:
        """Undo ``keep``."""
        self._kept.discard(address)
        if (peer := self._topology.by_address.get(address)) is not None:
            peer.persistent = False

    def seek(self, now: float) -> None:
        """Look for the peers that shall give us a moon: by WHOIS, and by HELLO straight or through a root. The moon
        comes with their OK."""
        if not self._topology.moon_seeds:
            return
        for address in {*self._topology.moon_seeds.values()}:
            peer = self._topology.by_address.get(address) or self.remembered(address, now)
            if peer is None:
                self.waiting.want(address, Cause.OWN, now)
            elif (path := self._transmit.route(peer)) is not None and now - peer.last_hello >= SEEK_INTERVAL:
                peer.last_hello = now
                self._contacts.hello(peer, path.endpoint, now)
        self.ask(now)

    # The clock

    def next_timer(self) -> float | None:
        """When ``ask`` has something to do next."""
        due = self.waiting.next_timer()
        return None if due is None else max(due, self._asked_at + QUESTION_INTERVAL)

    def tick(self, now: float) -> None:
        """Drop what has waited too long, and go on looking for those that we are to stay in contact with."""
        self.waiting.expire(now)
        for address in self._kept:
            if address not in self._topology.by_address:
                self.waiting.want(address, Cause.OWN, now)
        self.seek(now)

    def root_reachable(self, now: float) -> None:
        """A root can be asked that could not before."""
        self.waiting.hurry(now)
        self.seek(now)
        self.ask(now)

    def _ask_for_others(self, now: float) -> None:
        """As ``ask``, but now and then: thousands of packets a second may want it."""
        if now - self._asked_at >= QUESTION_INTERVAL:
            self.ask(now)

    def ask(self, now: float) -> None:
        """Ask roots for the wanted addresses that are due, and do without where no root can be asked."""
        self._asked_at = now
        upstreams = sorted(
            (peer for peer in self._topology.upstream_peers() if peer.path is not None),
            key=lambda peer: peer.latency or 0.0,
        )
        questions: dict[int, list[int]] = {}
        for address, wanted in self.waiting.due(now):
            known = self._topology.by_address.get(address)
            if known is not None:
                self.met(known, now)
            elif wanted.candidate is not None and (not upstreams or wanted.tries > PATIENCE):
                self._judge(wanted, now)
            elif upstreams and (wanted.cause <= Cause.HELLO or self._questions.admit(now)):
                questions.setdefault((wanted.tries - 1) % len(upstreams), []).append(address)
        for index, addresses in questions.items():
            upstream = upstreams[index]
            for start in range(0, len(addresses), MAX_QUESTIONS):
                if upstream.path is not None:
                    question = build_whois(addresses[start : start + MAX_QUESTIONS])
                    self._transmit.send(upstream, VERB_WHOIS, (question,), upstream.path, now)

    # Finding out

    def _judge(self, wanted: Wanted, now: float) -> None:
        """Nobody can tell us whether a stranger's identity is good: compute it, or have it computed."""
        candidate = wanted.candidate
        if candidate is None or candidate.wire in self._judging:
            return
        hashes = self._hashes_of_root if self._relay or self._topology.is_root else self._hashes
        if not hashes.admit(now):
            self._counters["drop_rate_identity"] += 1
            return
        self._counters["identities_hashed"] += 1
        self._judging[candidate.wire] = candidate
        if not self._defer_checks:
            self.identity_checked(candidate.identity, candidate.identity.validate(), now)
            return
        self.checks.append(candidate.identity)
        if len(self._judging) > MAX_JUDGING:
            del self._judging[next(iter(self._judging))]

    def identity_checks(self) -> list[Identity]:
        """Identities for the owner to validate, since the last call."""
        checks, self.checks = self.checks, []
        return checks

    def identity_checked(self, identity: Identity, valid: bool, now: float) -> None:
        """The verdict on a candidate."""
        candidate = self._judging.pop(identity.address.to_bytes(5, "big"), None)
        if candidate is None or candidate.identity.public != identity.public:
            return
        if not valid:
            self._strangers.reject(identity)
            if (wanted := self.waiting.get(identity.address)) is not None:  # our own packets go on waiting
                wanted.candidate = None
                self.waiting.take_incoming(wanted)
        elif identity.address not in self._topology.by_address:
            self.met(self._topology.insert(candidate), now)

    def identity_found(self, identity: Identity, now: float) -> None:
        """A root has told us an identity. Only what we asked for is of interest."""
        if identity.address not in self.waiting:
            return
        try:
            self.met(self._topology.add(identity), now)
        except WireError:
            self._counters["drop_invalid_identity"] += 1

    def met(self, peer: Peer, now: float) -> None:
        """A peer is known, or can be reached, for the first time: do what has waited for that."""
        peer.last_traffic = max(peer.last_traffic, now)
        peer.persistent = peer.persistent or peer.address in self._kept
        wanted = self.waiting.get(peer.address)
        if wanted is not None:
            incoming = self.waiting.take_incoming(wanted)
            path = self._transmit.route(peer)
            if path is not None or not wanted.outgoing:
                self.waiting.take(peer.address)
            if path is not None:
                for waiting in wanted.outgoing or ():
                    self._transmit.send(
                        peer,
                        waiting.verb,
                        (waiting.payload,),
                        path,
                        now,
                        squeeze=waiting.squeeze,
                        plain_id=waiting.promised_id,
                    )
            for arrived in incoming:
                self._deliver(peer, arrived.packet, arrived.endpoint, now)
        if (suggested := self._suggestions.pop(peer.address, None)) is not None:
            self._contacts.meet(peer, suggested, now)
