"""websockets over the overlay, on asyncio and on threads, from its release 13 on.

from ztclient.integrations.websockets import connect

async with connect("ws://10.121.15.99:8765/") as websocket:
    print(await websocket.recv())
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any

import websockets.asyncio.client
import websockets.sync.client
from websockets.uri import parse_uri

from ztclient import aio
from ztclient.node import Node
from ztclient.web import as_node


class connect:
    """As ``websockets.asyncio.client.connect``: to be awaited, or entered with ``async with``. ``node``: one of
    ``ztclient.aio`` or its address; left out, it is found. Raises what that raises, and for a host that cannot be
    reached OSError."""

    def __init__(self, uri: str, *, node: aio.Node | str | None = None, **options: Any) -> None:
        self._uri = uri
        self._node = node
        self._options = options
        self._connection: websockets.asyncio.client.ClientConnection | None = None

    async def _open(self) -> websockets.asyncio.client.ClientConnection:
        where = parse_uri(self._uri)
        node = self._node if isinstance(self._node, aio.Node) else aio.Node(self._node)
        connected = await node.dial(where.host, where.port, self._options.get("open_timeout", 10))
        try:
            return await websockets.asyncio.client.connect(self._uri, sock=connected, **self._options)
        except BaseException:
            connected.close()
            raise

    def __await__(self) -> Generator[Any, None, websockets.asyncio.client.ClientConnection]:
        return self._open().__await__()

    async def __aenter__(self) -> websockets.asyncio.client.ClientConnection:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._connection is not None
        await self._connection.close()


def sync_connect(
    uri: str, *, node: Node | str | None = None, **options: Any
) -> websockets.sync.client.ClientConnection:
    """As ``websockets.sync.client.connect``."""
    where = parse_uri(uri)
    connected = as_node(node).dial(where.host, where.port, options.get("open_timeout", 10))
    websocket: websockets.sync.client.ClientConnection
    websocket = websockets.sync.client.connect(uri, sock=connected, **options)
    return websocket
