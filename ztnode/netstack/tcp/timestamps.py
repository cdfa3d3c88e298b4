"""The timestamps option of one connection (RFC 7323): our clock, the peer's latest value, PAWS."""

from __future__ import annotations

import struct
from typing import Final

from ztnode.netstack.tcp.sequence import HALF, MASK
from ztnode.wire.tcp import TIMESTAMPS_WORD

_PACK: Final = struct.Struct("!III").pack
_PAWS_IDLE: Final = 24 * 86400.0
"""Seconds after which the peer's clock may have gone half round, and proves nothing (section 5.5)."""


class Timestamps:
    """Values are 32 bits as on the wire; times are seconds."""

    __slots__ = ("offset", "on", "recent", "recent_at")

    def __init__(self, offset: int) -> None:
        self.on = False
        """Both sides offered the option."""
        self.offset = offset
        """What is added to our clock, one value for each pair of hosts (section 5.4)."""
        self.recent = 0
        """TS.Recent: the peer's value that we echo."""
        self.recent_at = 0.0

    def clock(self, now: float) -> int:
        """TSval: our clock counts milliseconds."""
        return (int(now * 1000) + self.offset) & MASK

    def option(self, tsval: int) -> bytes:
        """The option as every segment carries it, padded to 12 bytes; nothing while it is not agreed upon."""
        return _PACK(TIMESTAMPS_WORD, tsval, self.recent) if self.on else b""

    def take(self, tsval: int, now: float) -> None:
        """The peer's value becomes the one that we echo (section 4.3)."""
        self.recent = tsval
        self.recent_at = now

    def is_old(self, tsval: int, now: float) -> bool:
        """PAWS (section 5.3): the segment is a duplicate from the past. ``tsval`` is -1 for one without the option."""
        return self.on and tsval >= 0 and bool((tsval - self.recent) & HALF) and now - self.recent_at < _PAWS_IDLE

    def elapsed(self, echo: int, now: float) -> float:
        """Seconds since we sent what the peer echoes, at least half a tick; 0.0 for an echo from the future."""
        ticks = (self.clock(now) - echo) & MASK
        return (ticks / 1000 or 0.0005) if ticks < HALF else 0.0
