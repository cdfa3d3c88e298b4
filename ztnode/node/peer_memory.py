"""Who our peers are and where, kept now and then, so that a restart begins with that."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ztnode.node.home import Home
from ztnode.node.keeping import Writes
from ztnode.vl1 import Vl1

FIRST: Final = 30.0
PERIOD: Final = 300.0
"""Seconds after the start when, and between which, the known peers are written."""


class PeerMemory:
    """Writes VL1's peers to the state."""

    def __init__(self, vl1: Vl1, home: Home, writes: Writes) -> None:
        self._vl1 = vl1
        self._home = home
        self._writes = writes
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Keep them from now on."""
        self._timer = asyncio.get_running_loop().call_later(FIRST, self._on_timer)

    def close(self) -> None:
        """Keep them for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        self._keep()

    def _on_timer(self) -> None:
        self._keep()
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._on_timer)

    def _keep(self) -> None:
        if len(self._vl1.peers()) > len(self._vl1.planet.roots):
            known = self._vl1.known_peers(time.monotonic())
            self._writes.watch(self._home.keep_known_peers(known), "the known peers")
