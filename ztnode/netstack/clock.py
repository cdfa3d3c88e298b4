"""The time as the caller last gave it, shared by the parts of one stack."""

from __future__ import annotations


class Clock:
    """Holds ``now`` (monotonic seconds); only the stack's entry points set it."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now
