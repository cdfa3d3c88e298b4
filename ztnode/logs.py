"""How a node's log lines look: for a person, for journald, or for a collector."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, and ``error`` with the
    traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """One line a record, whatever is in it: a line break of somebody else's text would make a second entry."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return super().format(record).replace("\n", "\\n")


def set_up(level: str, form: str, levels: Sequence[str] = ()) -> None:
    """Log to stderr. ``form``: text or json; ``levels``: ``LOGGER=LEVEL`` for single packages. Raises ValueError."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonFormatter())
    elif _journal_reads():
        handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))  # the journal has the time already
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Whoever read the log may be gone; that is no reason for a traceback with each line.
    logging.raiseExceptions = False
    set_levels(level, levels)


def set_levels(level: str, levels: Sequence[str], before: Sequence[str] = ()) -> None:
    """From now on, in place of those ``before`` for single packages. Raises ValueError; nothing has changed then."""
    chosen = {}
    for pair in levels:
        name, separator, one = pair.partition("=")
        if not separator or not name or one.upper() not in logging.getLevelNamesMapping():
            raise ValueError(f"{pair!r} is no level of a logger: write for instance ztnode.vl1=debug")
        chosen[name] = one.upper()
    logging.getLogger().setLevel(level.upper())
    for pair in before:
        logging.getLogger(pair.partition("=")[0]).setLevel(logging.NOTSET)
    for name, one in chosen.items():
        logging.getLogger(name).setLevel(one)


def _journal_reads() -> bool:
    """Whether stderr is the journal's stream (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(sys.stderr.fileno())
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (OSError, ValueError, AttributeError):
        return False
