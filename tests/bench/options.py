"""What the caller of the benchmarks chose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """``rounds``: samples of each figure. ``quick``: less of everything; the figures are then a mere smoke test."""

    rounds: int = 5
    quick: bool = False
