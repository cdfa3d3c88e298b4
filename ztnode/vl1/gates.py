"""Rate gates: what bounds the work that a stranger or a peer can make us do."""

from __future__ import annotations

from ztnode.token_bucket import TokenBucket


class Interval:
    """Lets one through per ``seconds``."""

    __slots__ = ("_next", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = float("-inf")

    def admit(self, now: float) -> bool:
        """Whether one may pass at ``now``; if so, it is counted."""
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class Cutoff:
    """Lets ``limit`` through, one close on another; after that nothing until ``seconds`` have been quiet
    (Peer::rateGatePushDirectPaths)."""

    __slots__ = ("_count", "_last", "_limit", "_seconds")

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._count = 0
        self._last = float("-inf")

    def admit(self, now: float) -> bool:
        """Whether one may pass at ``now``; it is counted either way."""
        self._count = self._count + 1 if now - self._last <= self._seconds else 0
        self._last = now
        return self._count < self._limit


class KeyedInterval:
    """An ``Interval`` per key, for keys that strangers choose: at most ``capacity`` are remembered. When they are all
    taken by fresh keys, strangers must wait, whoever they are: that is the bound."""

    __slots__ = ("_capacity", "_last", "_seconds")

    def __init__(self, seconds: float, capacity: int) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._last: dict[object, float] = {}

    def admit(self, key: object, now: float) -> bool:
        """Whether ``key`` may pass at ``now``; if so, it is counted."""
        last = self._last
        if (then := last.get(key)) is not None and now - then < self._seconds:
            return False
        if then is None and len(last) >= self._capacity:
            self._forget(now)
            if len(last) >= self._capacity:
                return False
        last.pop(key, None)  # keep the table in order of time, so that forgetting stops at the first fresh one
        last[key] = now
        return True

    def _forget(self, now: float) -> None:
        expired = []
        for key, then in self._last.items():
            if now - then < self._seconds:
                break
            expired.append(key)
        for key in expired:
            del self._last[key]


class KeyedBucket:
    """A ``TokenBucket`` per key, for keys that strangers choose; beyond ``capacity`` the oldest is forgotten, so a gate
    of another kind must bound the whole."""

    __slots__ = ("_buckets", "_burst", "_capacity", "_rate")

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        self._rate = rate
        self._burst = burst
        self._capacity = capacity
        self._buckets: dict[object, TokenBucket] = {}

    def admit(self, key: object, now: float) -> bool:
        """Whether ``key`` may pass at ``now``; if so, it is counted."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._capacity:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst)
        return bucket.admit(now)
