"""Tells any number of slow or fast readers how networks change; memory is bounded by the number of networks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from ztnode.node.api import NetworkInfo


class Watchers:
    """All readers of ``NodeApi.watch``. Each has one place per network, where news replace older news."""

    def __init__(self) -> None:
        self._pending: dict[asyncio.Event, dict[int, NetworkInfo]] = {}
        self._closed = False

    def publish(self, info: NetworkInfo) -> None:
        """This network is now so."""
        for wake, pending in self._pending.items():
            pending.pop(info.nwid, None)  # to the end of the order
            pending[info.nwid] = info
            wake.set()

    def close(self) -> None:
        """End all readers' loops."""
        self._closed = True
        for wake in self._pending:
            wake.set()

    async def watch(self, present: Iterable[NetworkInfo]) -> AsyncIterator[NetworkInfo]:
        """``present`` first, then each change, until ``close``."""
        wake = asyncio.Event()
        pending = self._pending[wake] = {info.nwid: info for info in present}
        try:
            while not self._closed:
                while pending:
                    yield pending.pop(next(iter(pending)))
                wake.clear()
                await wake.wait()
        finally:
            del self._pending[wake]
