"""A token bucket: so many at once, so many a second in the long run. Sans-IO: the caller says what time it is."""

from __future__ import annotations


class TokenBucket:
    """Lets ``burst`` events through at once and ``rate`` per second in the long run; it begins full.

    ``burst`` is ``rate`` where it is not given. Time is monotonic seconds; a clock that steps back adds nothing.
    """

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = rate if burst is None else burst
        self._tokens = self._burst
        self._filled = float("-inf")

    def admit(self, now: float, events: float = 1) -> bool:
        """Whether so many more events may happen at ``now``; if so, they are counted."""
        elapsed = max(0.0, now - self._filled)
        self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        self._filled = now
        if self._tokens < events:
            return False
        self._tokens -= events
        return True

    def take(self, now: float, events: float) -> float:
        """Count so many, which have happened already; the seconds until there is no debt any more, 0: there is none."""
        self.admit(now, 0)
        self._tokens -= events
        return max(0.0, -self._tokens / self._rate)
