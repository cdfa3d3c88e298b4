"""VL1: the peer-to-peer transport of ZeroTier, without I/O.

``Vl1`` is one class with three drivers. The network hands it datagrams (``receive``), the clock wakes it
(``handle_timer`` at ``next_timer``) and the layer above sends (``send``, ``send_batch``). What comes out is collected
until the owner takes it: datagrams (``to_send``), messages for the layer above (``messages``) and events (``events``).
Nothing here reads a clock or a random source that was not handed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from ztnode.vl1.direct_way import Carried, DirectWay
from ztnode.vl1.gates import KeyedBucket, source_network
from ztnode.vl1.packet_assembler import MAX_FROM_PEERS, MAX_FROM_STRANGERS, PacketAssembler
from ztnode.vl1.peer import ACTIVITY_TIMEOUT, TRUST_EXPIRATION, Peer, replay_share
from ztnode.vl1.relay import Relay
from ztnode.vl1.traffic import VERB_HELLO_COPY
from ztnode.vl1.transmit import cipher_for
from ztnode.vl1.verbs import HANDLERS, PASSED_UP, ArrivedPacket, on_unknown
from ztnode.vl1.vl1_config import Vl1Config
from ztnode.vl1.vl1_core import Message, Vl1Core
from ztnode.vl1.vl1_events import Event, Offline, PeerReturned
from ztnode.vl1.waiting_room import Outgoing
from ztnode.wire.buffer import Buffer
from ztnode.wire.compression import decompress
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.fragment import INDICATOR, MIN_FRAGMENT_LENGTH, OFFSET_DATA, OFFSET_INDICATOR, join_halves
from ztnode.wire.hello import hello_identity
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.known_peers import KnownPeer, KnownPeers
from ztnode.wire.packet import (
    CIPHER_AES_GMAC_SIV,
    CIPHER_POLY1305_SALSA2012,
    FLAG_FRAGMENTED,
    FLAGS_HOPS_MASK,
    MAX_PACKET_LENGTH,
    MIN_PACKET_LENGTH,
    OFFSET_FLAGS,
    OFFSET_VERB,
    VERB_ERROR,
    VERB_EXT_FRAME,
    VERB_FLAG_COMPRESSED,
    VERB_FRAME,
    VERB_HELLO,
    VERB_MASK,
    VERB_OK,
    VERB_PUSH_DIRECT_PATHS,
)
from ztnode.wire.push_direct_paths import DirectPath, build_push_direct_paths
from ztnode.wire.reply import build_error, build_ok
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World

OFFLINE_TIMEOUT: Final = 45.0
"""Seconds without a word from any root after which we call ourselves offline: three heartbeats. (The reference waits
for 500 s.)"""
PUSH_INTERVAL: Final = 15.0
"""Seconds between two PUSH_DIRECT_PATHS to a trusted peer without a direct path (ZT_DIRECT_PATH_PUSH_INTERVAL)."""
PUSH_INTERVAL_DIRECT: Final = 120.0
"""The same for one with a direct path (ZT_DIRECT_PATH_PUSH_INTERVAL_HAVEPATH)."""
MAX_PUSHED: Final = 56
"""Endpoints in one PUSH_DIRECT_PATHS: as many IPv6 ones as a datagram holds. Our own come first, then those that others
see, in the order in which these are believed."""
OLD_SUITE_RATE: Final = (200.0, 600.0)
"""Packets in the name of known peers, sealed or authenticated with Salsa20/12, that one /24 or /48 may make us look
into from where no peer is known to be: per second, and at once. The first block of each key stream costs 15 us in a
batch of 64 and 500 alone, so that 10,000 forged ones a second would take a core."""
SILENCE: Final = 2.5
"""Seconds without a word from a peer to which frames are sent, after which its return is news. (A peer acknowledges
within tenths of a second what it gets.)"""
FAVORED_FOR: Final = 10.0
"""Seconds after a packet during which its endpoint is worth a queue of its own."""
_SALSA: Final = CIPHER_POLY1305_SALSA2012 << 3
_CIPHER_MASK: Final = 0x38
_HELLO_PUBLIC_KEY: Final = slice(OFFSET_VERB + 20, OFFSET_VERB + 84)
"""Behind verb, protocol, version, time, and the identity's address and type."""
_NOWHERE: Final[Endpoint] = "", 0
_VERB_OR_COPY: Final = VERB_MASK | VERB_HELLO_COPY
_MAX_DATAGRAM: Final = MAX_PACKET_LENGTH


class Vl1:
    """A node of the overlay: its peers, its paths and its roots."""

    def __init__(
        self,
        identity: Identity,
        planet: World,
        *,
        moons: Sequence[World] = (),
        seeds: Mapping[int, int] | None = None,
        random: Callable[[int], bytes],
        now: float,
        wall: int,
        config: Vl1Config | None = None,
        known: KnownPeers | None = None,
    ) -> None:
        """``identity`` has its private keys; ``seeds``: moons that are looked for, each with a root of it; ``now``:
        monotonic seconds; ``wall``: Unix time in ms at ``now``; ``known``: the peers of the last run
        (``known_peers``), which need neither WHOIS nor the hash.
        The first HELLOs to the roots wait in ``to_send`` when this returns."""
        self.identity = identity
        self.config = config or Vl1Config()
        self._started = now
        self._wall_at_start = wall
        self._known = KnownPeers() if known is None else known
        own_keys = PeerKeys(identity.agree(identity))
        self._core = Vl1Core(
            identity,
            planet,
            moons,
            seeds or {},
            self.config,
            random,
            self._wall,
            self._deliver,
            now,
            known=self._known,
            own_keys=own_keys,
        )
        self.to_send: Callable[[], list[tuple[Endpoint, list[bytes]]]] = self._core.transmit.take
        """What must go out now, grouped by endpoint, in order; empties the queue."""
        self.counters = self._core.counters
        """Packets dropped, by reason (``drop_...``), and what else is worth counting."""
        self.traffic = self._core.traffic
        """Packets by verb."""
        self._own = identity.address.to_bytes(5, "big")
        self._myself = Peer(identity.without_secret(), own_keys)
        """Whom messages to ourselves are from: a controller may be a member of its own networks."""
        self._myself.protocol = self.config.protocol
        self._myself.version = self.config.version
        self._local_endpoints: tuple[Endpoint, ...] = ()
        self._relay = Relay(self._core.topology, self._core.transmit, self._core.contacts, random, self.counters)
        self._old_suites = KeyedBucket(*OLD_SUITE_RATE, 4096)
        self._fragments = PacketAssembler(MAX_FROM_PEERS, self.counters)
        self._fragments_of_strangers = PacketAssembler(MAX_FROM_STRANGERS, self.counters)
        if self._core.topology.is_root:
            self._core.set_online(identity.address)
        self._core.contacts.due(now)
        self._core.introductions.seek(now)

    # The network

    def receive(self, datagrams: Sequence[tuple[bytes, Endpoint]], now: float) -> None:
        """Take a batch of datagrams, each with where it came from. Never raises on their content."""
        by_wire = self._core.topology.by_wire
        # By peer, wherever the packets come from: ports that alternate must not make one batch many.
        runs: dict[Peer, list[tuple[bytes, Endpoint]]] = {}
        run: list[tuple[bytes, Endpoint]] = []
        run_peer: Peer | None = None
        for packet in self._whole(datagrams, now):
            data, endpoint = packet
            peer = by_wire.get(data[13:18])
            if peer is None or data[OFFSET_FLAGS] & _CIPHER_MASK <= _SALSA:
                peer = self._looked_into(peer, data, endpoint, now)
                if peer is None:
                    continue
            if peer is not run_peer:
                run_peer = peer
                run = runs.setdefault(peer, [])
            run.append(packet)
        for peer, run in runs.items():
            self._open_run(peer, self._without_replays(peer, run) if peer.is_replayed else run, now)
            if peer.taken is not None:
                peer.taken += [packet[:8] for packet, _ in run if packet[:8] in peer.seen]  # it is authentic, that is

    def _whole(self, datagrams: Sequence[tuple[bytes, Endpoint]], now: float) -> list[tuple[bytes, Endpoint]]:
        """The whole packets for us among the datagrams, and what fragments complete.

        A frame of a ZeroTier network is two fragments, which come one after the other: a head waits in ``head`` for
        what follows, and only what does not go together at once is the assembler's.
        """
        own = self._own
        packets: list[tuple[bytes, Endpoint]] = []
        add = packets.append
        head, from_ = b"", _NOWHERE
        for datagram in datagrams:
            data, endpoint = datagram
            if not MIN_FRAGMENT_LENGTH < len(data) <= _MAX_DATAGRAM:
                self.counters["drop_malformed"] += 1
            elif data[8:13] != own:
                self._not_for_us(data, endpoint, now)
            elif data[OFFSET_INDICATOR] == INDICATOR:
                if head:
                    if endpoint == from_ and (packet := join_halves(head, data)):
                        add((packet, endpoint))
                        head = b""
                        continue
                    self._take_head(head, from_, packets, now)
                    head = b""
                self._take_fragment(data, endpoint, packets, now)
            elif len(data) < MIN_PACKET_LENGTH:
                self.counters["drop_malformed"] += 1
            elif data[OFFSET_FLAGS] & FLAG_FRAGMENTED:
                if head:
                    self._take_head(head, from_, packets, now)
                head, from_ = datagram
            else:
                add(datagram)
        if head:
            self._take_head(head, from_, packets, now)
        return packets

    def _take_head(self, data: bytes, endpoint: Endpoint, packets: list[tuple[bytes, Endpoint]], now: float) -> None:
        whole = self._reassembler(endpoint).head(data, endpoint, now)
        if whole is not None:
            packets.append(whole)

    def _take_fragment(
        self, data: bytes, endpoint: Endpoint, packets: list[tuple[bytes, Endpoint]], now: float
    ) -> None:
        if self._core.twins.is_probe(data):
            self._core.twins.received(data[OFFSET_DATA:], now)
            return
        whole = self._reassembler(endpoint).fragment(data, endpoint, now)
        if whole is None:
            return
        if len(whole[0]) < MIN_PACKET_LENGTH:
            self.counters["drop_malformed"] += 1
        else:
            packets.append(whole)

    def _reassembler(self, endpoint: Endpoint) -> PacketAssembler:
        return self._fragments if endpoint in self._core.path_endpoints else self._fragments_of_strangers

    def _open_run(self, peer: Peer, run: list[tuple[bytes, Endpoint]], now: float) -> None:
        """Packets that claim to be from one peer, in their order."""
        core = self._core
        messages = core.messages
        arrived = core.traffic.arrived
        direct: Endpoint | None = None
        relay: Endpoint | None = None
        sent_in_vain = peer.last_frame > peer.last_frame_in
        is_new = peer.seen.is_new
        opened = peer.keys.open_many([packet for packet, _ in run])
        peer.received += len(run)
        for (packet, endpoint), plaintext in zip(run, opened, strict=True):
            if plaintext is None and (plaintext := self._unprotected(packet, endpoint)) is None:
                peer.received -= 1
                peer.invalid += 1
                continue
            wire_id = packet[:8]
            verb = plaintext[0]
            if not is_new(wire_id):
                if not self._is_hello_by_another_way(peer, packet, endpoint, now):
                    continue
                verb = VERB_HELLO_COPY
            hops = packet[OFFSET_FLAGS] & FLAGS_HOPS_MASK
            if hops:
                relay = endpoint
            elif endpoint is not direct and endpoint != direct:
                if direct is not None:
                    self._heard(peer, direct, now, by_hello=False)
                direct = endpoint
            if verb & VERB_FLAG_COMPRESSED:
                try:
                    plaintext = decompress(plaintext)
                except WireError:
                    self.counters["drop_malformed"] += 1
                    continue
            verb &= _VERB_OR_COPY
            arrived[verb] += 1
            if verb in PASSED_UP:
                messages.append((peer, verb, int.from_bytes(wire_id, "big"), memoryview(plaintext)[1:]))
                peer.last_traffic = now
                if verb <= VERB_EXT_FRAME:
                    peer.last_frame = peer.last_frame_in = now
                continue
            arrival = ArrivedPacket(peer, int.from_bytes(wire_id, "big"), plaintext, endpoint, hops, now)
            try:
                HANDLERS.get(verb, on_unknown)(core, arrival)
            except WireError:
                self.counters["drop_malformed"] += 1
        if direct is not None or relay is not None:
            if sent_in_vain and now - peer.last_receive >= SILENCE:
                core.emit(PeerReturned(peer.address))
            self._heard_by(peer, direct, relay, now, by_hello=opened[-1] is not None and opened[-1][0] == VERB_HELLO)

    def _unprotected(self, packet: bytes, endpoint: Endpoint) -> bytes | None:
        """The plaintext of a packet that no key opens: it came on a trusted path, or is dropped."""
        trusted = self._core.trusts(packet, endpoint)
        self.counters["drop_forged"] += trusted is None
        return packet[OFFSET_VERB:] if trusted else None

    def _is_hello_by_another_way(self, peer: Peer, packet: bytes, endpoint: Endpoint, now: float) -> bool:
        """Whether a packet that came before is to be answered nevertheless: a node with several sockets sends the same
        HELLO from each, and only an answer shows it that the second one works too."""
        if not packet[OFFSET_FLAGS] & _CIPHER_MASK and endpoint not in peer.paths and peer.copy_gate.admit(now):
            return True
        self.counters["drop_duplicate"] += 1
        peer.is_replayed = True
        return False

    def _without_replays(self, peer: Peer, run: list[tuple[bytes, Endpoint]]) -> list[tuple[bytes, Endpoint]]:
        """Somebody is playing back what the peer has sent: pick that out before it costs more than a look-up."""
        new = [
            (packet, endpoint)
            for packet, endpoint in run
            if not (packet[OFFSET_FLAGS] & _CIPHER_MASK and packet[:8] in peer.seen)
        ]
        self.counters["drop_duplicate"] += len(run) - len(new)
        peer.is_replayed = len(new) < len(run)
        return new

    def _heard_by(
        self, peer: Peer, direct: Endpoint | None, relay: Endpoint | None, now: float, *, by_hello: bool
    ) -> None:
        """Something authentic came, straight or by a relay; ``by_hello`` as below."""
        if direct is not None:
            self._heard(peer, direct, now, by_hello=by_hello)
        elif relay is not None:
            self._heard_relayed(peer, relay, now)

    def _heard(self, peer: Peer, endpoint: Endpoint, now: float, *, by_hello: bool) -> None:
        """Something authentic came from a peer straight from ``endpoint``; ``by_hello``: a HELLO was the last of it."""
        peer.last_receive = now
        path = peer.paths.get(endpoint)
        if path is not None and not path.dead:
            # From elsewhere it may be what somebody plays back: that is no second host.
            if endpoint != peer.traffic_from and peer.last_traffic == now:
                self._core.twins.moved(peer, endpoint, now)
            self._core.heard_on(peer, path, now)
        else:
            self._core.contacts.confirm(peer, endpoint, now, by_hello=by_hello)

    def _heard_relayed(self, peer: Peer, relay: Endpoint, now: float) -> None:
        peer.last_receive = now
        if not peer.protocol:
            self._core.contacts.heard_relayed(peer, relay, now)

    def _not_for_us(self, data: bytes, endpoint: Endpoint, now: float) -> None:
        if self.is_relay:
            self._relay.forward(data, endpoint, now)
            self._core.hurry_tick(now)
        else:
            self.counters["drop_misaddressed"] += 1

    # From the unknown

    def _from_unknown(self, data: bytes, endpoint: Endpoint, confirmed: bool, now: float) -> None:
        """A packet of somebody whom we do not know, in any cipher suite but 0."""
        if data[13:18] == self._own:
            self._core.twins.received(data, now)
        elif self._core.trusts(data, endpoint) is not False:
            self._core.introductions.packet_from_unknown(data, endpoint, confirmed, now)

    def _looked_into(self, peer: Peer | None, data: bytes, endpoint: Endpoint, now: float) -> Peer | None:
        """Whose keys a packet is to be opened with that is not a known ``peer``'s, or costs more than AES-GMAC-SIV to
        open; None if it is not to be opened now."""
        confirmed = endpoint in self._core.path_endpoints
        if peer is not None and not confirmed and not self._old_suites.admit(source_network(endpoint[0]), now):
            self.counters["drop_rate_unconfirmed"] += 1
            return None
        if not data[OFFSET_FLAGS] & _CIPHER_MASK:
            return self._greeting_peer(data, endpoint, now)
        if peer is None:
            self._from_unknown(data, endpoint, confirmed, now)
        return peer

    def _greeting_peer(self, data: bytes, endpoint: Endpoint, now: float) -> Peer | None:
        """Take a packet of cipher suite 0, which may be HELLO alone. The peer that it claims to come from, with the
        key that we know, if that is to look further into it."""
        if data[OFFSET_VERB] & (VERB_MASK | VERB_FLAG_COMPRESSED) != VERB_HELLO:
            self.counters["drop_not_encrypted"] += 1
            return None
        peer = self._core.topology.by_wire.get(data[13:18])
        if peer is not None and data[_HELLO_PUBLIC_KEY] == peer.identity.public:
            return peer
        if not self._core.introductions.admits_hello(int.from_bytes(data[13:18], "big"), endpoint, now):
            return None
        try:
            identity = hello_identity(memoryview(data)[OFFSET_VERB:])
        except WireError:
            self.counters["drop_malformed"] += 1
            return None
        if identity.address != int.from_bytes(data[13:18], "big"):
            self.counters["drop_malformed"] += 1
        elif identity.address == self.identity.address:
            self.counters["drop_misaddressed"] += 1
        elif peer is None:
            self._core.introductions.first_hello(identity, data, endpoint, now)
        else:
            self._core.introductions.colliding_hello(identity, data, endpoint, now)
        return None

    def _deliver(self, peer: Peer, packet: bytes, endpoint: Endpoint, now: float) -> None:
        """A packet that waited for its sender to become known. It is whole: fragments were joined before."""
        self._core.hurry_tick(now)
        if packet[OFFSET_FLAGS] & _CIPHER_MASK or self._greeting_peer(packet, endpoint, now) is peer:
            self._open_run(peer, [(packet, endpoint)], now)

    def identity_checks(self) -> list[Identity]:
        """Identities to be validated by the owner (``Identity.validate``, in another process or thread), since the
        last call; nothing unless ``config.defer_identity_checks``."""
        return self._core.introductions.identity_checks()

    def identity_checked(self, identity: Identity, valid: bool, now: float) -> None:
        """The verdict on one of ``identity_checks``."""
        self._core.introductions.identity_checked(identity, valid, now)

    # The clock

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next, in the caller's monotonic seconds."""
        next_timer = min(self._core.next_tick, self._core.contacts.next_timer())
        waiting = self._core.introductions.next_timer()
        return next_timer if waiting is None else min(next_timer, waiting)

    def handle_timer(self, now: float) -> None:
        """Do what has become due."""
        self._core.contacts.due(now)
        waiting = self._core.introductions.next_timer()
        if waiting is not None and waiting <= now:
            self._core.introductions.ask(now)
            self._core.hurry_tick(now)
        if now >= self._core.next_tick:
            self._tick(now)

    def _tick(self, now: float) -> None:
        self._core.introductions.tick(now)
        self._fragments.purge(now)
        self._fragments_of_strangers.purge(now)
        self._core.awareness.expire(now)
        self._core.twins.tick(now)
        self._core.next_tick = now + self._core.contacts.keep_alive(now)
        peers = list(self._core.topology.by_address.values())
        trusted = sum(peer.trusts_through(now) for peer in peers)
        shares = (replay_share(len(peers) - trusted, trusted=False), replay_share(trusted, trusted=True))
        for peer in peers:
            trusts = peer.trusts_through(now)
            peer.seen.resize(shares[trusts])
            if trusts:
                self._push_direct_paths(peer, now)
            if not (
                peer.is_active(now)
                or now - peer.last_receive < ACTIVITY_TIMEOUT
                or self._core.topology.is_sought(peer.address)
            ):
                self._core.topology.forget(peer)
        if self._core.online and not self._core.topology.is_root:
            heard = max((peer.last_receive for peer in self._core.topology.upstream_peers()), default=float("-inf"))
            if now - heard >= OFFLINE_TIMEOUT:
                self._core.online = False
                self._core.emit(Offline())
        self._core.path_endpoints = {
            endpoint for peer in self._core.topology.by_address.values() for endpoint in peer.paths
        }

    def _wall(self, now: float) -> int:
        return self._wall_at_start + int((now - self._started) * 1000)

    # The layer above

    def messages(self) -> list[Message]:
        """What arrived for the layer above since the last call: every verb that VL1 does not handle itself, and OK and
        ERROR in reply to such verbs. OK comes from whom we asked; an ERROR to a frame is for the layer above to judge,
        for frames of ``send_batch`` are not remembered one by one. Payloads stay valid."""
        messages, self._core.messages = self._core.messages, []
        return messages

    def send(self, address: int, verb: int, payload: Buffer, now: float, *, compress: bool = False) -> int:
        """Send one packet and return the packet id that OK and ERROR will refer to. An unknown peer is looked up
        by WHOIS first; the packet waits for that for a few seconds at most. ``compress``: with LZ4 where it helps.
        What goes to our own address comes back with the next ``messages``. Raises ValueError if the payload is longer
        than ``transmit.MAX_PAYLOAD``."""
        if len(payload) > self._core.transmit.max_payload:
            raise ValueError(f"a payload of {len(payload)} bytes; {self._core.transmit.max_payload} is the most")
        peer = self._core.topology.by_address.get(address)
        if peer is not None and (path := self._core.transmit.route(peer)) is not None:
            peer.last_traffic = now
            self._core.hurry_tick(now)
            return self._core.transmit.send(peer, verb, (payload,), path, now, squeeze=compress)
        return self._send_later(address, verb, payload, compress, now)

    def send_batch(self, address: int, verb: int, payloads: Sequence[tuple[Buffer, ...] | Buffer], now: float) -> None:
        """Send many packets of one verb to one peer: the hot path. A payload is a buffer or the parts of one. No OK to
        them will be passed up; ERROR will. Raises ValueError as ``send`` does."""
        peer = self._core.topology.by_address.get(address)
        if peer is not None and (path := self._core.transmit.route(peer)) is not None:
            peer.last_traffic = peer.last_frame = now
            self._core.hurry_tick(now)
            self._core.transmit.send_batch(peer, verb, payloads, path, now)
            return
        for payload in payloads:
            whole = b"".join(payload) if isinstance(payload, tuple) else payload
            self._send_later(address, verb, whole, False, now)

    def reply_ok(self, peer: Peer, in_re_verb: int, in_re_packet_id: int, payload: Buffer, now: float) -> int:
        """Answer a message with OK. Returns the packet id."""
        return self.send(peer.address, VERB_OK, build_ok(in_re_verb, in_re_packet_id, payload)[1:], now, compress=True)

    def reply_error(
        self, peer: Peer, in_re_verb: int, in_re_packet_id: int, code: int, payload: Buffer, now: float
    ) -> int:
        """Answer a message with ERROR ``code``. Returns the packet id."""
        return self.send(peer.address, VERB_ERROR, build_error(in_re_verb, in_re_packet_id, code, payload)[1:], now)

    # Somebody beside us

    def direct_way(self, peer: Peer) -> DirectWay | None:
        """What somebody else needs to seal and open the frames of a peer in our place; None where there is more to
        decide than that: no path of its own, another cipher suite, a trusted path, or traffic by several paths."""
        path = peer.path
        if path is None or path.dead or path.probes or peer.bonds:
            return None
        if cipher_for(peer) != CIPHER_AES_GMAC_SIV or self._core.trusted_paths.id_for(path.endpoint[0]):
            return None
        return DirectWay(path.endpoint, path.mtu, peer.keys.aes_keys())

    def leads_to(self, peer: Peer, way: DirectWay) -> bool:
        """Whether that is still where packets to a peer go, and how. A doubt alone is no other way."""
        path = peer.path
        return (
            path is not None
            and not path.dead
            and (path.endpoint, path.mtu) == (way.endpoint, way.mtu)
            and not peer.bonds
            and cipher_for(peer) == CIPHER_AES_GMAC_SIV
            and self._core.topology.by_address.get(peer.address) is peer
        )

    def share(self, peer: Peer, count: int) -> bytes:
        """From now on somebody else opens frames of this peer, too. Ids of packets that came before, 8 bytes each,
        ``count`` of them at the most, those of the newer generation first."""
        peer.taken = []
        return b"".join(peer.seen.some(count))

    def taken(self, peer: Peer) -> bytes:
        """The ids of packets of a peer whose frames are shared that came here since the last call."""
        taken, peer.taken = peer.taken or [], []
        return b"".join(taken)

    def unshare(self, peer: Peer) -> None:
        """Nobody else opens its frames any more."""
        peer.taken = None

    def carried(self, peer: Peer, endpoint: Endpoint, carried: Carried, now: float) -> None:
        """Somebody else has sealed or opened frames of a peer on this path."""
        core = self._core
        sent_in_vain = peer.last_frame > peer.last_frame_in
        peer.invalid += carried.invalid
        self.counters["drop_forged"] += carried.invalid
        self.counters["drop_duplicate"] += carried.duplicates
        if carried.sent:
            core.traffic.sent[VERB_FRAME] += carried.sent
            peer.sent += carried.sent
            peer.last_traffic = peer.last_frame = carried.last_sent
            if (path := peer.paths.get(endpoint)) is not None:
                path.last_send = max(path.last_send, carried.last_sent)
            core.hurry_tick(now)
        if carried.received:
            core.traffic.arrived[VERB_FRAME] += carried.received
            peer.received += carried.received
            then = max(carried.last_received, peer.last_receive)
            if sent_in_vain and then - peer.last_receive >= SILENCE:
                core.emit(PeerReturned(peer.address))
            peer.last_traffic = peer.last_frame_in = then
            peer.last_frame = max(peer.last_frame, then)
            self._heard(peer, endpoint, then, by_hello=False)

    def trust(self, peer: Peer, now: float) -> None:
        """The layer above has seen that ``peer`` shares a network with us (a frame that passed its certificate check):
        such peers, and no others, are told our own endpoints (PUSH_DIRECT_PATHS). Cheap: call it per batch."""
        peer.trusted_until = now + TRUST_EXPIRATION
        if now >= peer.next_path_push:
            self._push_direct_paths(peer, now)

    def contact(self, address: int, now: float) -> None:
        """Look ``address`` up if unknown and stay in contact with it, as for controllers and multicast replicators."""
        if address != self.identity.address:
            self._core.introductions.keep(address, now)

    def release(self, address: int) -> None:
        """Undo ``contact``: from now on this peer is worth keeping only while there is traffic."""
        self._core.introductions.release(address)

    def _send_later(self, address: int, verb: int, payload: Buffer, compress: bool, now: float) -> int:
        promised_id = self._core.transmit.new_id()
        if address == self.identity.address:
            self._core.messages.append((self._myself, verb, promised_id, bytes(payload)))
            return promised_id
        self._core.introductions.send_later(address, Outgoing(verb, bytes(payload), compress, promised_id, now), now)
        self._core.hurry_tick(now)
        return promised_id

    def _push_direct_paths(self, peer: Peer, now: float) -> None:
        if now < peer.next_path_push:
            return
        endpoints = dict.fromkeys((*self._local_endpoints, *self._core.awareness.surface_addresses()))
        pushed = [DirectPath(endpoint) for endpoint in endpoints][:MAX_PUSHED]
        path = self._core.transmit.route(peer)
        if not pushed or path is None:
            return
        peer.next_path_push = now + (PUSH_INTERVAL if peer.path is None else PUSH_INTERVAL_DIRECT)
        parts = (build_push_direct_paths(pushed),)
        self._core.transmit.send(peer, VERB_PUSH_DIRECT_PATHS, parts, path, now)

    # What the owner knows about the world

    def set_local_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Where this node can be reached on its own networks; pushed to peers that we trust. Call it again whenever
        that may have changed: if it has, this host has moved, and all peers hear from us at once."""
        before = set(self._local_endpoints)
        self._local_endpoints = tuple(
            endpoint for endpoint in endpoints if self._core.contacts.is_usable(self.identity.address, endpoint)
        )
        if before and before != set(self._local_endpoints):
            self.counters["moves"] += 1
            self.greet_again()

    def greet_again(self) -> None:
        """All peers hear from us with the next timer, which is due: what leads to them has changed."""
        self._core.next_tick = self._started
        self._core.contacts.root_lost(self._started)
        for peer in self._core.topology.by_address.values():
            peer.last_hello = peer.next_path_push = float("-inf")

    def ask_afar(self, now: float) -> None:
        """Ask all roots, and a few peers, in the internet by the ways that are known whether they are there."""
        self._core.contacts.ask_afar(now)

    def avoid_networks(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """Physical paths must not run inside these (the managed routes of joined networks)."""
        self._core.contacts.avoid(networks)

    def add_peer(self, identity: Identity, now: float, endpoints: Iterable[Endpoint] = ()) -> Peer:
        """Make a peer known from a cache or by configuration, and try these endpoints. The identity is trusted.
        WireError if no key can be agreed upon, or if the address is known with another key."""
        peer = self._core.topology.add(identity.without_secret())
        self._core.introductions.met(peer, now)
        for endpoint in endpoints:
            self._core.contacts.attempt(peer, endpoint, now)
        return peer

    def known_peers(self, now: float) -> bytes:
        """What is to be kept of our peers for the next run (``peers.d``): those that were heard, the ones that share a
        network with us and the latest first, and those of the last run that were not met again."""
        heard = [
            peer
            for peer in self._core.topology.by_address.values()
            if peer.last_receive > float("-inf") and not self._core.topology.is_upstream(peer.address)
        ]
        heard.sort(key=lambda peer: (peer.trusts_through(now), peer.last_receive), reverse=True)
        return self._known.build(
            KnownPeer(
                peer.identity,
                self._wall(peer.last_receive),
                tuple(path.endpoint for path in peer.paths.values() if not path.dead),
            )
            for peer in heard
        )

    def acquaintances(self, count: int, now: float) -> list[int]:
        """Up to ``count`` peers that share or shared a network with us lately, those of this run first."""
        met = [peer.address for peer in self._core.topology.by_address.values() if peer.trusts_through(now)]
        return list(dict.fromkeys((*met[:count], *self._known.latest(count))))[:count]

    def orbit(self, moon: int, seed: int, now: float) -> None:
        """Look for the moon with this world id by its root ``seed``, wherever that is; ``MoonUpdated`` tells when it is
        there. ValueError for too many, or where the seed is this node."""
        if seed == self.identity.address:
            raise ValueError("this node cannot be given a moon by itself: orbit its file")
        self._core.topology.orbit(moon, seed)
        self._core.introductions.seek(now)

    def add_moon(self, moon: World, now: float) -> None:
        """Orbit a moon that the user has given us. ValueError where it is none, or no successor of the one we have."""
        self._core.topology.add_moon(moon)
        self._core.roots_changed(now)

    def deorbit(self, moon: int, now: float) -> bool:
        """Leave a moon, or give up looking for it. False if there is none."""
        if not self._core.topology.deorbit(moon):
            return False
        self._core.roots_changed(now)
        return True

    # What there is to see

    @property
    def has_news(self) -> bool:
        """Whether there are ``events`` or ``identity_checks``."""
        return bool(self._core.events or self._core.introductions.checks)

    def events(self) -> list[Event]:
        """What the owner should know, since the last call."""
        events, self._core.events = self._core.events, []
        return events

    @property
    def online(self) -> bool:
        """Whether a root has answered lately (always, if we are one)."""
        return self._core.online

    @property
    def answered_from_afar(self) -> float:
        """When a peer in the internet last answered straight what we asked, monotonic seconds; -inf: never."""
        return self._core.answered_from_afar

    @property
    def heard_from_afar(self) -> float:
        """When something authentic last came straight from a peer in the internet."""
        return self._core.heard_from_afar

    def is_shared(self, now: float) -> bool:
        """Whether there were signs lately that another host uses our identity."""
        return self._core.twins.found(now)

    @property
    def is_relay(self) -> bool:
        """Whether we relay for others: by configuration, or because a world names us as a root."""
        return self._core.is_relay

    @property
    def planet(self) -> World:
        """The planet in force."""
        return self._core.topology.planet

    @property
    def moons(self) -> list[World]:
        """The moons that this node orbits, as far as they are known."""
        return list(self._core.topology.moons.values())

    @property
    def moon_seeds(self) -> dict[int, int]:
        """The moons that are looked for, by world id, each with the root that is asked for it."""
        return dict(self._core.topology.moon_seeds)

    @property
    def surface_addresses(self) -> list[Endpoint]:
        """Our endpoints as peers see them."""
        return self._core.awareness.surface_addresses()

    @property
    def refused(self) -> int:
        """Packets that were dropped, for whatever reason."""
        return sum(count for name, count in self.counters.items() if name.startswith("drop_"))

    def favored_endpoints(self, count: int, now: float) -> list[Endpoint]:
        """Where those are whom strangers should not hold up: roots, and peers for which the layer above has vouched,
        from where something authentic has come lately; the newest first."""
        upstreams = self._core.topology.upstreams
        found = [
            (path.last_receive, path.endpoint)
            for address, peer in self._core.topology.by_address.items()
            if peer.trusts_through(now) or address in upstreams
            for path in peer.paths.values()
            if now - path.last_receive < FAVORED_FOR
        ]
        return [endpoint for _, endpoint in heapq.nlargest(count, found)]

    def upstreams(self) -> list[int]:
        """The roots of the planet and of the moons, ourselves excepted."""
        return list(self._core.topology.upstreams)

    def peers(self) -> list[Peer]:
        """All peers known, roots included."""
        return list(self._core.topology.by_address.values())

    def peer(self, address: int) -> Peer | None:
        """The peer with this address, if known."""
        return self._core.topology.by_address.get(address)
