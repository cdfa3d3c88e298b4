"""Whether roots answer, told once: when they have been silent for a while, and when one answers again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds after the start without an answer from any root before that is worth a warning."""


class RootWatch:
    """Tells the log, and nobody else."""

    def __init__(self, loop: asyncio.AbstractEventLoop, in_use: Callable[[], str] = lambda: "udp") -> None:
        """``in_use`` says the name of the transport by which roots are asked."""
        self._in_use = in_use
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
            way = self._in_use()
            why = "; is UDP allowed from here?" if way == "udp" else f" by {way}"
            log.warning("offline: no root of the planet answers%s", why)

    def close(self) -> None:
        """Wait no longer."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
