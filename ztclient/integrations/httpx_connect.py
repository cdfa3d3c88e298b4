"""From an origin to a connection that takes httpx's requests: the dial, TLS, and which HTTP is spoken."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Callable, Coroutine
from typing import Any, Final

import httpcore
import httpx

from ztclient.integrations.httpx_http1 import Answer, Http1Connection, traced

BACKOFF: Final = 0.5
"""Seconds before the second try of those that ``retries`` allows, doubled with each; the first comes at once."""
Dial = Callable[[str, int, "float | None"], Coroutine[Any, Any, httpcore.AsyncNetworkStream]]
"""By host, port, and seconds. Raises what httpcore raises."""


class Connector:
    """Connects for requests."""

    def __init__(
        self,
        dial: Dial,
        *,
        ssl_context: tls.SSLContext,
        keepalive: float | None,
        http1: bool = True,
        http2: bool = False,
        retries: int = 0,
    ) -> None:
        self._dial = dial
        self._context = ssl_context
        self._keepalive = keepalive
        self._http1 = http1
        self._http2 = http2
        self._retries = retries

    def may_share(self, request: httpx.Request) -> bool:
        """Whether the connection may turn out to be one that takes a request beside another."""
        return self._http2 and (not self._http1 or request.url.scheme == "https")

    async def connect(self, request: httpx.Request) -> Http1Connection | Http2Connection:
        """A connection to the request's origin. Raises what httpcore raises."""
        for tried in range(self._retries + 1):
            try:
                stream = await self._stream(request)
                break
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if tried == self._retries:
                    raise
                await asyncio.sleep(BACKOFF * 2 ** (tried - 1) if tried else 0)
        encrypted = stream.get_extra_info("ssl_object")
        chosen = encrypted.selected_alpn_protocol() if encrypted is not None else None
        if chosen == "h2" or (self._http2 and not self._http1):
            try:
                return Http2Connection(stream, request, self._keepalive)
            except BaseException:  # where h2 is not installed
                await stream.aclose()
                raise
        return Http1Connection(stream, self._keepalive)

    async def _stream(self, request: httpx.Request) -> httpcore.AsyncNetworkStream:
        url, extensions = request.url, request.extensions
        timeout = extensions.get("timeout", {}).get("connect")
        host = url.raw_host.decode("ascii")
        secure = url.scheme in ("https", "wss")
        trace = extensions.get("trace")
        dial = self._dial(host, url.port or (443 if secure else 80), timeout)
        stream = await traced(trace, "connection.connect_tcp", request, dial)
        if not secure:
            return stream
        self._context.set_alpn_protocols(["http/1.1", "h2"] if self._http2 else ["http/1.1"])
        secured = stream.start_tls(self._context, extensions.get("sni_hostname") or host, timeout)
        return await traced(trace, "connection.start_tls", request, secured)


class Http2Connection:
    """One of httpcore's."""

    shared: Final = True
    """Whether it takes a request beside another."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, request: httpx.Request, keepalive: float | None) -> None:
        self._origin = core_request(request).url.origin
        self._connection = httpcore.AsyncHTTP2Connection(self._origin, stream, keepalive)
        self.is_available = self._connection.is_available
        self.is_idle = self._connection.is_idle
        self.is_closed = self._connection.is_closed
        self.has_expired = self._connection.has_expired
        self.aclose = self._connection.aclose

    async def send(self, request: httpx.Request) -> Answer:
        """Send it, and wait for the answer's head. Raises what httpcore raises, ConnectionNotAvailable where it has as
        many requests as the server allows."""
        answer = await self._connection.handle_async_request(core_request(request))
        body: Any = answer.stream
        return Answer(answer.status, answer.headers, dict(answer.extensions), aiter(body), body.aclose)


def core_request(request: httpx.Request) -> httpcore.Request:
    """``request`` as httpcore has it."""
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )
