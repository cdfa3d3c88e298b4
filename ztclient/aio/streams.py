"""asyncio's functions for connections and servers, over the overlay."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from ztclient.aio.datagrams import OverlayTransport
from ztclient.aio.listener import Listener
from ztclient.aio.node import Node
from ztclient.overlay_socket import Connection, OverlayAddress

LIMIT = 2**16
"""Bytes that a StreamReader buffers, as in asyncio."""

P = TypeVar("P", bound=asyncio.BaseProtocol)
D = TypeVar("D", bound=asyncio.DatagramProtocol)


class _Writer(asyncio.StreamWriter):
    """Knows the ends on the overlay: uvloop asks the kernel, which knows the local pair alone."""

    ends: tuple[OverlayAddress, OverlayAddress]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's; ``peername`` and ``sockname`` are those on the overlay."""
        if name == "sockname":
            return self.ends[0]
        if name == "peername":
            return self.ends[1]
        return super().get_extra_info(name, default)


async def create_connection(
    protocol_factory: Callable[[], P],
    host: str,
    port: int,
    *,
    node: Node | str | None = None,
    ssl: Any = None,
    server_hostname: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> tuple[asyncio.Transport, P]:
    """As ``loop.create_connection``, to a host on the overlay. ``timeout``: seconds until it stands (None:
    120). ``server_hostname``: whose certificate is expected (left out: ``host``). Other ``options`` go to the loop's
    method (``ssl_handshake_timeout``...). Raises what a dial raises."""
    connected = await _node(node).dial(host, port, timeout)
    return await _transport(protocol_factory, connected, _tls(ssl, server_hostname, host), options)


async def open_connection(
    host: str,
    port: int,
    *,
    node: Node | str | None = None,
    limit: int = LIMIT,
    ssl: Any = None,
    server_hostname: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As ``asyncio.open_connection``, to a host on the overlay; arguments as ``create_connection``."""
    connected = await _node(node).dial(host, port, timeout)
    ends = connected.getsockname(), connected.getpeername()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await _transport(lambda: protocol, connected, _tls(ssl, server_hostname, host), options)
    writer = _Writer(transport, protocol, reader, loop)
    writer.ends = ends
    return reader, writer


async def create_datagram_endpoint(
    protocol_factory: Callable[[], D],
    local_addr: tuple[str, int] | None = None,
    remote_addr: tuple[str, int] | None = None,
    *,
    node: Node | str | None = None,
) -> tuple[asyncio.DatagramTransport, D]:
    """As ``loop.create_datagram_endpoint``: a UDP socket on the overlay, bound to ``local_addr`` (None: all managed
    addresses, any port), connected to ``remote_addr`` where there is one. Raises OSError."""
    ip, port = local_addr or ("", 0)
    sock = await _node(node).open_udp(ip, port)
    if remote_addr is not None:
        sock.connect(remote_addr)
    protocol = protocol_factory()
    return OverlayTransport(sock, protocol), protocol


async def start_server(
    client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    host: str = "",
    port: int = 0,
    *,
    node: Node | str | None = None,
    limit: int = LIMIT,
    backlog: int = 128,
    ssl: Any = None,
    **options: Any,
) -> Server:
    """As ``asyncio.start_server``: ``client_connected`` is called, or run as a task, for each connection that comes to
    a managed address (empty: to all of them); port 0: any free one. It serves at once. Raises OSError."""
    listener = await _node(node).listen(host, port, backlog=backlog)
    return Server(listener, client_connected, limit, ssl, options)


class Server:
    """What ``start_server`` gives; as ``asyncio.Server`` as far as it goes. An async context manager."""

    def __init__(
        self,
        listener: Listener,
        client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
        limit: int,
        ssl: Any,
        options: dict[str, Any],
    ) -> None:
        self._listener = listener
        self._client_connected = client_connected
        self._limit = limit
        self._ssl = ssl
        self._options = options
        self._clients: set[asyncio.Future[Any]] = set()
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    def getsockname(self) -> OverlayAddress:
        """What was bound, on the overlay."""
        return self._listener.getsockname()

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return not self._serving.done()

    async def serve_forever(self) -> None:
        """Serve until this is cancelled, which closes the server. Raises OSError when the node is gone."""
        try:
            await asyncio.shield(self._serving)
        finally:
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Stop listening; connections already accepted live on."""
        self._serving.cancel()

    async def wait_closed(self) -> None:
        """Wait until it has stopped."""
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._serving
        await self._listener.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()

    async def _serve(self) -> None:
        while True:
            connected, _ = await self._listener.accept()
            self._keep(asyncio.ensure_future(self._begin(connected)))

    async def _begin(self, connected: Connection) -> None:
        """Make the streams of one connection; a TLS handshake must not hold up the others."""
        loop = asyncio.get_running_loop()
        try:
            ends = connected.getsockname(), connected.getpeername()
            reader = asyncio.StreamReader(self._limit, loop)
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            if self._ssl is None:
                transport, _ = await loop.connect_accepted_socket(lambda: protocol, connected, **self._options)
            else:
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, connected, ssl=self._ssl, **self._options
                )
        except OSError:  # it failed before it began; ssl.SSLError is one
            connected.close()
            return
        writer = _Writer(transport, protocol, reader, loop)
        writer.ends = ends
        result = self._client_connected(reader, writer)
        if inspect.isawaitable(result):
            await self._run(result, transport)

    async def _run(self, client: Awaitable[None], transport: asyncio.Transport) -> None:
        try:
            await client
        except asyncio.CancelledError:
            transport.close()
            raise
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a client of an overlay server failed", "exception": error, "transport": transport}
            )
            transport.close()

    def _keep(self, client: asyncio.Future[Any]) -> None:
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)


def _node(node: Node | str | None) -> Node:
    return node if isinstance(node, Node) else Node(node)


def _tls(ssl: Any, server_hostname: str | None, host: str) -> dict[str, Any]:
    return {} if not ssl else {"ssl": ssl, "server_hostname": server_hostname or host}


async def _transport(
    protocol_factory: Callable[[], P], connected: Connection, tls: dict[str, Any], options: dict[str, Any]
) -> tuple[asyncio.Transport, P]:
    try:
        loop: Any = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(protocol_factory, sock=connected, **tls, **options)
    except BaseException:
        connected.close()
        raise
    return transport, protocol
