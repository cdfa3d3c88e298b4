"""Threads that may wake up late for the clock, and so rarely wake up at all (``PR_SET_TIMERSLACK`` in prctl(2))."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_TIMERSLACK = 29


@contextmanager
def lazy_threads(seconds: float) -> Iterator[None]:
    """Threads that this one starts inside, and those that they start, let the kernel delay the end of each timed wait
    by so much, to join it to others. What wakes them otherwise, as a lock or a socket, does so at once. Only Linux has
    it."""
    _set_slack(int(seconds * 1e9))
    try:
        yield
    finally:
        _set_slack(0)  # what this thread had


def _set_slack(nanoseconds: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds), 0, 0, 0)
