"""HyStart++ (RFC 9406): leave slow start when the round-trip time begins to rise, before the queue overflows."""

from __future__ import annotations

from typing import Final

# RFC 9406 section 4.3.
_MIN_RTT_THRESHOLD: Final = 0.004
_MAX_RTT_THRESHOLD: Final = 0.016
_MIN_RTT_DIVISOR: Final = 8
_SAMPLES: Final = 8
_GROWTH_DIVISOR: Final = 4
_ROUNDS: Final = 5

_INFINITY: Final = float("inf")


class HyStart:
    """Rounds, their minimum RTT, and Conservative Slow Start (CSS)."""

    __slots__ = ("_css_baseline", "_css_rounds", "_current", "_last", "_round_end", "_samples", "finished")

    def __init__(self) -> None:
        self._round_end = -1
        self._last = _INFINITY
        self._current = _INFINITY
        self._samples = 0
        self._css_baseline = _INFINITY
        self._css_rounds = 0  # 0: plain slow start
        self.finished = False

    def stop(self) -> None:
        """Loss ended slow start; later slow starts (after a timeout) are plain (RFC 9406 section 4.3)."""
        self.finished = False
        self._css_rounds = 0
        self._round_end = 1 << 62
        self._samples = 0

    def growth(self, acked: int, una: int, nxt: int, rtt: float, mss: int) -> int:
        """By how many bytes the window may grow for this ACK; sets ``finished`` when slow start is over."""
        if una > self._round_end:  # a round ends when what was in flight at its start is acknowledged
            self._round_end = nxt
            self._last = self._current
            self._current = _INFINITY
            self._samples = 0
            if self._css_rounds:
                self._css_rounds += 1
                if self._css_rounds > _ROUNDS:
                    self.finished = True
        if rtt > 0.0:
            if rtt < self._current:
                self._current = rtt
            # One ACK of ours may stand for many of the peer's segments; count segments, as the RFC's sender would see.
            self._samples += max(1, acked // (2 * mss))
            if self._samples >= _SAMPLES:
                if self._css_rounds:
                    if self._current < self._css_baseline:  # the rise was a spurious one
                        self._css_rounds = 0
                        self._css_baseline = _INFINITY
                elif self._current < _INFINITY and self._last < _INFINITY:
                    threshold = min(max(self._last / _MIN_RTT_DIVISOR, _MIN_RTT_THRESHOLD), _MAX_RTT_THRESHOLD)
                    if self._current >= self._last + threshold:
                        self._css_baseline = self._current
                        self._css_rounds = 1
        return acked // _GROWTH_DIVISOR if self._css_rounds else acked
