"""What is in flight, and what is known of it (RFC 6675's scoreboard, in ranges instead of segments).

[una, nxt) is tiled by ``Span``s. A span is what was sent at one moment and has one fate: in flight, lost (and not yet
sent again), or selectively acknowledged. A batch of forty segments is one span; an acknowledgement splits or shrinks
the spans at its edges and touches nothing else, so its cost does not depend on how much is in flight. Spans in flight
are also chained in the order of their transmission, which is the order in which RACK looks at them (RFC 8985
section 6.2: it stops at the first one that is not yet overdue).
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ztnode.netstack.tcp.delivery_rate import Stamp

IN_FLIGHT: Final = 0
LOST: Final = 1
SACKED: Final = 2


class Span:
    """A range [start, end) of the sequence space with one history."""

    __slots__ = ("after", "before", "end", "retransmitted", "sent", "stamp", "start", "state")

    def __init__(
        self, start: int, end: int, sent: float, state: int, retransmitted: bool, stamp: Stamp | None = None
    ) -> None:
        self.start = start
        self.end = end
        self.sent = sent
        self.state = state
        self.retransmitted = retransmitted
        self.stamp = stamp
        """For the delivery rate, where the congestion control asks for it."""
        self.before: Span = self
        self.after: Span = self


class Scoreboard:
    """The spans of one connection. All positions are unwrapped sequence numbers."""

    __slots__ = (
        "_lost_heap",
        "_spans",
        "_starts",
        "delivered",
        "fack",
        "lost",
        "lost_ever",
        "newest_end",
        "newest_original",
        "newest_retransmitted",
        "newest_sent",
        "newest_stamp",
        "reordered",
        "sacked",
        "sentinel",
        "watch",
        "watched_arrived",
    )

    def __init__(self, una: int) -> None:
        self._starts: list[int] = []
        self._spans: list[Span] = []
        self._lost_heap: list[int] = []
        self.sentinel = Span(una, una, 0.0, SACKED, False)
        """Head of the transmission order: ``sentinel.after`` was sent first of all that is in flight."""
        self.sacked = 0
        """Bytes selectively acknowledged."""
        self.lost = 0
        """Bytes deemed lost and not sent again."""
        self.lost_ever = 0
        """Bytes deemed lost since the beginning."""
        self.fack = una
        """Highest sequence number acknowledged, cumulatively or selectively (RFC 8985's RACK.fack)."""
        self.watch = una
        self.begin()

    def begin(self) -> None:
        """Reset what is reported about one acknowledgement."""
        self.delivered = 0
        """Bytes that this acknowledgement reported for the first time."""
        self.newest_sent = -1.0
        """When the most recently sent of them was sent, and where it ended."""
        self.newest_end = 0
        self.newest_retransmitted = False
        self.newest_stamp: Stamp | None = None
        self.newest_original = -1.0
        """As newest_sent, among what was sent only once: good for a round-trip sample (Karn's algorithm)."""
        self.reordered = False
        """Something that was sent once arrived after something that was sent later (RFC 8985 section 6.2 step 4)."""
        self.watched_arrived = False
        """Something before ``watch`` arrived by its first transmission (F-RTO, RFC 5682)."""

    # --- chains ---
    def _link_last(self, span: Span) -> None:
        tail = self.sentinel.before
        span.before = tail
        span.after = self.sentinel
        tail.after = span
        self.sentinel.before = span

    @staticmethod
    def _link_after(span: Span, anchor: Span) -> None:
        following = anchor.after
        span.before = anchor
        span.after = following
        anchor.after = span
        following.before = span

    @staticmethod
    def _unlink(span: Span) -> None:
        span.before.after = span.after
        span.after.before = span.before
        span.before = span.after = span

    def _split(self, index: int, at: int) -> None:
        """Cut the span at ``index`` in two at sequence number ``at``."""
        span = self._spans[index]
        upper = Span(at, span.end, span.sent, span.state, span.retransmitted, span.stamp)
        span.end = at
        self._spans.insert(index + 1, upper)
        self._starts.insert(index + 1, at)
        if span.state == IN_FLIGHT:
            self._link_after(upper, span)
        elif span.state == LOST:
            heapq.heappush(self._lost_heap, at)

    # --- sending ---
    def transmitted(self, start: int, end: int, now: float, stamp: Stamp | None = None) -> None:
        """New data [start, end) was sent; it follows what was sent before."""
        spans = self._spans
        if spans:
            last = spans[-1]
            if last.sent == now and last.state == IN_FLIGHT and not last.retransmitted:
                last.end = end
                return
        span = Span(start, end, now, IN_FLIGHT, False, stamp)
        spans.append(span)
        self._starts.append(start)
        self._link_last(span)

    def retransmitted(self, start: int, end: int, now: float, stamp: Stamp | None = None) -> None:
        """[start, end) was sent again, whatever was thought of it (not what is SACKed)."""
        index = self._isolate(start, end)
        while index < len(self._spans) and self._starts[index] < end:
            span = self._spans[index]
            if span.state != SACKED:
                if span.state == LOST:
                    self.lost -= span.end - span.start
                    span.state = IN_FLIGHT
                else:
                    self._unlink(span)
                span.sent = now
                span.retransmitted = True
                span.stamp = stamp
                self._link_last(span)
            index += 1

    def _isolate(self, start: int, end: int) -> int:
        """Make span boundaries at ``start`` and ``end``; the index of the span that begins at ``start``."""
        starts, spans = self._starts, self._spans
        index = bisect_right(starts, start) - 1
        if starts[index] < start:
            self._split(index, start)
            index += 1
        last = bisect_right(starts, end - 1) - 1
        if spans[last].end > end:
            self._split(last, end)
        return index

    def next_lost(self) -> tuple[int, int] | None:
        """The lost range with the lowest sequence number, or None."""
        heap = self._lost_heap
        starts, spans = self._starts, self._spans
        while heap:
            index = bisect_right(starts, heap[0]) - 1
            if index >= 0:
                span = spans[index]
                if span.state == LOST and span.end > heap[0]:
                    return span.start, span.end
            elif starts and spans[0].state == LOST:
                return spans[0].start, spans[0].end  # its front was acknowledged
            heapq.heappop(heap)
        return None

    # --- acknowledgements ---
    def _deliver(self, span: Span, start: int, end: int) -> None:
        self.delivered += end - start
        sent = span.sent
        if sent > self.newest_sent or (sent == self.newest_sent and end > self.newest_end):
            self.newest_sent = sent
            self.newest_end = end
            self.newest_retransmitted = span.retransmitted
            self.newest_stamp = span.stamp
        if not span.retransmitted:
            if sent > self.newest_original:
                self.newest_original = sent
            if end <= self.watch:
                self.watched_arrived = True
            if end < self.fack:
                self.reordered = True

    def acknowledge(self, upto: int) -> None:
        """Everything before ``upto`` is acknowledged cumulatively."""
        spans = self._spans
        gone = 0
        for span in spans:
            if span.start >= upto:
                break
            end = span.end
            stop = end if end <= upto else upto
            state = span.state
            length = stop - span.start
            if state == SACKED:
                self.sacked -= length
            else:
                if state == LOST:
                    self.lost -= length
                self._deliver(span, span.start, stop)
            if end > upto:
                span.start = upto
                self._starts[gone] = upto
                break
            if state == IN_FLIGHT:
                self._unlink(span)
            gone += 1
        if gone:
            del spans[:gone]
            del self._starts[:gone]
        if upto > self.fack:
            self.fack = upto

    def arrived_alone(self) -> Span | None:
        """All that is in flight is acknowledged, if that was sent at one moment, once: the span that it was. Otherwise
        None, and nothing changes. Says nothing of what ``begin`` resets."""
        spans = self._spans
        if len(spans) != 1:
            return None
        span = spans[0]
        if span.state != IN_FLIGHT or span.retransmitted or span.stamp is not None:
            return None
        spans.clear()
        self._starts.clear()
        sentinel = self.sentinel
        sentinel.before = sentinel.after = sentinel
        self.fack = span.end
        return span

    def sack(self, start: int, end: int) -> None:
        """[start, end), inside what is in flight, is selectively acknowledged."""
        starts, spans = self._starts, self._spans
        index = bisect_right(starts, start) - 1
        if index < 0:
            index = 0
        span = spans[index]
        if span.state == SACKED and span.end >= end:
            return  # nothing new: most blocks of most ACKs
        while index < len(spans):
            span = spans[index]
            if span.start >= end:
                break
            if span.state == SACKED or span.end <= start:
                index += 1
                continue
            if span.start < start:
                self._split(index, start)
                index += 1
                span = spans[index]
            stop = span.end if span.end <= end else end
            length = stop - span.start
            if span.state == LOST:
                self.lost -= length
            self._deliver(span, span.start, stop)
            self.sacked += length
            before = spans[index - 1] if index else None
            if before is not None and before.state == SACKED:
                # Extend the neighbour; the span shrinks from the front or goes.
                before.end = stop
                if stop < span.end:
                    span.start = stop
                    starts[index] = stop
                    if span.state == LOST:
                        heapq.heappush(self._lost_heap, stop)
                    break
                if span.state == IN_FLIGHT:
                    self._unlink(span)
                del spans[index]
                del starts[index]
            else:
                if stop < span.end:
                    self._split(index, stop)
                if span.state == IN_FLIGHT:
                    self._unlink(span)
                span.state = SACKED
                index += 1
            self._join_successor(index - 1)
        if end > self.fack:
            self.fack = end

    def _join_successor(self, index: int) -> None:
        """Make the SACKed span at ``index`` and the one behind it one, if that is SACKed too."""
        spans = self._spans
        following = index + 1
        if following < len(spans) and spans[following].state == SACKED and spans[index].end == spans[following].start:
            spans[index].end = spans[following].end
            del spans[following]
            del self._starts[following]

    # --- loss ---
    def mark_lost(self, span: Span) -> None:
        """An in-flight span is deemed lost."""
        self._unlink(span)
        span.state = LOST
        self.lost += span.end - span.start
        self.lost_ever += span.end - span.start
        heapq.heappush(self._lost_heap, span.start)

    def mark_range_lost(self, start: int, end: int) -> None:
        """Everything in [start, end) that is in flight is deemed lost."""
        index = self._isolate(start, end)
        spans = self._spans
        while index < len(spans) and spans[index].start < end:
            if spans[index].state == IN_FLIGHT:
                self.mark_lost(spans[index])
            index += 1

    def mark_all_lost(self) -> None:
        """After a retransmission timeout: nothing that is not SACKed is in flight (RFC 6675 section 5.1).

        The history is cleared, so that an arrival by the first transmission can be told from one by the second.
        """
        for span in self._spans:
            if span.state == IN_FLIGHT:
                self.mark_lost(span)

    def forget_losses(self) -> None:
        """The losses were imagined (undo): what is marked lost is in flight after all."""
        for span in self._spans:
            if span.state == LOST:
                self.lost -= span.end - span.start
                span.state = IN_FLIGHT
                self._link_last(span)
        self._lost_heap.clear()

    def renege(self) -> None:
        """The peer dropped what it had SACKed (RFC 2018 section 8): forget every SACK."""
        for span in self._spans:
            if span.state == SACKED:
                span.state = IN_FLIGHT
                self._link_last(span)
        self.sacked = 0

    def first_unsacked(self) -> Span | None:
        """The lowest span, if it is not SACKed."""
        return self._spans[0] if self._spans and self._spans[0].state != SACKED else None

    def last_sent_range(self) -> tuple[int, int] | None:
        """The highest range that is not SACKed: what a tail loss probe repeats."""
        for span in reversed(self._spans):
            if span.state != SACKED:
                return span.start, span.end
        return None

    def spans(self) -> list[tuple[int, int, int]]:
        """(start, end, state) of every span, for tests and diagnosis."""
        return [(span.start, span.end, span.state) for span in self._spans]
