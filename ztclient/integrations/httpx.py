"""httpx over the overlay, sync and on asyncio, HTTP/1.1 and HTTP/2, from its release 0.27 on.

from ztclient.integrations.httpx import AsyncTransport, Transport

with httpx.Client(transport=Transport()) as http:
    print(http.get("http://10.121.15.99:5380/").text)

async with httpx.AsyncClient(transport=AsyncTransport(http2=True)) as http:
    print((await http.get("https://db.lab.example/")).text)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl as tls
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpcore
import httpx

from ztclient import aio
from ztclient.integrations.httpx_pool import AsyncPool
from ztclient.node import Node
from ztclient.web import as_node

LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""Those of httpx."""


class _Translated:
    """From what sockets raise to what httpcore raises. A class, for a generator costs a request several times as
    much."""

    __slots__ = ("_failure", "_timeout")

    def __init__(self, timeout: type[Exception], failure: type[Exception]) -> None:
        self._timeout = timeout
        self._failure = failure

    def __enter__(self) -> None: ...

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise self._timeout(str(error) or "timed out") from error
        if isinstance(error, OSError):
            raise self._failure(str(error)) from error


_CONNECTING: Final = _Translated(httpcore.ConnectTimeout, httpcore.ConnectError)
_READING: Final = _Translated(httpcore.ReadTimeout, httpcore.ReadError)
_WRITING: Final = _Translated(httpcore.WriteTimeout, httpcore.WriteError)


class _Stream(httpcore.NetworkStream):
    """A connected socket as httpcore has it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _READING:
            self._sock.settimeout(timeout)
            return bytes(self._sock.recv(max_bytes))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _WRITING:
            self._sock.settimeout(timeout)
            self._sock.sendall(buffer)

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: tls.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _CONNECTING:
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
                return _is_readable(self._sock)
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
        with _CONNECTING:
            connected = as_node(self._node).create_connection((host, port), timeout, source)
            for option in socket_options or ():
                connected.setsockopt(*option)
            return _Stream(connected)


class _AsyncStream(httpcore.AsyncNetworkStream):
    """The streams of a connection as httpcore has them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _READING:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        writer = self._writer
        if buffer:
            writer.write(buffer)
        if not writer.transport.get_write_buffer_size() and not writer.is_closing():
            return  # it is all with the kernel: there is nothing to wait for, nor a timer to set
        with _WRITING:
            async with asyncio.timeout(timeout):
                await writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def start_tls(
        self, ssl_context: tls.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        with _CONNECTING:
            try:
                async with asyncio.timeout(timeout):
                    await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
            except BaseException:
                self._writer.close()
                raise
        return self

    def get_extra_info(self, info: str) -> Any:
        names = {"client_addr": "sockname", "server_addr": "peername"}
        if info == "is_readable":  # of a connection that is idle: something came, if only the end
            return self._reader.at_eof() or self._writer.is_closing()
        return self._writer.get_extra_info(names.get(info, info))


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, node: aio.Node | str | None) -> None:
        self._node = node

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        with _CONNECTING:
            if local_address is not None:
                raise OSError("the source address on the overlay cannot be chosen here")
            reader, writer = await aio.open_connection(host, port, node=self._node, timeout=timeout, limit=1 << 20)
            for option in socket_options or ():
                writer.get_extra_info("socket").setsockopt(*option)
            return _AsyncStream(reader, writer)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


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
        with _mapped(request):
            answer = self._connections.handle_request(_core(request))
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
        self._connections = AsyncPool(
            _AsyncBackend(node),
            ssl_context=_context(verify),
            limits=limits or LIMITS,
            http1=http1,
            http2=http2,
            retries=retries,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.AsyncBaseTransport."""
        with _mapped(request):
            answer = await self._connections.handle_async_request(_core(request))
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_AsyncBody(answer.stream, request),
            extensions=answer.extensions,
        )

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
        with _mapped(self._request):
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _mapped(self._request):
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _context(verify: Any) -> tls.SSLContext:
    return verify if isinstance(verify, tls.SSLContext) else httpx.create_ssl_context(verify=verify)


def _core(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


@contextlib.contextmanager
def _mapped(request: httpx.Request) -> Iterator[None]:
    """From what httpcore raises to what httpx raises: the two have the same names."""
    try:
        yield
    except Exception as error:
        for each in type(error).__mro__:
            counterpart = getattr(httpx, each.__name__, None)
            if each.__module__.startswith("httpcore") and counterpart is not None:
                raise counterpart(str(error), request=request) from error
        raise


def _is_readable(sock: Any) -> bool:
    import select

    if sock.fileno() < 0:
        return True
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))
