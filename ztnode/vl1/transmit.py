"""The way out: packet ids, sealing, the choice between direct path and root, fragments, and the queue of datagrams."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ztnode.vl1.path import Path
from ztnode.vl1.peer import Peer
from ztnode.vl1.topology import Topology
from ztnode.vl1.traffic import Traffic
from ztnode.vl1.trusted_paths import TrustedPaths
from ztnode.wire.buffer import Buffer
from ztnode.wire.compression import compress
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.fragment import OFFSET_DATA, split
from ztnode.wire.packet import (
    CIPHER_AES_GMAC_SIV,
    CIPHER_POLY1305_SALSA2012,
    DEFAULT_PHYSICAL_MTU,
    MAX_PACKET_FRAGMENTS,
    MAX_PACKET_LENGTH,
    OFFSET_PAYLOAD,
    PROTOCOL_VERSION_AES,
    VERB_ECHO,
    VERB_HELLO,
    build_trusted,
    packet_id,
)


def longest_payload(mtu: int) -> int:
    """Bytes after the verb that one packet can carry where datagrams have at most ``mtu`` bytes."""
    return min(MAX_PACKET_LENGTH, MAX_PACKET_FRAGMENTS * (mtu - OFFSET_DATA) + OFFSET_DATA) - OFFSET_PAYLOAD


def least_mtu(length: int) -> int:
    """The smallest datagrams in which a packet of ``length`` bytes goes out in as many fragments as there may be. A
    packet that is too long for its path's is sent in these: most get lost there, but nothing else can be done."""
    return -(-(length - OFFSET_DATA) // MAX_PACKET_FRAGMENTS) + OFFSET_DATA


MAX_PAYLOAD: Final = longest_payload(DEFAULT_PHYSICAL_MTU)
"""Bytes after the verb that one packet can carry at the default MTU, in as many fragments as there may be."""
MAX_EXPECTED: Final = 4096
"""Packets whose answers are awaited; the oldest is forgotten first."""
_ID_MASK: Final = (1 << 64) - 1
_IDS: Final = tuple(struct.Struct(f">{count}Q") for count in range(65))
_VERBS: Final = tuple(bytes((verb,)) for verb in range(256))


@dataclass(frozen=True, slots=True)
class Expected:
    """What we remember of a packet that may be answered."""

    address: int
    verb: int
    sent: float


class Transmit:
    """Seals packets and queues datagrams. Its owner takes them with ``take``."""

    def __init__(
        self,
        topology: Topology,
        random: Callable[[int], bytes],
        mtu: int,
        trusted_paths: TrustedPaths,
        traffic: Traffic,
    ) -> None:
        self._topology = topology
        self._traffic = traffic
        self._trusted_paths = trusted_paths if trusted_paths else None
        self._own = topology.identity.address
        self._mtu = mtu
        self.max_payload = longest_payload(mtu)
        """Bytes after the verb that one packet can carry."""
        self._next_id = int.from_bytes(random(8), "big")
        self._queue: dict[Endpoint, list[bytes]] = {}
        self._expected: dict[int, Expected] = {}
        self.forgot_at = float("-inf")
        """When a packet that may still be answered was last forgotten."""

    # Datagrams

    def put(self, endpoint: Endpoint, datagram: bytes) -> None:
        """Queue a datagram."""
        try:
            self._queue[endpoint].append(datagram)
        except KeyError:
            self._queue[endpoint] = [datagram]

    def take(self) -> list[tuple[Endpoint, list[bytes]]]:
        """The queue by endpoint, in order; it is empty afterwards."""
        if not self._queue:
            return []
        queue, self._queue = self._queue, {}
        return list(queue.items())

    # Packets

    def route(self, peer: Peer) -> Path | None:
        """The path a packet to ``peer`` takes: its own, or else that of the nearest root, or else any it ever had."""
        if (path := peer.path) is not None:
            return path
        upstream = self._topology.best_upstream()
        if upstream is not None and upstream is not peer:
            return upstream.path
        return peer.last_resort()

    def send(
        self,
        peer: Peer,
        verb: int,
        parts: Sequence[Buffer],
        path: Path,
        now: float,
        *,
        squeeze: bool = False,
        plain_id: int | None = None,
    ) -> int:
        """Seal one packet, send it along ``path`` and remember that it may be answered. Returns its packet id.

        ``squeeze``: compress. ``plain_id``: an id already promised to the caller; the packet is then sealed with
        Salsa20/12, which every peer opens and which keeps the id. ValueError if it is too long."""
        self._count(peer, verb, parts)
        plaintext: Sequence[Buffer] = (_VERBS[verb], *parts)
        if squeeze:
            plaintext = (compress(b"".join(plaintext)),)
        path_id = self._trusted_id(peer, path.endpoint)
        if path_id:
            promised = self.new_id() if plain_id is None else plain_id
            return self._send_trusted(peer, path.endpoint, promised, verb, plaintext, path_id, now)
        sealed = peer.keys.seal(
            self.new_id() if plain_id is None else plain_id,
            peer.address,
            self._own,
            plaintext,
            cipher_for(peer) if plain_id is None else CIPHER_POLY1305_SALSA2012,
            path.mtu,
        )
        sent_id = packet_id(sealed)
        self.expect(sent_id, Expected(peer.address, verb, now))
        self.put_packet(path.endpoint, sealed, path.mtu)
        path.last_send = now
        return sent_id

    def send_to(self, endpoint: Endpoint, peer: Peer, verb: int, parts: Sequence[Buffer], now: float) -> int:
        """Seal one packet and send it to ``endpoint``, whether or not that is a path: an answer by the way that the
        question came, or an attempt. Returns its packet id."""
        self._count(peer, verb, parts)
        path = peer.paths.get(endpoint)
        mtu = self._mtu if path is None else path.mtu
        path_id = self._trusted_id(peer, endpoint)
        if path_id:
            return self._send_trusted(peer, endpoint, self.new_id(), verb, (_VERBS[verb], *parts), path_id, now)
        sealed = peer.keys.seal(self.new_id(), peer.address, self._own, (_VERBS[verb], *parts), cipher_for(peer), mtu)
        sent_id = packet_id(sealed)
        self.expect(sent_id, Expected(peer.address, verb, now))
        self.put_packet(endpoint, sealed, mtu)
        return sent_id

    def probe_length(self, peer: Peer, path: Path, payload: bytes, now: float) -> None:
        """Send ECHO in one datagram, however long."""
        self._count(peer, VERB_ECHO, ())
        sealed = peer.keys.seal(
            self.new_id(), peer.address, self._own, (_VERBS[VERB_ECHO], payload), cipher_for(peer), MAX_PACKET_LENGTH
        )
        self.expect(packet_id(sealed), Expected(peer.address, VERB_ECHO, now))
        self.put(path.endpoint, sealed)
        path.last_send = now

    def send_batch(
        self, peer: Peer, verb: int, payloads: Sequence[tuple[Buffer, ...] | Buffer], path: Path, now: float
    ) -> None:
        """Seal many packets of one verb and send them along ``path``. No answer to them will be recognised."""
        count = len(payloads)
        self._traffic.sent[verb] += count
        peer.sent += count
        code = _VERBS[verb]
        messages = [(code, *payload) if isinstance(payload, tuple) else (code, payload) for payload in payloads]
        endpoint = path.endpoint
        queue = self._queue.get(endpoint)  # which is not there when there is but one batch, as mostly
        if queue is None:
            queue = self._queue[endpoint] = []
        cipher = cipher_for(peer)
        mtu = path.mtu
        longest = MAX_PACKET_FRAGMENTS * (mtu - OFFSET_DATA) + OFFSET_DATA
        path_id = 0 if self._trusted_paths is None else self._trusted_id(peer, endpoint)
        for start in range(0, count, 64):
            batch = messages[start : start + 64] if count > 64 else messages
            ids = self._new_ids(len(batch))
            sealed_batch = (
                build_trusted(ids, peer.address, self._own, batch, path_id, mtu)
                if path_id
                else peer.keys.seal_many(ids, peer.address, self._own, batch, cipher, mtu)
            )
            for sealed in sealed_batch:
                if len(sealed) <= mtu:
                    queue.append(sealed)
                else:
                    queue += split(sealed, mtu if len(sealed) <= longest else least_mtu(len(sealed)))
        path.last_send = now

    def greet(self, peer: Peer, packet_id: int, sealed: bytes, endpoint: Endpoint, now: float) -> None:
        """Send a HELLO, which is sealed in its own way."""
        self._count(peer, VERB_HELLO, ())
        self.expect(packet_id, Expected(peer.address, VERB_HELLO, now))
        self.put_packet(endpoint, sealed)

    def _count(self, peer: Peer, verb: int, parts: Sequence[Buffer]) -> None:
        peer.sent += 1
        self._traffic.count_sent(verb, parts)

    def _trusted_id(self, peer: Peer, endpoint: Endpoint) -> int:
        """The number of the trusted path that leads straight to a peer; 0: protect what goes there. What a root relays
        is always protected: nobody can know what lies behind it. (The reference does not tell that apart.)"""
        trusted = self._trusted_paths
        return 0 if trusted is None or endpoint not in peer.paths else trusted.id_for(endpoint[0])

    def _send_trusted(
        self,
        peer: Peer,
        endpoint: Endpoint,
        sent_id: int,
        verb: int,
        plaintext: Sequence[Buffer],
        path_id: int,
        now: float,
    ) -> int:
        path = peer.paths[endpoint]
        (packet,) = build_trusted(sent_id.to_bytes(8, "big"), peer.address, self._own, (plaintext,), path_id, path.mtu)
        self.expect(sent_id, Expected(peer.address, verb, now))
        self.put_packet(endpoint, packet, path.mtu)
        path.last_send = now
        return sent_id

    def put_packet(self, endpoint: Endpoint, sealed: bytes, mtu: int | None = None) -> None:
        """Queue a packet that was sealed for datagrams of ``mtu`` bytes (None: the configured ones), in fragments if
        need be."""
        mtu = self._mtu if mtu is None else mtu
        if len(sealed) <= mtu:
            self.put(endpoint, sealed)
        else:
            for datagram in split(sealed, max(mtu, least_mtu(len(sealed)))):
                self.put(endpoint, datagram)

    # Packet ids

    def new_id(self) -> int:
        """A packet id not used before: they count up from a random start."""
        self._next_id = (self._next_id + 1) & _ID_MASK
        return self._next_id

    def new_hello_id(self) -> int:
        """A packet id for HELLO, whose masked part ignores the last three bits of the id (``PeerKeys.mask_field``):
        no two share the others, for the mask must not be used twice."""
        self._next_id = ((self._next_id | 7) + 1) & _ID_MASK
        return self._next_id

    def _new_ids(self, count: int) -> bytes:
        first = self._next_id + 1
        if first + count > _ID_MASK:
            first = 1
        self._next_id = first + count - 1
        return _IDS[count].pack(*range(first, first + count))

    def expect(self, sent_id: int, expected: Expected) -> None:
        """Remember that the packet ``sent_id`` may be answered."""
        if len(self._expected) >= MAX_EXPECTED:
            del self._expected[next(iter(self._expected))]
            self.forgot_at = expected.sent
        self._expected[sent_id] = expected

    def expected(self, sent_id: int) -> Expected | None:
        """What is remembered of the packet ``sent_id``."""
        return self._expected.get(sent_id)

    def expect_no_more(self, sent_id: int) -> None:
        """No further answer to this packet counts."""
        self._expected.pop(sent_id, None)


def cipher_for(peer: Peer) -> int:
    """AES-GMAC-SIV for peers whose version is known to have it, else Salsa20/12 (Peer::aesKeysIfSupported)."""
    return CIPHER_AES_GMAC_SIV if peer.protocol >= PROTOCOL_VERSION_AES else CIPHER_POLY1305_SALSA2012
