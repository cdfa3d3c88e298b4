"""The connections of a client's listener, one at a time, from the stack worker itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from ztclient import accept_channel
from ztclient.accept_channel import ENDED, ENDS, OPEN, TOKENS
from ztclient.aio.accept_channel import attend
from ztclient.aio.handoff import readable
from ztclient.handoff import TOKEN_BYTES
from ztnode.node.api import Handoff


class Attendance:
    """Asks the worker of the moment for each; ``close`` it in the end."""

    def __init__(self, path: str, token: bytes, is_listening: Callable[[], bool]) -> None:
        """``path`` and ``token`` of the answer to Listen, ``is_listening``: whether that call goes on."""
        self._path = path
        self._message = accept_channel.request(token, TOKENS)
        self._patience = accept_channel.Patience(is_listening)
        self._channel: socket.socket | None = None
        self._asked = False
        self._over = False

    async def next(self) -> Handoff | None:
        """The next connection; None: from now on the node is to be asked, which has it or says why not. One call at a
        time; what comes after one was cancelled is the next one's."""
        while not self._over:
            try:
                return await self._next()
            except OSError as error:
                self.close()
                self._over = self._over or not self._patience.permits(error)
            await asyncio.sleep(accept_channel.RETRY_SECONDS)
        return None

    async def _next(self) -> Handoff:
        """Raises OSError where it does not come from there."""
        if self._channel is None:
            self._channel = await attend(self._path, self._message)
            self._patience.succeeded()
        if not self._asked:
            self._channel.send(accept_channel.credit(0))
            self._asked = True
        await readable(self._channel)
        record = self._channel.recv(len(OPEN) + ENDS.size + TOKEN_BYTES)
        self._asked = False
        found = accept_channel.ends(record[len(OPEN) : -TOKEN_BYTES]) if record.startswith(OPEN) else None
        if found is None:
            self._over = record.startswith(ENDED)
            raise ConnectionResetError("the worker is gone, or the listener is")
        (ip, port, *_), (peer, peer_port, *_) = found[1:]
        return Handoff(self._path, record[-TOKEN_BYTES:], (ip, port), (peer, peer_port))

    def close(self) -> None:
        """Attend no more."""
        self._asked = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None
