"""The time of day, as ZeroTier's protocol wants it."""

from __future__ import annotations

import time


def wall_clock() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
