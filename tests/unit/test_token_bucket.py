"""The token bucket that rooms share."""

from __future__ import annotations

from ztnode.token_bucket import TokenBucket


def test_as_many_at_once_as_a_second_unless_said_otherwise() -> None:
    bucket = TokenBucket(10)
    assert sum(bucket.admit(0.0) for _ in range(50)) == 10
    assert not bucket.admit(0.05)
    assert bucket.admit(0.15)
    assert not bucket.admit(0.15)
    assert sum(bucket.admit(100.0) for _ in range(50)) == 10


def test_a_burst_is_not_the_rate() -> None:
    bucket = TokenBucket(0.5, 4)
    assert sum(bucket.admit(1000.0) for _ in range(50)) == 4
    assert [second for second in range(1, 9) if bucket.admit(1000.0 + second)] == [2, 4, 6, 8]


def test_a_clock_that_steps_back_adds_nothing() -> None:
    bucket = TokenBucket(1)
    assert bucket.admit(100.0)
    assert not any(bucket.admit(moment) for moment in (100.0, 50.0, 50.9))
    assert bucket.admit(51.9)


def test_nothing_passes_a_rate_of_nothing() -> None:
    assert not TokenBucket(0).admit(5.0)
