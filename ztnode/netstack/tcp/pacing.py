"""Spreading segments over time (for algorithms that have a rate), in bursts that a timer of 1 ms can keep up with."""

from __future__ import annotations

from typing import Final

_BURST: Final = 0.001
"""Seconds' worth that goes out at once: the kernel's figure, and what an event loop's timer can tell apart."""
_CATCH_UP: Final = 0.005
"""How late a turn of the event loop may be before its share of the rate is lost."""


class Pacer:
    """When the next segment may leave: each one sent moves ``due`` on by the time that it takes at the current rate."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = 0.0
        """Nothing leaves before this."""

    def room(self, rate: float, mss: int, now: float) -> int:
        """Bytes that may leave now: whole segments, at least one once it is due, and after them none before ``due``."""
        late = now - self.due
        if late < 0.0:
            return 0
        return (int((min(late, _CATCH_UP) + _BURST) * rate) // mss + 1) * mss

    def sent(self, length: int, rate: float, now: float) -> None:
        """``length`` bytes were sent at ``rate`` bytes per second."""
        self.due = max(self.due, now - _CATCH_UP) + length / rate
