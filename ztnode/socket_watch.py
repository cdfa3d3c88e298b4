"""Readability of connected datagram sockets, on any event loop.

Where nobody listens at the other end, ICMP says so, and a connected socket reports that as an error. libuv, on which
uvloop is built, takes this for the end of the descriptor and never looks at it again (``uv__poll_io`` in
src/unix/poll.c): the socket would be deaf from then on, however often the other end comes back. An epoll of our own in
between is readable while the socket is, or has an error to be read, and has no errors itself.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable


class Watch:
    """Calls back while a socket is readable or has an error to be read, until ``stop``."""

    def __init__(self, sock: socket.socket, callback: Callable[..., object], *arguments: object) -> None:
        """Raises OSError where there is no descriptor left."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._between: select.epoll | None = None
        if hasattr(select, "epoll"):
            self._between = select.epoll()
            try:
                self._between.register(sock.fileno(), select.EPOLLIN)
            except BaseException:
                self._between.close()
                raise
        watched = sock if self._between is None else self._between
        self._loop.add_reader(watched.fileno(), callback, *arguments)

    def stop(self) -> None:
        """Before the socket is closed."""
        if self._between is None:
            self._loop.remove_reader(self._sock.fileno())
        elif not self._between.closed:
            self._loop.remove_reader(self._between.fileno())
            self._between.close()
