"""Whether another host uses our identity, as far as we can see: in words, and for those who watch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from ztnode.node.conflation import Conflation
from ztnode.vl1 import Vl1
from ztnode.wire.address import format_address

log = logging.getLogger(__name__)

CHECK_EVERY: Final = 60.0
"""Seconds between two looks at whether another host has our identity, once it did."""


class IdentityConflicts:
    """What VL1 finds out of it."""

    def __init__(self, vl1: Vl1) -> None:
        self._vl1 = vl1
        self._collided = False
        self._loop = asyncio.get_running_loop()
        self._next_check: asyncio.TimerHandle | None = None
        self._watchers: Conflation[None, str] = Conflation()

    def text(self) -> str:
        """What is wrong, and what to do about it; empty while nothing is."""
        if self._collided:
            return "another node has this node's address; remove identity.* from the state directory to get another"
        if self._vl1.is_shared(time.monotonic()):
            return (
                "another host runs with this node's identity, and packets reach the one or the other; stop it, or "
                "remove identity.* from the state directory of one of the two"
            )
        return ""

    def collided(self, root: int) -> None:
        """A root knows somebody else by our address."""
        self._collided = True
        log.error("root %s: %s", format_address(root), self.text())
        self._tell()

    def shared(self) -> None:
        """Another host speaks as us."""
        log.error("%s", self.text())
        self._tell()

    def watch(self) -> AsyncIterator[str]:
        """``text`` as it is now, then again whenever it changes."""
        return self._watchers.watch([(None, self.text())])

    def close(self) -> None:
        """End all watches."""
        self._watchers.close()
        if self._next_check is not None:
            self._next_check.cancel()

    def _tell(self) -> None:
        """Tell the watchers, and again when there are no signs of it any more."""
        conflict = self.text()
        self._watchers.publish(None, conflict)
        if self._next_check is not None:
            self._next_check.cancel()
        self._next_check = self._loop.call_later(CHECK_EVERY, self._tell) if conflict else None
