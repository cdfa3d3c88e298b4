"""How often a figure was how large: what a metric of Prometheus' type histogram is made of."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate


class Histogram:
    """Counts figures by the bounds that they do not exceed."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds``: ascending, in the unit of the figures; there is one more without a bound."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Figures between each bound and the one before, those above all bounds last."""
        self.total = 0.0
        """Their sum."""

    def observe(self, figure: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, figure)] += 1
        self.total += figure

    def cumulative(self) -> Iterator[int]:
        """How many do not exceed each bound, and last how many there are."""
        return accumulate(self.counts)
