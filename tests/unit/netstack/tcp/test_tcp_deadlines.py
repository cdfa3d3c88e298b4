"""When a connection is due: deadlines in a heap, and acknowledgements that wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ztnode.netstack.tcp.ack_delays import AckDelays
from ztnode.netstack.tcp.timer_heap import TimerHeap


def waiting(until: float | None) -> Any:
    """A connection whose acknowledgement waits."""
    return SimpleNamespace(rcv=SimpleNamespace(acks=SimpleNamespace(delayed_at=until)))


def due(at: float | None) -> Any:
    """A connection with a deadline."""
    return SimpleNamespace(at=at, marks=SimpleNamespace(scheduled=None))


def deadline(tcb: Any) -> Any:
    """When it is due really."""
    return tcb.at


def test_the_first_acknowledgement_that_still_waits_is_due() -> None:
    delays = AckDelays()
    long, short, carried = waiting(1.25), waiting(1.125), waiting(1.0625)
    delays.enter(long, 0.25, 1.0)
    delays.enter(carried, 0.0625, 1.0)
    delays.enter(short, 0.0625, 1.0625)
    assert delays.next_due() == 1.0625
    carried.rcv.acks.delayed_at = None
    assert delays.next_due() == 1.125
    assert delays.pop_due(1.1) == []
    assert delays.pop_due(1.25) == [long, short]
    assert delays.next_due() is None


def test_who_waits_anew_is_due_at_the_new_time_alone() -> None:
    delays = AckDelays()
    tcb = waiting(1.25)
    delays.enter(tcb, 0.25, 1.0)
    tcb.rcv.acks.delayed_at = 1.5
    delays.enter(tcb, 0.25, 1.25)
    assert delays.pop_due(1.25) == []
    assert delays.next_due() == 1.5
    assert delays.pop_due(1.5) == [tcb]


def test_deadlines_that_moved_wake_nobody_who_asks_a_while_later() -> None:
    first, second = due(1.0), due(2.0)
    heap = TimerHeap([first, second], deadline)
    for tcb in (second, first):
        heap.schedule(tcb, tcb.at)
    assert heap.next_due(0.0) == 1.0
    first.at = 3.0
    assert heap.next_due(0.001) == 1.0, "too soon to look again: before the deadline, not after it"
    assert heap.next_due(0.5) == 2.0
    first.at = 1.5
    heap.schedule(first, 1.5)
    assert heap.next_due(0.501) == 1.5, "an earlier one counts at once"
    assert heap.pop_due(2.0) == [first, second]
    assert heap.next_due(0.502) is None


def test_what_is_due_is_looked_at_whenever_that_was_done_last() -> None:
    tcb = due(1.0)
    heap = TimerHeap([tcb], deadline)
    heap.schedule(tcb, 1.0)
    assert heap.next_due(0.999) == 1.0
    tcb.at = 1.2
    assert heap.pop_due(1.0) == []
    assert heap.next_due(1.001) == 1.2
    tcb.at = None
    assert heap.pop_due(1.2) == []
    assert heap.next_due(1.2) is None
