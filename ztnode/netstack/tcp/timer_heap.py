"""The deadlines of many connections: a heap with lazy deletion."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sized

from ztnode.netstack.tcp.tcb import ControlBlock


class TimerHeap:
    """When which connection is due. A connection's one valid entry is the one that ``marks.scheduled`` names.

    ``connections`` are all there are: with many more entries than that, most are superseded and are swept out.
    ``next_deadline`` says when a connection is due really.
    """

    __slots__ = ("_connections", "_heap", "_next_deadline", "_order")

    def __init__(self, connections: Sized, next_deadline: Callable[[ControlBlock], float | None]) -> None:
        self._connections = connections
        self._next_deadline = next_deadline
        self._heap: list[tuple[float, int, ControlBlock]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def next_due(self) -> float | None:
        """The earliest deadline. One that has moved later is entered anew first: nobody is to be woken for it."""
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
        while (at := self.next_due()) is not None and at <= now:
            _, _, tcb = heapq.heappop(self._heap)
            tcb.marks.scheduled = None
            due.append(tcb)
        return due
