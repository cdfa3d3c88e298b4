"""The lanes of a worker: their sockets, which frames take which, and what the node is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ztnode.datagrams.many_datagrams import SLOT_BYTES, SLOTS, ManyDatagrams
from ztnode.datagrams.segmentation import DatagramSender
from ztnode.wire.checksum import has_numpy
from ztnode.wire.packet import MIN_PACKET_LENGTH
from ztnode.worker.lane import Lane
from ztnode.worker.poller import READ, Poller
from ztnode.worker.protocol import LANE, LANE_IDS, LaneDown, LaneSeen, LaneTerms, LaneUp, LaneUsed

if TYPE_CHECKING:
    from ztnode.netstack.frame import Frame
    from ztnode.ring import Record
    from ztnode.wire.buffer import Buffer
    from ztnode.wire.packet_rows import Matrix

ETHERNET_HEADER: Final = 14
ALIKE: Final = 16
"""So many packets of one form are worth to be sealed and opened together."""
AT_ONCE: Final = 64
AT_ONCE_BYTES: Final = 144 << 10
"""And no more than that: a matrix of them is to stay in the processor's caches, and in memory that malloc keeps."""
RUNS_AT_ONCE: Final = AT_ONCE_BYTES // SLOT_BYTES
"""Of datagrams that the kernel has coalesced, for the same reason."""
LAST_READS: Final = 32
"""Of a lane that ends: what its queue can hold, and no more than that while more comes."""
TELL_SECONDS: Final = 0.1
"""From the first frame until the node is told: what it decides by, such as whether a path is dead, takes longer."""
MAX_UNTOLD: Final = 64
"""Records of ids that wait for room in the ring to the node: some seconds of a busy lane, or 5 MB."""


class Loop(Protocol):
    """What lanes need of the worker."""

    poller: Poller
    now: float

    def take_frames(self, index: int, frames: Sequence[memoryview]) -> None:
        """Frames for a port of the stack, of memory that stays as it is."""

    def to_node(self, records: Sequence[Record]) -> int:
        """Records for the node by the ring; how many found room."""


class _Lent(NamedTuple):
    lane: Lane
    sock: socket.socket
    sender: DatagramSender
    """Of its own, as another peer's way may be narrower."""


def _length(frame: Frame) -> int:
    return sum(map(len, frame))


class Lanes:
    """All of them. A ``_Keeper`` of the worker's loop."""

    def __init__(self, loop: Loop, tell: Callable[[LaneUsed], None]) -> None:
        self.counters = {"lane_datagrams_dropped": 0, "lane_returns_dropped": 0}
        self.timed = False
        """Whether there is something to tell."""
        self._loop = loop
        self._tell = tell
        self._lanes: dict[int, _Lent] = {}
        self.by_head: dict[bytes, _Lent] = {}
        """By the Ethernet headers that they carry. (A MAC is of one network: it follows from the network's id and the
        peer's address.)"""
        self._used: dict[int, Lane] = {}
        self._untold: list[tuple[int, tuple[bytes]]] = []
        """Records with ids that found no room in the ring, the oldest first."""
        self._due = 0.0
        self._many: ManyDatagrams | None = None
        self._slots: Matrix | None = None

    def up(self, message: LaneUp, descriptor: int) -> None:
        """Take a lane over; its socket is ours now. Raises OSError, ValueError for what cannot be one."""
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise
        try:
            # 7 MB and 16 ms that a worker without a lane does without.
            from ztnode.wire.aes_gmac_siv import AesGmacSiv

            if self._many is None:
                self._many = ManyDatagrams()
            sock.setblocking(False)
            lane = Lane(message, AesGmacSiv(message.keys[:32], message.keys[32:]), os.urandom)
            self.down(lane.id)
            self._loop.poller.register(sock.fileno(), READ, partial(self._on_readable, lane, sock))
        except BaseException:
            sock.close()
            raise
        self._lanes[lane.id] = _Lent(lane, sock, DatagramSender())

    def told(self, message: LaneTerms | LaneSeen | LaneDown) -> None:
        """What the node says of a lane that it has lent, and that may have ended."""
        match message:
            case LaneTerms():
                self.agree(message)
            case LaneSeen(number, ids):
                if (found := self._lanes.get(number)) is not None:
                    found.lane.note(ids)
            case LaneDown(number):
                self.down(number)

    def agree(self, terms: LaneTerms) -> None:
        """From now on these terms hold for a lane."""
        found = self._lanes.get(terms.id)
        if found is not None:
            self._forget(found.lane)
            found.lane.agree(terms)
            self.by_head.update(dict.fromkeys(found.lane.heads, found))

    def _forget(self, lane: Lane) -> None:
        for head in lane.heads:
            if (found := self.by_head.get(head)) is not None and found.lane is lane:
                del self.by_head[head]

    def down(self, number: int) -> None:
        """Give a lane up: its frames go by the ring; what is in its socket is still read."""
        found = self._lanes.pop(number, None)
        if found is None:
            return
        lane, sock, _ = found
        self._forget(lane)
        for _ in range(LAST_READS):
            if not self._on_readable(lane, sock, READ):
                break
        self._loop.poller.unregister(sock.fileno())
        sock.close()
        self._tell_of(lane)
        self._used.pop(number, None)
        self._tell_ids()

    # Frames

    def _on_readable(self, lane: Lane, sock: socket.socket, _mask: int) -> bool:
        """Take what one call reads; False if that was nothing."""
        assert self._many is not None
        count = self._many.fill(sock.fileno())
        if not count:  # but an ICMP error, say: the node finds out about paths
            return False
        many, now = self._many, self._loop.now
        if count >= ALIKE and has_numpy() and (lengths := many.lengths()):
            frames, rest = lane.receive_slots(self._matrix(many), lengths, many.copies, now)
        elif many.coalesced[0] and has_numpy() and (size := many.run_size(ALIKE)) >= MIN_PACKET_LENGTH:
            frames, rest = _receive_runs(lane, many.filled(), size, now)
        else:
            frames, rest = lane.receive(many.copies(), now)
        if rest:
            taken = self._loop.to_node([(LANE | lane.id, (data,)) for data in rest])
            self.counters["lane_returns_dropped"] += len(rest) - taken
        if frames:
            self._loop.take_frames(lane.index, frames)
        self._note(lane)
        return True

    def _matrix(self, many: ManyDatagrams) -> Matrix:
        if self._slots is None:
            from ztnode.wire import packet_rows

            self._slots = packet_rows.matrix(many.slots, SLOTS)
        return self._slots

    def send(self, frames: Sequence[tuple[int, Frame]], now: float) -> list[tuple[int, Frame]]:
        """Send what a lane carries; the rest, in order."""
        by_head = self.by_head
        rest: list[tuple[int, Frame]] = []
        shares: dict[int, tuple[_Lent, list[Frame]]] = {}
        last: tuple[int, Buffer] | None = None
        last_share: list[Frame] = []
        for record in frames:
            index, frame = record
            head = frame[0][:ETHERNET_HEADER]
            if (index, head) == last:  # as those of many connections with one peer
                last_share.append(frame)
                continue
            found = by_head.get(bytes(head))
            if found is None or found.lane.index != index or now >= found.lane.until:
                rest.append(record)
                continue
            last, last_share = (index, head), shares.setdefault(found.lane.id, (found, []))[1]
            last_share.append(frame)
        for lent, share in shares.values():
            lane = lent.lane
            dropped = _send_share(lent, share, now)
            if dropped:
                lane.dropped += dropped
                self.counters["lane_datagrams_dropped"] += dropped
            self._note(lane)
        return rest

    # What the node is told

    def _note(self, lane: Lane) -> None:
        self._used[lane.id] = lane
        if not self.timed:
            self.timed = True
            self._due = self._loop.now + TELL_SECONDS

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        return self._due if self.timed else None

    def handle_timer(self, _now: float) -> None:
        """Tell the node."""
        for lane in self._used.values():
            self._tell_of(lane)
        self._used.clear()
        self._tell_ids()

    def _tell_of(self, lane: Lane) -> None:
        if lane.opened_ids:
            ids, lane.opened_ids = lane.opened_ids, []
            self._untold.append((LANE | LANE_IDS | lane.id, (b"".join(ids),)))
        self._tell(lane.used())

    def _tell_ids(self) -> None:
        """That they do not come again by another way. What finds no room, as while the node has much to do, waits."""
        if self._untold:
            del self._untold[: self._loop.to_node(self._untold)]
            del self._untold[:-MAX_UNTOLD]
        if not self._used:
            self.timed = bool(self._untold)
            self._due = self._loop.now + TELL_SECONDS


def _receive_runs(
    lane: Lane, runs: Sequence[memoryview], size: int, now: float
) -> tuple[list[memoryview], list[bytes]]:
    """As ``Lane.receive``, of datagrams of one size that the kernel has coalesced, as those of another of us are."""
    from ztnode.wire import packet_rows

    frames: list[memoryview] = []
    rest: list[bytes] = []
    for start in range(0, len(runs), RUNS_AT_ONCE):
        rows = packet_rows.joined(runs[start : start + RUNS_AT_ONCE], size)
        copies = partial(_copies, rows)
        if len(rows) < ALIKE:
            some, to_node = lane.receive(copies(0, len(rows)), now)
        else:
            some, to_node = lane.receive_slots(rows, [size] * len(rows), copies, now)
        frames += some
        rest += to_node
    return frames, rest


def _copies(rows: Matrix, start: int, end: int) -> list[bytes]:
    return [row.tobytes() for row in rows[start:end]]


def _send_share(lent: _Lent, frames: list[Frame], now: float) -> int:
    """Seal and send, and where many are of one length do that together. How many datagrams were dropped."""
    lane, sock, sender = lent
    if len(frames) < ALIKE or not has_numpy():
        return sender.send(sock, lane.seal(frames, now), None)
    dropped = 0
    others: list[Frame] = []
    for length, group in groupby(frames, _length):
        alike = list(group)
        size = lane.datagram_size(length) if len(alike) >= ALIKE else 0
        if not size:
            others += alike
            continue
        if others:
            dropped += sender.send(sock, lane.seal(others, now), None)
            others = []
        most = min(AT_ONCE, AT_ONCE_BYTES // length)
        step = -(-len(alike) // -(-len(alike) // most))  # all of one size, as a short last one would not pay
        for start in range(0, len(alike), step):
            block = lane.seal_alike(alike[start : start + step], length, now)
            dropped += sender.send_block(sock, block, size)
    return dropped + sender.send(sock, lane.seal(others, now), None)
