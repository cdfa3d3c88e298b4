"""A root's VL1: packets of strangers, peers and roots, good MACs included, and time."""

from __future__ import annotations

from tests.fuzz.vl1_engine import Siege, seeds

__all__ = ["fuzz", "seeds"]

_SIEGE = Siege("root")


def fuzz(data: bytes) -> None:
    """See ``vl1_engine``."""
    _SIEGE.attack(data)
