"""Rate gates: what bounds the work that a stranger or a peer can make us do."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

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
    """An ``Interval`` per key, for keys that strangers choose: at most ``capacity`` are remembered, and beyond that the
    oldest is forgotten, so that nobody waits for what others did."""

    __slots__ = ("_capacity", "_last", "_seconds")

    def __init__(self, seconds: float, capacity: int) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._last: dict[object, float] = {}

    def __len__(self) -> int:
        return len(self._last)

    def admit(self, key: object, now: float) -> bool:
        """Whether ``key`` may pass at ``now``; if so, it is counted."""
        last = self._last
        then = last.get(key)
        if then is not None:
            if now - then < self._seconds:
                return False
            del last[key]  # the table stays in order of time: the first one is the oldest
        elif len(last) >= self._capacity:
            del last[next(iter(last))]
        last[key] = now
        return True


class KeyedBucket:
    """A ``TokenBucket`` per key, for keys that strangers choose; beyond ``capacity`` the one that was used least lately
    is forgotten, so a gate of another kind must bound the whole."""

    __slots__ = ("_buckets", "_burst", "_capacity", "_rate")

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        self._rate = rate
        self._burst = burst
        self._capacity = capacity
        self._buckets: dict[object, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, key: object, now: float, events: float = 1) -> bool:
        """Whether ``key`` may pass at ``now``, for so many events; if so, they are counted."""
        buckets = self._buckets
        bucket = buckets.pop(key, None)
        if bucket is None:
            if len(buckets) >= self._capacity:
                del buckets[next(iter(buckets))]
            bucket = TokenBucket(self._rate, self._burst)
        buckets[key] = bucket
        return bucket.admit(now, events)


@lru_cache(maxsize=4096)
def source_network(ip: str) -> bytes:
    """Whose address it is, roughly: the /24 or /48, by which strangers are gated (InetAddress::rateGateHash). One host
    of a network can thus spend the share of that network alone."""
    try:
        packed = ip_address(ip).packed
    except ValueError:
        return b""
    return packed[:3] if len(packed) == 4 else packed[:6]
