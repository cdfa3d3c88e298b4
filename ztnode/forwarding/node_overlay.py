"""The overlay of the node in this process. A module of its own: a command that carries ports for a node elsewhere looks
up no names, and is smaller without what that takes."""

from __future__ import annotations

import contextlib
import socket

from ztclient.forms import is_numeric
from ztnode.forwarding.local import BACKLOG
from ztnode.names import Resolver, racing
from ztnode.node.api import Handoff, NodeApi
from ztnode.node.handoffs import claim, claim_records, drop, give
from ztnode.wire.endpoint import Endpoint


class NodeOverlay:
    """The overlay of the node in this process."""

    def __init__(self, node: NodeApi, resolver: Resolver) -> None:
        self._node = node
        self._resolver = resolver

    async def dial(self, host: str, port: int, timeout: float) -> Handoff:
        """See Overlay."""
        if is_numeric(host):
            return await self._node.dial(host, port, timeout=timeout)
        return await racing.dial(self._node, self._resolver, host, port, timeout=timeout)

    async def connect(self, host: str, port: int, timeout: float, connected: socket.socket) -> None:
        """See Overlay."""
        await self.join(await self.dial(host, port, timeout), connected)

    async def listen(self, host: str | None, port: int) -> tuple[int, Endpoint]:
        """See Overlay."""
        return await self._node.listen(host, port, backlog=BACKLOG)

    async def accept(self, listener: int) -> Handoff:
        """See Overlay."""
        try:
            return await self._node.accept(listener)
        except KeyError:
            raise ConnectionAbortedError(f"listener {listener} is closed") from None

    async def close_listener(self, listener: int) -> None:
        """See Overlay."""
        with contextlib.suppress(KeyError):  # its network went, and it with it
            await self._node.close_listener(listener)

    async def join(self, handoff: Handoff, connected: socket.socket) -> None:
        """See Overlay."""
        await give(handoff, connected)

    async def dial_and_lend(
        self, host: str, port: int, timeout: float, client: socket.socket, way_back: socket.socket
    ) -> bool:
        """See Overlay: the node is here, and as quickly asked."""
        del host, port, timeout, client, way_back
        return False

    async def lend(self, handoff: Handoff, client: socket.socket, way_back: socket.socket) -> bool:
        """See Overlay."""
        await give(handoff, client, way_back)
        return True

    async def fetch(self, handoff: Handoff) -> socket.socket:
        """See Overlay."""
        return await claim(handoff)

    async def drop(self, handoff: Handoff) -> None:
        """See Overlay."""
        await drop(handoff)

    async def open_udp(self, host: str | None = None, port: int = 0) -> socket.socket:
        """See Overlay."""
        return await claim_records(await self._node.open_udp(host, port))

    async def resolve(self, name: str) -> str:
        """See Overlay."""
        return (await racing.first(self._resolver, name, None))[0]

    async def is_foreign(self, name: str) -> bool:
        """See Overlay."""
        return await racing.within(racing.PATIENCE, self._resolver, name) is None
