"""The time that certificates say they were issued at, whatever happens to the time of day.

Members compare their certificates' times with each other's, and nobody's with the time of day: two that are further
apart than the network's window (half an hour, five minutes at the least) do not talk, and a certificate that is older
than one that is known is taken for a replay. So a clock that is set, or another host's after a take-over, would part
members for as long as it was set back by. This one goes on where it was, and comes nearer to the time of day by running
faster or slower than that: members ask every minute, and so are never further apart than a few.
"""

from __future__ import annotations

from typing import Final

KEY: Final = "controller.d/clock"
"""Of the document that the next process goes on from: Unix milliseconds in decimal digits."""
RESERVED: Final = 60_000
"""Milliseconds for which a document holds: nothing is issued later than it says."""
FASTER: Final = 4
SLOWER: Final = 0.25
JUMP: Final = 24 * 3600 * 1000
"""Milliseconds by which it may be late; where it is more, as after days without a controller, the members' certificates
agree again when each has asked."""
_MAX_DIGITS: Final = 15


class IssueClock:
    """Never goes back. Sans-IO: the caller says what time it is."""

    def __init__(self, kept: bytes | None = None) -> None:
        """``kept``: the document of the process before; none, or one that makes no sense: the time of day is right."""
        text = (kept or b"").strip()
        self._reserved = int(text) if text.isdigit() and len(text) <= _MAX_DIGITS else 0
        self._last = float(self._reserved)
        self._at: float | None = None
        self._changed = False

    def read(self, now: float, wall: int) -> int:
        """The time to issue at, Unix milliseconds. ``now``: monotonic seconds; ``wall``: the time of day."""
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at) * 1000
        self._at = now
        if not self._last or wall - self._last > JUMP:
            self._last = float(max(wall, self._last))
        elif wall >= self._last + elapsed:
            self._last = min(float(wall), self._last + FASTER * elapsed)
        else:
            self._last = max(float(wall), self._last + SLOWER * elapsed)
        if self._last > self._reserved:
            self._reserved = int(self._last) + RESERVED
            self._changed = True
        return int(self._last)

    def unsaved(self) -> list[tuple[str, bytes | None]]:
        """The document, where it has changed since the last call: to be kept before what was issued leaves."""
        if not self._changed:
            return []
        self._changed = False
        return [(KEY, str(self._reserved).encode())]
