"""The deadlines of many connections: a heap with lazy deletion."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sized
from typing import Final

from ztnode.netstack.tcp.tcb import ControlBlock

_EXAMINED_FOR: Final = 0.01
"""Seconds for which the earliest entry is not looked at again. A loop that falls asleep within them may be woken once
for a deadline that has moved."""


class TimerHeap:
    """When which connection is due. A connection's one valid entry is the one that ``marks.scheduled`` names.

    ``connections`` are all there are: with many more entries than that, most are superseded and are swept out.
    ``next_deadline`` says when a connection is due really.
    """

    __slots__ = ("_connections", "_examined_at", "_heap", "_next_deadline", "_order")

    def __init__(self, connections: Sized, next_deadline: Callable[[ControlBlock], float | None]) -> None:
        self._connections = connections
        self._next_deadline = next_deadline
        self._heap: list[tuple[float, int, ControlBlock]] = []
        self._order = 0
        self._examined_at = float("-inf")

    def __len__(self) -> int:
        return len(self._heap)

    def next_due(self, now: float) -> float | None:
        """The earliest deadline. One that has moved later is entered anew first, as nobody is to be woken for it; but
        what is in flight changes with each request, so where they come in close order the earliest entry stands for
        the deadline, which is not before it."""
        heap = self._heap
        if heap and now - self._examined_at < _EXAMINED_FOR:
            return heap[0][0]
        self._examined_at = now
        return self._examine()

    def _examine(self) -> float | None:
        heap = self._heap
        exact = None
        while heap:
            entry = heap[0]
            if entry is exact:
                return entry[0]
            at, order, tcb = entry
            marks = tcb.marks
            if marks.scheduled == at:  # otherwise superseded
                due = self._next_deadline(tcb)
                if due is not None and due <= at:
                    return at
                marks.scheduled = due
                if due is not None:
                    exact = due, order, tcb
                    heapq.heapreplace(heap, exact)
                    continue
            heapq.heappop(heap)
        return None

    def schedule(self, tcb: ControlBlock, due: float) -> None:
        """Enter a connection unless it is there early enough.

        A deadline that moves later (every ACK moves the retransmission timeout) costs nothing until the old entry comes
        up in ``next_due``.
        """
        scheduled = tcb.marks.scheduled
        if scheduled is not None and due >= scheduled:
            return
        tcb.marks.scheduled = due
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, tcb))
        if len(self._heap) > 1024 and len(self._heap) > 4 * len(self._connections):
            self._heap = [entry for entry in self._heap if entry[2].marks.scheduled == entry[0]]
            heapq.heapify(self._heap)

    def pop_due(self, now: float) -> list[ControlBlock]:
        """Take those whose time has come."""
        due: list[ControlBlock] = []
        while (at := self._examine()) is not None and at <= now:
            _, _, tcb = heapq.heappop(self._heap)
            tcb.marks.scheduled = None
            due.append(tcb)
        return due
