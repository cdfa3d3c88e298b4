"""Memory that clients have needed and left goes back to the system: malloc keeps what it was given, in pieces between
which something small has stayed."""

from __future__ import annotations

import sys
from typing import Final

WORTH: Final = 16 << 20
"""Bytes less than at the peak that make it worth a try."""
DELAY: Final = 2.0
"""Seconds after that: others may leave at the same time."""


class GiveBack:
    """Told how much is held, asks malloc to return what is free some time after it has become much less."""

    def __init__(self) -> None:
        self.peak = 0
        self.least = 0
        """``held`` has nothing to do while between so many bytes and ``peak`` are held."""
        self.due = 0.0
        """When to call ``handle_timer``, in monotonic seconds; 0: need not be."""

    def held(self, size: int, now: float) -> None:
        """So many bytes are held now."""
        if size > self.peak:
            self._reached(size)
        elif size < self.least and not self.due:
            self.due = now + DELAY

    def _reached(self, size: int) -> None:
        self.peak = size
        self.least = size - WORTH

    def handle_timer(self, size: int) -> None:
        """It is time."""
        self.due = 0.0
        self._reached(size)
        if sys.platform == "linux":
            trim()


def trim() -> None:
    """Have malloc return what is free; nothing where it is not glibc's."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function(0)
