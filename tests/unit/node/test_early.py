"""What comes while a node loads is kept in bounds."""

from __future__ import annotations

from ztnode.node.early import MAX_BYTES, Early


def test_a_flood_from_the_first_moment_takes_no_more_memory_than_there_is_for_it() -> None:
    early = Early()
    answer = [(b"OK", ("192.0.2.1", 9993))]
    flood = [(bytes(1400), ("198.51.100.1", number)) for number in range(1, 65)]
    early.hold(answer)
    for _ in range(100):
        early.hold(flood)
    batches = early.take()
    kept = sum(len(data) for batch in batches for data, _ in batch)
    assert batches[0] == answer and MAX_BYTES - 64 * 1400 < kept <= MAX_BYTES
    assert early.dropped == 100 * 64 - (len(batches) - 1) * 64
    assert early.take() == []
    early.hold(answer)
    assert early.take() == [answer], "there is room again"
