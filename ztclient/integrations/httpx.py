"""httpx over the overlay, sync and on asyncio, HTTP/1.1 and HTTP/2, from its release 0.27 on.

from ztclient.integrations.httpx import AsyncTransport, Transport

with httpx.Client(transport=Transport()) as http:
    print(http.get("http://10.121.15.99:5380/").text)

async with httpx.AsyncClient(transport=AsyncTransport(http2=True)) as http:
    print((await http.get("https://db.lab.example/")).text)
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpcore
import httpx

from ztclient import aio
from ztclient.integrations.httpx_connect import Connector, core_request
from ztclient.integrations.httpx_errors import CONNECTING, READING, WRITING, mapped
from ztclient.integrations.httpx_pool import AsyncPool
from ztclient.integrations.httpx_stream import AsyncStream, is_readable
from ztclient.node import Node
from ztclient.web import as_node

LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""Those of httpx."""


class _Stream(httpcore.NetworkStream):
    """A connected socket as httpcore has it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with READING:
            self._sock.settimeout(timeout)
            return bytes(self._sock.recv(max_bytes))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with WRITING:
            self._sock.settimeout(timeout)
            self._sock.sendall(buffer)

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: tls.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with CONNECTING:
            try:
                self._sock.settimeout(timeout)
                return _Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname))
            except BaseException:
                self.close()
                raise

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "ssl_object":
                return self._sock if isinstance(self._sock, tls.SSLSocket) else None
            case "socket":
                return self._sock
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "is_readable":
                return is_readable(self._sock)
            case _:
                return None


class _Backend(httpcore.NetworkBackend):
    def __init__(self, node: Node | str | None) -> None:
        self._node = node

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        source = None if local_address is None else (local_address, 0)
        with CONNECTING:
            connected = as_node(self._node).create_connection((host, port), timeout, source)
            for option in socket_options or ():
                connected.setsockopt(*option)
            return _Stream(connected)


class Transport(httpx.BaseTransport):
    """The transport of a Client. ``node``: a Node or its address; left out, it is found. The rest is as in
    ``httpx.HTTPTransport``."""

    def __init__(
        self,
        node: Node | str | None = None,
        *,
        verify: Any = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        retries: int = 0,
    ) -> None:
        limits = limits or LIMITS
        self._connections = httpcore.ConnectionPool(
            network_backend=_Backend(node),
            ssl_context=_context(verify),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.BaseTransport."""
        with mapped(request):
            answer = self._connections.handle_request(core_request(request))
        body = _Body(answer.stream, request)
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    def close(self) -> None:
        """See httpx.BaseTransport."""
        self._connections.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """The transport of an AsyncClient on asyncio; otherwise as Transport, with a node of ``ztclient.aio``."""

    def __init__(
        self,
        node: aio.Node | str | None = None,
        *,
        verify: Any = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        retries: int = 0,
    ) -> None:
        limits = limits or LIMITS

        async def dial(host: str, port: int, timeout: float | None) -> AsyncStream:
            with CONNECTING:
                found = node if isinstance(node, aio.Node) else aio.Node(node)
                return await AsyncStream.connect(found, host, port, timeout)

        connector = Connector(
            dial,
            ssl_context=_context(verify),
            keepalive=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
        )
        self._connections = AsyncPool(connector, limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.AsyncBaseTransport."""
        with mapped(request):
            return await self._connections.send(request)

    async def aclose(self) -> None:
        """See httpx.AsyncBaseTransport."""
        await self._connections.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with mapped(self._request):
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


def _context(verify: Any) -> tls.SSLContext:
    return verify if isinstance(verify, tls.SSLContext) else httpx.create_ssl_context(verify=verify)
