"""What the caller of the benchmarks chose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """``rounds``: samples of each figure. ``quick``: less of everything; the figures are then a mere smoke test.
    ``congestion``: of our nodes."""

    rounds: int = 5
    quick: bool = False
    congestion: str = "cubic"

    @property
    def bulk(self) -> int:
        """MiB of a transfer over a good path."""
        return 16 if self.quick else 64

    @property
    def lossy_bulk(self) -> int:
        """MiB of a transfer over a bad wire."""
        return 1 if self.quick else 4
