"""A lane: frames of one busy neighbour sealed and opened where TCP is, without the node in between.

A small request that passes the node wakes it twice, and its work in cold caches was half of what a request took. So
the node lends the worker a socket that is connected to the peer, the keys, and its decision that all IP frames between
the two pass. The decision has an end and may be withdrawn; without it the frames go by the ring again. A lane decides
nothing, so it is a cache, and what it does not know goes to the node as it came:

=============================================  ======================================================================
packets of other cipher suites, that were      to the node, undecrypted
relayed, from or for somebody else
fragments that are not the two halves of a     to the node, which has the memory to join them
packet one right after the other
verbs other than FRAME, other networks, other  to the node, as the datagrams that came
EtherTypes, anything when the terms have ended
not authentic; came before                     dropped and counted
=============================================  ======================================================================

Sans-IO: datagrams in, frames out; frames in, datagrams out. Source of the formats: ``wire/packet.py``,
``wire/fragment.py``, ``wire/frame.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Final

from ztnode.seen_ids import SeenIds
from ztnode.wire.ethernet import mac_bytes
from ztnode.wire.fragment import (
    INDICATOR,
    OFFSET_DATA,
    OFFSET_INDICATOR,
    OFFSET_NUMBER,
    SECOND_OF_TWO,
    join_halves,
    split,
)
from ztnode.wire.packet import (
    CIPHER_AES_GMAC_SIV,
    FLAG_FRAGMENTED,
    MIN_PACKET_LENGTH,
    OFFSET_DESTINATION,
    OFFSET_FLAGS,
    OFFSET_MAC,
    OFFSET_SOURCE,
    OFFSET_VERB,
    VERB_FRAME,
)
from ztnode.worker.protocol import LaneTerms, LaneUp, LaneUsed

if TYPE_CHECKING:
    from ztnode.netstack.frame import Frame
    from ztnode.wire.aes_gmac_siv import AesGmacSiv
    from ztnode.wire.packet_rows import Matrix

_PLAIN_AES: Final = CIPHER_AES_GMAC_SIV << 3
_SUITE_AND_HOPS: Final = 0x3F
_FRAME: Final = bytes((VERB_FRAME,))
_FRAME_HEADER: Final = 11
"""Verb, network id, EtherType."""
_ETHERTYPE: Final = 9
_IDS: Final = 0xFFFFFFFFFFFFFFFF
_U64: Final = struct.Struct(">Q")
_MACS: Final = 12
MAX_EARLY: Final = 64
"""Packets whose halves came in the wrong order of which it is remembered; 100 bytes each."""


class Lane:
    """See above. ``cipher`` has the peer's keys; ``random`` gives so many unpredictable bytes."""

    def __init__(self, up: LaneUp, cipher: AesGmacSiv, random: Callable[[int], bytes]) -> None:
        self.id = up.id
        self.index = up.index
        """The stack's port."""
        self.heads: tuple[bytes, ...] = ()
        """Ethernet headers of the frames that it carries, 14 bytes each."""
        self.until = 0.0
        """Monotonic seconds until which the terms hold."""
        self.opened_ids: list[bytes] = []
        """Of packets that were taken, until the node is told."""
        self._own = up.own.to_bytes(5, "big")
        self._peer = up.peer.to_bytes(5, "big")
        own_mac, peer_mac = mac_bytes(up.own_mac), mac_bytes(up.peer_mac)
        self._macs_in, self._macs_out = own_mac + peer_mac, peer_mac + own_mac
        self._heads_in: frozenset[bytes] = frozenset()
        """Of the plaintexts that it takes: verb, network, EtherType."""
        self._head = _FRAME + up.nwid.to_bytes(8, "big")
        self._cipher = cipher
        self._open = cipher.open
        self._seal = cipher.seal
        self._seen = SeenIds(up.remembered)
        self._seen.add(up.seen)
        self._next_id = int.from_bytes(random(8), "big")
        self._mtu = up.mtu
        self._whole = self._peer + self._own + bytes((_PLAIN_AES,))
        self._in_fragments = self._peer + self._own + bytes((_PLAIN_AES | FLAG_FRAGMENTED,))
        self._plain = self._own + self._peer + bytes((_PLAIN_AES,))
        """What stands behind the id of a whole packet from the peer itself."""
        self._head_of_two = self._own + self._peer + bytes((_PLAIN_AES | FLAG_FRAGMENTED,))
        """The same of one that came in two datagrams."""
        self._half = b""
        """The head of a packet in fragments, whose second half is expected."""
        self._halves = b"", b""
        """Of the packet that was joined last."""
        self._early: dict[bytes, None] = {}
        """The ids of packets whose second halves came before their heads, and are where these have to go: the node. The
        oldest is forgotten first."""
        self._clear()

    def _clear(self) -> None:
        self._sent = self._octets_sent = self._received = self._octets_received = 0
        self._datagrams_sent = self._datagram_octets_sent = 0
        self._datagrams_received = self._datagram_octets_received = 0
        self._invalid = self._duplicates = 0
        self.dropped = 0
        self._last_sent = self._last_received = 0.0

    def agree(self, terms: LaneTerms) -> None:
        """From now on these terms hold."""
        ethertypes = [ethertype.to_bytes(2, "big") for ethertype in terms.ethertypes]
        self.heads = tuple(self._macs_out + ethertype for ethertype in ethertypes)
        self._heads_in = frozenset(self._head + ethertype for ethertype in ethertypes)
        self.until = terms.until

    def note(self, ids: bytes) -> None:
        """These packets, 8 bytes each, came by another way."""
        self._seen.add(ids)

    def used(self) -> LaneUsed:
        """What was carried since the last call."""
        used = LaneUsed(
            self.id,
            self._sent,
            self._octets_sent,
            self._received,
            self._octets_received,
            self._datagrams_sent,
            self._datagram_octets_sent,
            self._datagrams_received,
            self._datagram_octets_received,
            self._invalid,
            self._duplicates,
            self.dropped,
            self._last_sent,
            self._last_received,
        )
        self._clear()
        return used

    # In

    def receive(self, datagrams: Sequence[bytes], now: float) -> tuple[list[memoryview], list[bytes]]:
        """Take a batch from the peer's endpoint: (Ethernet frames for the stack, what is for the node)."""
        frames: list[memoryview] = []
        rest: list[bytes] = []
        plain, seen, opened_ids = self._plain, self._seen, self.opened_ids
        open_packet, heads, macs = self._open, self._heads_in, self._macs_in
        for data in datagrams:
            if data[OFFSET_DESTINATION:OFFSET_MAC] == plain and len(data) >= MIN_PACKET_LENGTH:
                packet = data  # as most that are no fragments
            else:
                joined = self._join(data, rest)
                if joined is None:
                    continue
                packet = joined
            wire_id = packet[:OFFSET_DESTINATION]
            if wire_id in seen:  # what somebody plays back is not to cost its decryption
                self._duplicates += 1
                continue
            plaintext = open_packet(packet)
            if plaintext is None:
                self._invalid += 1
            elif plaintext[:_FRAME_HEADER] not in heads or now >= self.until:
                if plaintext[0] == VERB_FRAME:  # when there are terms, it is a replay here, too
                    seen.note(wire_id)
                # As it came: what is whole has no fragments, and its header says that this has.
                rest += (packet,) if packet is data else self._halves
            else:
                seen.note(wire_id)
                opened_ids.append(wire_id)
                frames.append(memoryview(macs + plaintext[_ETHERTYPE:]))
        # What goes to the node is counted there.
        self._datagrams_received += len(datagrams) - len(rest)
        self._datagram_octets_received += sum(map(len, datagrams)) - sum(map(len, rest))
        if frames:
            self._received += len(frames)
            self._octets_received += sum(map(len, frames))
            self._last_received = now
        return frames, rest

    def receive_slots(
        self, slots: Matrix, lengths: Sequence[int], copies: Callable[[int, int], list[bytes]], now: float
    ) -> tuple[list[memoryview], list[bytes]]:
        """As ``receive``, for three datagrams or more that lie in ``slots`` and of which ``lengths`` says how long they
        are. Packets of one form are taken together. ``copies`` gives the datagrams from one number to another."""
        # Apart: a second half whose head came with the last batch, and a head whose second half did not come yet.
        start, end = int(slots[0, OFFSET_INDICATOR] == INDICATOR), len(lengths)
        if slots[start + 1, OFFSET_INDICATOR] == INDICATOR:
            end -= (end - start) & 1
        frames, rest = self.receive(copies(0, start), now) if start else ([], [])
        alike = self._receive_alike(slots[start:end], lengths[start:end], now)
        if alike is None:
            end = start
        else:
            frames += alike
        if end < len(lengths):
            more, to_node = self.receive(copies(end, len(lengths)), now)
            frames += more
            rest += to_node
        return frames, rest

    def _receive_alike(self, slots: Matrix, lengths: Sequence[int], now: float) -> list[memoryview] | None:
        """As ``receive``, in fewer steps, if all that lies in ``slots`` are packets of one form with frames; None, and
        nothing is done, if they are not. ``lengths``: bytes of each, two of them at the least."""
        from ztnode.wire import packet_rows

        may_be = not self._half and now < self.until
        found = packet_rows.gather(slots, lengths, self._plain, self._head_of_two) if may_be else None
        if found is None:
            return None
        tags, rows = found
        if rows.shape[1] < packet_rows.TEXT + _FRAME_HEADER:  # no frames, and no room for what stands before them
            return None
        ids = packet_rows.ids_of(tags)
        different = set(ids)
        if len(different) < len(ids) or self._early.keys() & different or self._seen.has_any(different):
            return None
        good = packet_rows.open_rows(self._cipher, tags, rows)
        taken = list(compress(range(len(ids)), good))
        if not packet_rows.beginnings(rows, _FRAME_HEADER, taken) <= self._heads_in:
            return None
        frames = packet_rows.frames(rows, _ETHERTYPE, self._macs_in, taken)
        came = list(compress(ids, good))
        self._seen.note_all(came)
        self.opened_ids += came
        self._invalid += len(ids) - len(came)
        self._datagrams_received += len(lengths)
        self._datagram_octets_received += sum(lengths)
        if frames:
            self._received += len(frames)
            self._octets_received += len(frames) * len(frames[0])
            self._last_received = now
        return frames

    def _join(self, data: bytes, rest: list[bytes]) -> bytes | None:
        """The whole packet, if that is what this datagram is or completes, and the lane may open it."""
        half = self._half
        if len(data) <= OFFSET_DATA or data[OFFSET_DESTINATION:OFFSET_SOURCE] != self._own:
            rest.append(data)
            return None
        if data[OFFSET_INDICATOR] == INDICATOR:  # which may be shorter than a packet: the reference fills the head
            packet = join_halves(half, data) if half else None
            if packet is None:
                if half and data[:OFFSET_DESTINATION] == half[:OFFSET_DESTINATION]:
                    # Of more than two, that is: the node joins them, and waits for the head.
                    rest.append(half)
                    self._half = b""
                elif data[:OFFSET_DESTINATION] in self._seen:
                    self._duplicates += 1
                    return None
                elif data[OFFSET_NUMBER] == SECOND_OF_TWO:
                    self._early[data[:OFFSET_DESTINATION]] = None
                    if len(self._early) > MAX_EARLY:
                        del self._early[next(iter(self._early))]
                rest.append(data)
                return None
            self._halves = half, data
            self._half = b""
            data = packet
        elif len(data) < MIN_PACKET_LENGTH:
            rest.append(data)
            return None
        elif data[OFFSET_FLAGS] & FLAG_FRAGMENTED:
            if data[:OFFSET_DESTINATION] in self._seen:
                self._duplicates += 1
                return None
            if data[:OFFSET_DESTINATION] in self._early:
                rest.append(data)
                return None
            if half:
                rest.append(half)
            self._half = data
            return None
        if data[OFFSET_FLAGS] & _SUITE_AND_HOPS != _PLAIN_AES or data[OFFSET_SOURCE:OFFSET_FLAGS] != self._peer:
            rest.append(data)
            return None
        return data

    # Out

    def datagram_size(self, length: int) -> int:
        """Of each datagram that ``seal_alike`` makes of frames of ``length`` bytes; 0 where it cannot."""
        from ztnode.wire import packet_rows

        return packet_rows.piece(length - _MACS + len(self._head), self._mtu)

    def seal_alike(self, frames: Sequence[Frame], length: int, now: float) -> memoryview:
        """As ``seal``, in fewer steps, for frames of ``length`` bytes each of which ``datagram_size`` is not 0: the
        datagrams one behind the other."""
        from ztnode.wire import packet_rows

        count = len(frames)
        text = length - _MACS + len(self._head)
        size = packet_rows.piece(text, self._mtu)
        associated = self._whole if OFFSET_VERB + text <= self._mtu else self._in_fragments
        head = packet_rows.row_head(associated) + self._head
        padded = b"".join([part for frame in frames for part in (head, frame[0][_MACS:], *frame[1:])])
        data = packet_rows.seal(self._cipher, self._next_id + 1, padded, count, size)
        self._next_id = self._next_id + count & _IDS
        self._sent += count
        self._octets_sent += count * length
        self._datagrams_sent += len(data) // size
        self._datagram_octets_sent += len(data)
        self._last_sent = now
        return data

    def seal(self, frames: Sequence[Frame], now: float) -> list[bytes]:
        """Datagrams for frames that it carries; the first part of each begins with its Ethernet header."""
        mtu = self._mtu
        room = mtu - OFFSET_VERB
        verb = self._head
        datagrams: list[bytes] = []
        plain = 0
        seal, pack, whole = self._seal, _U64.pack, self._whole
        packet_id = self._next_id
        for frame in frames:
            head = frame[0]
            parts = (verb, head[_MACS:]) if len(frame) == 1 else (verb, head[_MACS:], *frame[1:])
            length = sum(map(len, parts))
            plain += length
            packet_id = packet_id + 1 & _IDS
            if length <= room:
                datagrams.append(seal(pack(packet_id), whole, parts))
            else:
                datagrams += split(seal(pack(packet_id), self._in_fragments, parts), mtu)
        self._next_id = packet_id
        self._sent += len(frames)
        self._octets_sent += plain + len(frames) * (_MACS - len(verb))
        self._datagrams_sent += len(datagrams)
        self._datagram_octets_sent += sum(map(len, datagrams))
        self._last_sent = now
        return datagrams
