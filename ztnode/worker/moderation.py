"""Clients of many datagrams are looked at once a millisecond, not for each datagram.

Each time that a worker wakes for a client, it wakes the node, which wakes the peer's, and so on: a datagram that goes
alone costs several times what one of a batch does, and a worker that is as quick as its client would have each go
alone. Network cards moderate their interrupts likewise. Who sends little is never kept waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PERIOD: Final = 0.001
"""Seconds between two looks. The kernel rounds what a loop sleeps up to this anyway."""


class Moderation:
    """Whom to call once in ``PERIOD``; a keeper of the worker's loop. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.timed: dict[Callable[[], object], None] = {}
        """Empty: there is no timer."""
        self._due = 0.0

    def add(self, look: Callable[[], object], now: float) -> None:
        """Call ``look`` from now on."""
        if not self.timed:
            self._due = now + PERIOD
        self.timed[look] = None

    def remove(self, look: Callable[[], object]) -> None:
        """No longer. Harmless for one that was never added."""
        self.timed.pop(look, None)

    def hurry(self, now: float) -> None:
        """There is more to be seen: look again at once."""
        self._due = now

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        return self._due if self.timed else None

    def handle_timer(self, now: float) -> None:
        """Look at all."""
        self._due = now + PERIOD
        for look in list(self.timed):
            look()
