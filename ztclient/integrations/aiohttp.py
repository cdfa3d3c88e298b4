"""aiohttp over the overlay, from its release 3.12 on, which takes a socket factory.

from ztclient.integrations.aiohttp import connector

async with aiohttp.ClientSession(connector=connector()) as session:
    async with session.get("http://10.121.15.99:5380/") as response:
        print(await response.text())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ztclient import aio, sockets
from ztclient.node import Node
from ztclient.overlay_socket import family_of

if TYPE_CHECKING:
    import aiohttp


def connector(node: Node | str | None = None, **options: Any) -> aiohttp.TCPConnector:
    """A connector for one ClientSession, over the overlay, whose names it knows (ClientConnectorDNSError for others).
    ``server_hostname`` of a request says whom a certificate must name. ``options`` go to aiohttp.TCPConnector.
    ``node``: a Node or its address; left out, it is found."""
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Names(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            asked = aio.Node(node.address if isinstance(node, Node) else node)
            return [
                ResolveResult(hostname=host, host=ip, port=port, family=family_of(ip), proto=0, flags=0)
                for ip in await asked.resolve(host, family)
            ]

        async def close(self) -> None:
            pass

    def socket_of_node() -> Node:
        return node if isinstance(node, Node) else Node(node)

    def factory(info: Any) -> sockets.socket:
        made = sockets.socket(*info[:3])
        made.node = socket_of_node
        return made

    return aiohttp.TCPConnector(socket_factory=factory, resolver=Names(), **options)
