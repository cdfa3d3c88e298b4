"""How many connections there may be, and how long one may say nothing: what uvicorn leaves without a bound."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_CONNECTIONS: Final = 256
"""At a time; whoever comes then is hung up at once."""
HEAD_SECONDS: Final = 10.0
"""For the head of a request to come whole, and for TLS to be set up before it."""
_NO_DESCRIPTOR_PAUSE: Final = 1.0


class TimedProtocol(HttpToolsProtocol):
    """Ends a connection whose next request does not come."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        # Any byte ends the rest between two requests that uvicorn grants.
        if self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._await_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._end_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


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
