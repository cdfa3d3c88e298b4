"""The receiving half: what is in order and unread, what came out of order, which SACK blocks to send, how large a
window to offer.

Payload arrives as views of somebody else's memory. In order it is queued as it is, so that the owner's read in the
same batch can hand it straight to a gather write; ``copy_unread`` copies what nobody took. Out of order it is
copied at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from ztnode.wire.buffer import Buffer

_MERGE: Final = 4096
"""Stored pieces below this many bytes are merged, so that tiny segments do not pin an object each."""
_PIECE_COST: Final = 128
"""What a stored out-of-order piece costs beside its bytes."""


class ReceiveQueue:
    """Bytes in order that the owner has not read."""

    __slots__ = ("_head", "_owned", "_pieces", "size")

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[Buffer | bytearray] = []
        self._head = 0  # index of the first unread piece
        self._owned = 0  # pieces before this index are our own memory, not borrowed

    def push(self, view: memoryview) -> None:
        """Append borrowed memory."""
        self._pieces.append(view)
        self.size += len(view)

    def push_owned(self, piece: Buffer) -> None:
        """Append memory that stays valid."""
        if self._owned == len(self._pieces):
            self._owned += 1
        self._pieces.append(piece)
        self.size += len(piece)

    def read(self, limit: int) -> list[Buffer]:
        """Take up to ``limit`` bytes."""
        pieces = self._pieces
        if limit >= self.size:
            taken = pieces[self._head :] if self._head else pieces
            self._pieces = []
            self._head = self._owned = 0
            self.size = 0
            return taken  # type: ignore[return-value]  # a bytearray that is given away is a buffer like any other
        out: list[Buffer] = []
        self.size -= limit
        head = self._head
        while limit > 0:
            piece = pieces[head]
            if len(piece) > limit:
                view = memoryview(piece)
                out.append(view[:limit])
                pieces[head] = view[limit:]
                break
            out.append(piece)  # type: ignore[arg-type]
            limit -= len(piece)
            pieces[head] = b""
            head += 1
        if head > 64:
            del pieces[:head]
            self._owned = max(0, self._owned - head)
            head = 0
        self._head = head
        return out

    def copy_unread(self) -> None:
        """Copy what is still borrowed."""
        pieces = self._pieces
        start = max(self._owned, self._head)
        if start >= len(pieces):
            return
        borrowed = pieces[start:]
        own = b"".join(borrowed)
        del pieces[start:]
        last = pieces[-1] if start > self._head else None
        if last is not None and len(own) < _MERGE and len(last) < 4 * _MERGE:
            if type(last) is bytearray:
                last += own
            else:
                merged = bytearray(last)
                merged += own
                pieces[-1] = merged
        else:
            pieces.append(own)
        self._owned = len(pieces)


class Reassembly:
    """Out-of-order data: disjoint ranges of the sequence space in ascending order.

    Memory is bounded twice: by ``limit`` bytes, pieces counted with their overhead, and by ``max_ranges``. What does
    not fit is refused, which RFC 2018 section 8 allows as it was never acknowledged.
    """

    __slots__ = ("_ends", "_pieces", "_recent", "_starts", "cost", "max_ranges")

    def __init__(self, max_ranges: int = 1024) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._pieces: list[list[bytes | bytearray]] = []
        self._recent: list[int] = []  # a sequence number inside each recently changed range, newest first
        self.cost = 0
        self.max_ranges = max_ranges

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def insert(self, start: int, data: Buffer, limit: int) -> tuple[bool, tuple[int, int] | None]:
        """Store ``data`` at sequence number ``start``.

        Returns (stored, duplicate): whether anything new was kept, and the first range of it that was here before
        (for a DSACK block, RFC 2883), if any.
        """
        end = start + len(data)
        starts, ends = self._starts, self._ends
        first = bisect_left(ends, start)  # the first range that touches or follows
        last = bisect_right(starts, end)  # one past the last range that touches
        if first == last:
            if len(starts) >= self.max_ranges or self.cost + len(data) + _PIECE_COST > limit:
                return False, None
            starts.insert(first, start)
            ends.insert(first, end)
            self._pieces.insert(first, [bytes(data)])
            self.cost += len(data) + _PIECE_COST
            self._note(start)
            return True, None
        if last == first + 1 and start >= ends[first]:  # the common case: the range grows at its end
            if self.cost + len(data) + _PIECE_COST > limit:
                return False, None
            self._append(self._pieces[first], data)
            ends[first] = end
            self._note(starts[first])
            return True, None
        # General case: fill the gaps between what is there with the new bytes.
        duplicate = None
        for index in range(first, last):  # a range may touch without overlapping
            left, right = max(start, starts[index]), min(end, ends[index])
            if left < right:
                duplicate = (left, right)
                break
        if start >= starts[first] and end <= ends[first]:
            self._note(starts[first])
            return False, duplicate
        if self.cost + len(data) + (last - first + 1) * _PIECE_COST > limit:
            return False, duplicate
        view = memoryview(data)
        pieces: list[bytes | bytearray] = []
        low = position = min(start, starts[first])
        for index in range(first, last):
            if position < starts[index]:
                self._append(pieces, view[position - start : starts[index] - start])
            pieces.extend(self._pieces[index])
            position = ends[index]
        if position < end:
            self._append(pieces, view[position - start :])
            position = end
        starts[first:last] = [low]
        ends[first:last] = [position]
        self._pieces[first:last] = [pieces]
        self._note(low)
        return True, duplicate

    def _append(self, pieces: list[bytes | bytearray], data: Buffer) -> None:
        length = len(data)
        if pieces and length < _MERGE and len(pieces[-1]) < _MERGE:
            last = pieces[-1]
            if type(last) is bytearray:
                last += data
            else:
                merged = bytearray(last)
                merged += data
                pieces[-1] = merged
            self.cost += length
        else:
            pieces.append(bytes(data))
            self.cost += length + _PIECE_COST

    def _note(self, start: int) -> None:
        recent = self._recent
        if not recent or recent[0] != start:
            if start in recent:
                recent.remove(start)
            recent.insert(0, start)
            del recent[8:]

    def pop(self, upto: int) -> tuple[int, list[bytes | bytearray]]:
        """Take what has become in order now that everything before ``upto`` is here: (new upto, pieces)."""
        starts, ends = self._starts, self._ends
        taken: list[bytes | bytearray] = []
        while starts and starts[0] <= upto:
            start, end, pieces = starts.pop(0), ends.pop(0), self._pieces.pop(0)
            for piece in pieces:
                self.cost -= len(piece) + _PIECE_COST
                stop = start + len(piece)
                if stop > upto:
                    taken.append(piece if start >= upto else piece[upto - start :])
                start = stop
            if end > upto:
                upto = end
        if not starts:
            self._recent.clear()
            self.cost = 0
        return upto, taken

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._ends.clear()
        self._pieces.clear()
        self._recent.clear()
        self.cost = 0

    def sack_blocks(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` ranges, the most recently changed first (RFC 2018 section 4)."""
        starts, ends = self._starts, self._ends
        blocks: list[tuple[int, int]] = []
        seen: set[int] = set()
        for note in self._recent:
            index = bisect_right(starts, note) - 1
            if index >= 0 and ends[index] > note and index not in seen:
                seen.add(index)
                blocks.append((starts[index], ends[index]))
                if len(blocks) == count:
                    return blocks
        for index in range(len(starts) - 1, -1, -1):
            if len(blocks) == count:
                break
            if index not in seen:
                blocks.append((starts[index], ends[index]))
        return blocks


class ReceiveWindow:
    """How much the peer may send: never shrinks, moves in steps worth an ACK, grows while the owner keeps up."""

    __slots__ = ("_copied", "_epoch", "edge", "limit", "maximum")

    def __init__(self, rcv_nxt: int, limit: int, maximum: int) -> None:
        self.limit = limit
        self.maximum = maximum
        self.edge = rcv_nxt + limit
        """The right edge that was announced."""
        self._copied = 0
        self._epoch = 0.0

    def announce(self, rcv_nxt: int, unread: int, mss: int, scale: int) -> int:
        """The window field for a segment sent now (already shifted).

        The right edge only moves by a segment or by half of the buffer (RFC 9293 section 3.8.6.2.2, SWS avoidance in
        the receiver), and never back (RFC 9293 section 3.8.6).
        """
        limit = self.limit
        room = limit - unread >> scale << scale if unread < limit else 0
        offered = self.edge - rcv_nxt
        gain = room - offered
        if gain >= mss or gain >= limit >> 1:
            self.edge = rcv_nxt + room
            offered = room
        window = offered >> scale
        # Negative where a FIN lies at an edge that was withdrawn (``receive_memory``).
        return 0 if window < 0 else window if window < 0xFFFF else 0xFFFF

    def update_due(self, rcv_nxt: int, unread: int, mss: int) -> bool:
        """After a read: whether the peer should hear of the new room at once instead of with the next ACK."""
        offered = self.edge - rcv_nxt
        if 2 * offered > self.limit + 1:
            return False  # nothing below can be: less is to be gained than is offered, and less than half of the buffer
        gain = self.limit - unread - offered
        return gain >= mss and (gain >= self.limit >> 1 or offered < mss or gain >= 2 * offered)

    def consumed(self, count: int, rtt: float, now: float) -> None:
        """The owner read ``count`` bytes: dynamic right-sizing.

        Whoever reads X bytes in one round trip needs a window of 2 X for the sender to be able to double its rate.
        """
        copied = self._copied = self._copied + count
        limit = self.limit
        if limit >= self.maximum:
            return
        elapsed = now - self._epoch
        if elapsed < rtt:
            return
        if copied * 2 > limit:
            # Scale what was read to one round trip: reads come in bursts that need not fit the period.
            wanted = int(2 * copied * min(1.0, 2 * rtt / elapsed if elapsed > 0 else 1.0))
            if wanted > limit:
                self.limit = min(max(wanted, limit + (limit >> 1)), self.maximum)
        self._copied = 0
        self._epoch = now
