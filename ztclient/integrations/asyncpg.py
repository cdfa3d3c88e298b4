"""asyncpg over the overlay, from its release 0.29 on. It takes an event loop: ours dials over the overlay and is the
running one in all else, so that TLS is checked against the real host name.

from ztclient.integrations.asyncpg import connect, create_pool

connection = await connect("postgresql://me@10.121.15.99/app")
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from ztclient import aio


class OverlayLoop:
    """The running event loop, but for ``create_connection``, which dials over the overlay."""

    def __init__(self, node: aio.Node | str | None) -> None:
        self._loop: Any = asyncio.get_running_loop()
        self._node = node

    async def create_connection(self, factory: Any, host: str, port: int, **options: Any) -> Any:
        """As the loop's."""
        return await aio.create_connection(factory, host, port, node=self._node, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def connect(dsn: str | None = None, *, node: aio.Node | str | None = None, **options: Any) -> Any:
    """As ``asyncpg.connect``. ``node``: an ``aio.Node`` or its address; left out, it is found."""
    return await asyncpg.connect(dsn, loop=OverlayLoop(node), **options)


def create_pool(dsn: str | None = None, *, node: aio.Node | str | None = None, **options: Any) -> Any:
    """As ``asyncpg.create_pool``; to be called while the event loop runs."""
    return asyncpg.create_pool(dsn, loop=OverlayLoop(node), **options)
