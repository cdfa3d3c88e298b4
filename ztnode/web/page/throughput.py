"""What goes between the overlay and the stack, second by second, for some minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PERIOD: Final = 1.0
"""Seconds between two samples."""
KEPT: Final = 300
FRAME_BYTES: Final = 12
"""What a frame's bytes are counted more than it has, on the average: header of the ring, and padding."""
WIDTH: Final = 600
HEIGHT: Final = 100
"""Of a chart, in its own units."""
_LEAST_SCALE: Final = 1024.0
"""Bytes a second: less than that is drawn near the bottom and not as mountains."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Rates in bytes a second: the last, and the highest that is drawn. ``points_in`` and ``points_out`` are those of
    SVG polylines, newest at the right."""

    rate_in: float
    rate_out: float
    top: float
    seconds: int
    points_in: str
    points_out: str


class Throughput:
    """Rates from a node's counters (``NodeStatus.counters``)."""

    def __init__(self) -> None:
        self._rates: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._before: tuple[float, float, float] | None = None

    def sample(self, counters: Mapping[str, int], now: float) -> None:
        """Take the counters as they are at ``now``, monotonic seconds."""
        got, sent = _moved(counters, "to"), _moved(counters, "from")
        if self._before is not None:
            at, got_before, sent_before = self._before
            seconds = max(now - at, 0.001)
            # A worker that was replaced has counted what was lost with it; nothing runs backwards.
            self._rates.append((max(0.0, got - got_before) / seconds, max(0.0, sent - sent_before) / seconds))
        self._before = now, got, sent

    def chart(self) -> Chart:
        """As it is now."""
        rates = tuple(self._rates)
        top = max((max(pair) for pair in rates), default=0.0)
        scale = max(top, _LEAST_SCALE)
        last = rates[-1] if rates else (0.0, 0.0)
        return Chart(last[0], last[1], top, len(rates), _line(rates, 0, scale), _line(rates, 1, scale))


def _moved(counters: Mapping[str, int], way: str) -> float:
    frames = counters.get(f"worker.frames_{way}_worker", 0)
    return counters.get(f"worker.bytes_{way}_worker", 0) - FRAME_BYTES * frames


def _line(rates: tuple[tuple[float, float], ...], which: int, scale: float) -> str:
    step = WIDTH / (KEPT - 1)
    first = KEPT - len(rates)
    return " ".join(
        f"{(first + number) * step:.0f},{HEIGHT * (1 - pair[which] / scale):.1f}" for number, pair in enumerate(rates)
    )
