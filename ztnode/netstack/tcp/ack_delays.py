"""Which connections wait with an acknowledgement, and until when.

Nearly every such wait ends early, because text of ours carries the acknowledgement: so to enter one must cost little,
and to take it back nothing.
"""

from __future__ import annotations

from collections import deque

from ztnode.netstack.tcp.tcb import ControlBlock


class AckDelays:
    """A queue for each length of the wait, of which ``DelayedAck`` has a handful: who waits equally long is due in the
    order of entry. An entry counts as long as ``delayed_at`` of its connection says the same."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[float, deque[tuple[float, ControlBlock]]] = {}

    def enter(self, tcb: ControlBlock, delay: float, now: float) -> None:
        """Its acknowledgement goes out ``delay`` seconds from now, which is what ``delayed_at`` says."""
        queue = self._queues.get(delay)
        if queue is None:
            queue = self._queues[delay] = deque()
        queue.append((now + delay, tcb))

    def next_due(self) -> float | None:
        """When the first of them goes out. What is not waited for any more is forgotten here, so whoever drives the
        layer keeps the queues short by asking."""
        earliest = None
        for queue in self._queues.values():
            while queue:
                at, tcb = queue[0]
                if tcb.rcv.acks.delayed_at == at:
                    if earliest is None or at < earliest:
                        earliest = at
                    break
                queue.popleft()
        return earliest

    def pop_due(self, now: float) -> list[ControlBlock]:
        """Take those whose time has come."""
        due: list[ControlBlock] = []
        for queue in self._queues.values():
            while queue and queue[0][0] <= now:
                at, tcb = queue.popleft()
                if tcb.rcv.acks.delayed_at == at:
                    due.append(tcb)
        return due
