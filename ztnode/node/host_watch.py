"""What a node sees of the host that it runs on: its addresses, the router before it, and whether the state is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ztnode.node import interfaces
from ztnode.node.assembly import Parts
from ztnode.node.port_mapping import PortMapping
from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import Endpoint

log = logging.getLogger(__name__)

PERIOD: Final = 60.0
"""Seconds between two looks."""


class HostWatch:
    """Tells VL1 where this host can be reached. ``pump`` has the node send what follows."""

    def __init__(self, state: Path, parts: Parts, pump: Callable[[float], None]) -> None:
        self._state = state
        self._state_id = _directory_id(state)
        self._state_lost = False
        self._vl1 = parts.vl1
        self._transport = parts.transport
        self._avoided = parts.local_conf.avoided_interfaces
        self._pump = pump
        self._loop = asyncio.get_running_loop()
        self._next_look: asyncio.TimerHandle | None = None
        self._port_mapping: PortMapping | None = None
        self.mapped: Endpoint | None = None
        """Where the router before us forwards to us."""

    @property
    def port(self) -> int:
        """Our UDP port; 0 where the transport has none."""
        return next((port for _, port in self._transport.local_endpoints()), 0)

    @property
    def asks_router(self) -> bool:
        """Whether the router before us is asked for a port, where a NAT is between."""
        return self._port_mapping is not None

    def start(self, *, map_port: bool) -> None:
        """Look at once and from then on; once the transport is open."""
        if map_port and self.port:
            self._port_mapping = PortMapping(self.port, self._on_mapped)
        self._look()

    def _look(self) -> None:
        """Hosts move."""
        if _directory_id(self._state) != self._state_id and not self._state_lost:
            self._state_lost = True
            log.error(
                "%s was removed or replaced: from here on nothing is kept and no client finds this node; start it anew",
                self._state,
            )
        port = self.port
        own = [(host, port) for host in interfaces.addresses(self._avoided) if port]
        self._vl1.set_local_endpoints(own if self.mapped is None else [*own, self.mapped])
        self.ask_router()
        self._next_look = self._loop.call_later(PERIOD, self._look)

    def ask_router(self) -> None:
        """Have a port mapped where our packets reach others from addresses that are none of this host's."""
        if self._port_mapping is not None:
            seen = {ip for ip, _ in self._vl1.surface_addresses if scope_of(ip) is Scope.GLOBAL and ":" not in ip}
            if seen and not seen.issubset(interfaces.addresses()):
                self._port_mapping.start()

    def _on_mapped(self, mapped: Endpoint | None) -> None:
        self.mapped = mapped
        self.stop_looking()
        self._look()
        self._pump(time.monotonic())

    def stop_looking(self) -> None:
        """No look any more."""
        if self._next_look is not None:
            self._next_look.cancel()

    async def close(self) -> None:
        """Give the port back."""
        if self._port_mapping is not None:
            await self._port_mapping.close()


def _directory_id(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is nothing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
