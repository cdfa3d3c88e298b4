"""When a socket can be read, again and again, for little."""

from __future__ import annotations

import asyncio
import socket


class ReadWaiter:
    """For one task that reads until nothing is left and then waits. The socket stays registered with the event loop
    from one wait to the next, which saves two system calls each; only where something comes while nobody waits is it
    taken out, for the loop would tell of it without end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._registered = False

    async def wait(self) -> None:
        """Until there is something to read, or its end, or ``wake`` is called."""
        waiting = self._waiting = self._loop.create_future()
        if not self._registered:
            self._loop.add_reader(self._sock, self._on_readable)
            self._registered = True
        try:
            await waiting
        finally:
            self._waiting = None

    def wake(self) -> None:
        """End the wait that is under way."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """Leave the socket alone."""
        if self._registered:
            self._loop.remove_reader(self._sock)
            self._registered = False

    def _on_readable(self) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()
        else:
            self._waiting.set_result(None)
