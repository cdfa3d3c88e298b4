"""Whether roots answer, told once: when they have been silent for a while, and when one answers again."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds after the start without an answer from any root before that is worth a warning."""


class RootWatch:
    """Tells the log, and nobody else."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._warned = False
        self._patience: asyncio.TimerHandle | None = loop.call_later(PATIENCE, self.silent)

    def answered(self, root: str) -> None:
        """A root answers that did not before."""
        self.close()
        log.info("online%s, root %s answers", " again" if self._warned else "", root)
        self._warned = False

    def silent(self) -> None:
        """No root has answered for long."""
        self.close()
        if not self._warned:
            self._warned = True
            log.warning("offline: no root of the planet answers; is UDP allowed from here?")

    def close(self) -> None:
        """Wait no longer."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
