"""Complaints for a person, none so often that it hides the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

QUIET_SECONDS: Final = 5.0
"""The same complaint is not told again sooner."""
_REMEMBERED: Final = 256

Report = Callable[[str], None]


class Reports:
    """Tells ``report`` what goes wrong."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: dict[str, float] = {}

    def tell(self, text: str) -> None:
        """One line, unless it was told just now."""
        now = asyncio.get_running_loop().time()
        if now - self._last.get(text, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        if len(self._last) >= _REMEMBERED:
            self._last.clear()
        self._last[text] = now
        self._report(text)
