"""A connection of the overlay as httpcore has it, on an event loop.

asyncio's own streams set a timer for each wait and keep a second buffer; of what a request of 64 KB costs its client
that is a tenth.
"""

from __future__ import annotations

import asyncio
import select
import ssl as tls
from typing import Any, Final, Self, cast

import httpcore

from ztclient import aio
from ztclient.integrations.httpx_errors import CONNECTING, READING, WRITING
from ztclient.overlay_socket import OverlayAddress

BUFFER: Final = 1 << 20
"""Bytes that nobody has read at which reading from the socket stops."""


class AsyncStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One reader and one writer at a time. Made by ``connect``."""

    def __init__(self, ends: tuple[OverlayAddress, OverlayAddress]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = ends
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._ended = False
        self._failure: Exception | None = None
        self._paused = False
        self._arrival: asyncio.Future[None] | None = None
        """What the reader waits for."""
        self._room: asyncio.Future[None] | None = None
        """What the writer waits for."""
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # One timer, which looks when it is due whether it still is: most reads are over long before.
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    @classmethod
    async def connect(cls, node: aio.Node, host: str, port: int, timeout: float | None) -> Self:
        """Dial. Raises OSError."""
        connected = await node.dial(host, port, timeout)
        ends = connected.getsockname(), connected.getpeername()
        try:
            loop: Any = asyncio.get_running_loop()
            _, stream = await loop.create_connection(lambda: cls(ends), sock=connected)
        except BaseException:
            connected.close()
            raise
        return cast(Self, stream)

    # What httpcore does

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, as soon as there is something; nothing at the end."""
        received = self._received
        if not received:
            with READING:
                await self._arrived(timeout)
        if len(received) <= max_bytes:
            taken = bytes(received)
            received.clear()
        else:
            with memoryview(received) as view:
                taken = bytes(view[:max_bytes])
            del received[:max_bytes]
        if self._paused and len(received) < BUFFER and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return taken

    async def _arrived(self, timeout: float | None) -> None:
        while not self._received and not self._ended:
            self._arrival = self._loop.create_future()
            if timeout is not None:
                self._deadline = self._loop.time() + timeout
                if self._timer is None or self._timer.when() > self._deadline:
                    self._set_timer()
            try:
                await self._arrival
            finally:
                self._arrival = None
                self._deadline = 0.0
        if self._failure is not None and not self._received:
            raise self._failure

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Until the kernel, or as much as may wait, has taken it."""
        with WRITING:
            if buffer and not self._transport.is_closing():  # uvloop's raises RuntimeError when it is closed
                self._transport.write(buffer)
            if self._room is not None:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._room)
            if self._transport.is_closing():
                raise self._failure or ConnectionResetError("the connection is closed")

    async def aclose(self) -> None:
        """Until it is closed. Nobody waits for a peer that reads nothing, nor for one that says no goodbye in TLS."""
        self._transport.close()
        self._transport.abort()
        await asyncio.shield(self._closed)

    async def start_tls(
        self, ssl_context: tls.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on in TLS."""
        with CONNECTING:
            try:
                async with asyncio.timeout(timeout):
                    transport = await self._loop.start_tls(
                        self._transport, self, ssl_context, server_hostname=server_hostname
                    )
            except BaseException:
                self._transport.abort()
                raise
        assert transport is not None
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        """See httpcore.AsyncNetworkStream."""
        match info:
            case "client_addr":
                return self._ends[0]
            case "server_addr":
                return self._ends[1]
            case "is_readable":  # of a connection that is idle: something came, if only the end
                known = bool(self._received) or self._ended or self._transport.is_closing()
                # A loop that was busy meanwhile has not read it yet.
                return known or is_readable(self._transport.get_extra_info("socket"))
            case _:
                return self._transport.get_extra_info(info)

    # What the loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's own

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._received += data
        _wake(self._arrival)
        if len(self._received) > BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """See asyncio.Protocol: what is still to be written goes out, but for TLS, which knows no half."""
        self._ended = True
        _wake(self._arrival)
        return self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._ended = True
        self._failure = error
        for waiting in (self._arrival, self._room, self._closed):
            _wake(waiting)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        _wake(self._room)
        self._room = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._arrival is None or not self._deadline:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        elif not self._arrival.done():
            self._arrival.set_exception(TimeoutError())


def is_readable(sock: Any) -> bool:
    """Whether a read would not wait: there is something, the end, or nothing to read from any more."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
