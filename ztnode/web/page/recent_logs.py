"""The last log lines, for the page: as many as there may be, and no older than some minutes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_LINES: Final = 2000
MAX_LENGTH: Final = 500
"""Characters of a line."""
MAX_AGE: Final = 15 * 60.0
HIDDEN: Final = "[hidden]"


@dataclass(frozen=True, slots=True)
class LogLine:
    """``time`` is Unix seconds."""

    time: float
    level: int
    logger: str
    text: str


class RecentLogs(logging.Handler):
    """Keeps what the root logger gets, without ``secrets``: none is logged on purpose, and one that got into an error's
    text after all must not be shown in a browser."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(filter(None, secrets))
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit
            self.handleError(record)
            return
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        self._lines.append(LogLine(record.created, record.levelno, record.name, text[:MAX_LENGTH]))

    def lines(self, level: int, now: float) -> list[LogLine]:
        """Those of ``level`` and above, newest first; ``now``: Unix seconds."""
        return [line for line in reversed(tuple(self._lines)) if line.level >= level and now - line.time < MAX_AGE]
