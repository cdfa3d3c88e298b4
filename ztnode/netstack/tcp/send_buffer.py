"""What the owner wrote and the peer has not acknowledged: a list of chunks, cut into segments without a copy."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from ztnode.wire.buffer import Buffer

SMALL: Final = 2048
"""Writes below this many bytes are copied together: a gather list of many tiny views costs more than the copy."""
_TAIL: Final = 8192


class SendBuffer:
    """Bytes [start, end) of the send sequence space.

    Positions are unwrapped sequence numbers (plain growing integers). ``start`` moves by ``acknowledge``, ``end`` by
    ``append``. Chunks are freed whole: memory held is at most one chunk more than ``end - start``.
    """

    __slots__ = ("_chunks", "_starts", "_tail", "_tail_used", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self._starts: list[int] = []
        self._chunks: list[Buffer] = []
        self._tail: memoryview | None = None  # preallocated room that small writes fill
        self._tail_used = 0

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, data: Buffer) -> None:
        """Queue ``data``. Large buffers are referenced, not copied: the caller must not change them any more."""
        length = len(data)
        if length < SMALL and not self._chunks and length:
            # A lone small write, the usual case of a request, gets exactly its own bytes: to sum and to join them is
            # quicker than with a view, and a copy of a part of them is rare and short.
            self._starts.append(self.end)
            self._chunks.append(bytes(data))
            self.end += length
            return
        if length >= SMALL:
            self._starts.append(self.end)
            self._chunks.append(memoryview(data).cast("B"))
            self._tail = None
            self.end += length
            return
        if not length:
            return
        tail = self._tail
        if tail is None or self._tail_used + length > _TAIL:
            if self._tail is None and len(self._chunks[-1]) >= SMALL:  # one behind a large write, too
                self._starts.append(self.end)
                self._chunks.append(bytes(data))
                self.end += length
                return
            tail = self._tail = memoryview(bytearray(_TAIL))
            self._tail_used = 0
            self._starts.append(self.end)
            self._chunks.append(tail[:0])
        used = self._tail_used
        tail[used : used + length] = data
        self._tail_used = used + length
        self._chunks[-1] = tail[: self._tail_used]
        self.end += length

    def acknowledge(self, upto: int) -> None:
        """Free everything before ``upto`` (start <= upto <= end)."""
        self.start = upto
        starts, chunks = self._starts, self._chunks
        if upto == self.end:
            starts.clear()
            chunks.clear()
            self._tail = None
            return
        gone = bisect_right(starts, upto) - 1
        if gone > 0:
            del starts[:gone]
            del chunks[:gone]

    def rest(self, start: int) -> Buffer | None:
        """[start, end) where that lies in one piece, as what was written last does; it is not empty."""
        begins = self._starts[-1]
        if begins == start:
            return self._chunks[-1]
        return self._chunks[-1][start - begins :] if begins < start else None

    def cut(self, start: int, end: int, size: int) -> list[tuple[Buffer, ...]]:
        """[start, end) as segments of ``size`` bytes (the last may be shorter), each a tuple of views, or
        copies of what is small."""
        starts, chunks = self._starts, self._chunks
        index = bisect_right(starts, start) - 1
        chunk = chunks[index]
        offset = start - starts[index]
        room = len(chunk) - offset
        segments: list[tuple[Buffer, ...]] = []
        add = segments.append
        left = end - start
        while left > 0:
            length = size if size < left else left
            left -= length
            if length <= room:
                stop = offset + length
                add((chunk[offset:stop],))
                offset = stop
                room -= length
                continue
            parts: list[Buffer] = []
            while True:
                if room:
                    take = room if room < length else length
                    parts.append(chunk[offset : offset + take])
                    offset += take
                    room -= take
                    length -= take
                    if not length:
                        break
                index += 1
                chunk = chunks[index]
                offset = 0
                room = len(chunk)
            add(tuple(parts))
        return segments
