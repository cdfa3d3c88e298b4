"""How many connections there may be, and how long one may say nothing: what uvicorn leaves without a bound."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_CONNECTIONS: Final = 256
"""At a time; whoever comes then is hung up at once."""
HEAD_SECONDS: Final = 10.0
"""For the head of a request to come whole, and for TLS to be set up before it."""
MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line and fields, trailers among them."""
_FIELD_COST: Final = 32
"""Bytes that a field counts for beside its own: to look at many empty ones takes long, too."""
_STEP: Final = 16 * 1024
_NO_DESCRIPTOR_PAUSE: Final = 1.0


class TimedProtocol(HttpToolsProtocol):
    """Ends a connection whose next request does not come, or has a head without end: for uvicorn it may be as long as
    it likes, and while fields are looked at the event loop does nothing else."""

    _head_timer: asyncio.TimerHandle | None = None
    _fields_size = 0
    _in_head = False
    _unseen = 0
    """Bytes received since a head began that has not ended; of a field that is not whole the parser says nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.server_state.default_headers = _date(int(time.time()))
        # Any byte ends the rest between two requests that uvicorn grants.
        if self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._await_head()
        for start in range(0, len(data), _STEP):
            piece = data[start : start + _STEP]
            super().data_received(piece)
            if self.transport.is_closing():
                return
            self._unseen = self._unseen + len(piece) if self._in_head else 0
            if self._unseen > MAX_HEAD + _STEP:
                self.send_400_response("The head of the request is too long.")
                return

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head = True
        self._fields_size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._count(len(name) + len(value) + _FIELD_COST)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = False
        self._end_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end_timer()
        super().connection_lost(exc)

    def _count(self, size: int) -> None:
        self._fields_size += size
        if self._fields_size > MAX_HEAD:
            raise ValueError("the head of the request is too long")  # the parser stops, and uvicorn answers 400

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


@functools.lru_cache(maxsize=1)
def _date(second: int) -> list[tuple[bytes, bytes]]:
    """The field of an answer (RFC 9110 section 6.6.1) to what came in this second of Unix time."""
    return [(b"date", formatdate(second, usegmt=True).encode())]


async def accept(
    listener: socket.socket, make: Callable[[], TimedProtocol], state: ServerState, tls: Callable[[], Any]
) -> None:
    """Until cancelled. ``listener`` is non-blocking and listens; ``state`` has the connections that stand; ``tls``
    gives the ``ssl.SSLContext`` for a connection that comes now, or None."""
    loop = asyncio.get_running_loop()
    beginning: set[asyncio.Task[None]] = set()

    async def begin(sock: socket.socket) -> None:
        context = tls()
        try:
            await loop.connect_accepted_socket(
                make, sock, ssl=context, ssl_handshake_timeout=None if context is None else HEAD_SECONDS
            )
        except (OSError, TimeoutError):  # no TLS, or none in time
            sock.close()

    try:
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # of descriptors there are none, as a rule; what waits stays in the kernel's queue
                await asyncio.sleep(_NO_DESCRIPTOR_PAUSE)
                continue
            if len(beginning) + len(state.connections) >= MAX_CONNECTIONS:
                with contextlib.suppress(OSError):
                    sock.close()
                continue
            task = loop.create_task(begin(sock))
            beginning.add(task)
            task.add_done_callback(beginning.discard)
    finally:
        for task in beginning:
            task.cancel()
