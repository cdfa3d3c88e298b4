"""Fetching a connected socket from a stack worker on the same machine, on an event loop: see ztclient.handoff."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ztclient.handoff import (
    CLAIM_TIMEOUT,
    JOINED,
    QUEUE_POLL,
    asked_for,
    direct_request,
    give_back,
    patience,
    ready,
    receive,
    send,
    tell,
)

if TYPE_CHECKING:
    from ztclient.destination import Destination
    from ztclient.overlay_socket import Connection


async def claim(path: str, token: bytes) -> socket.socket:
    """The descriptor that ``token`` stands for, as a socket that does not block.

    Raises FileNotFoundError or PermissionError when the Unix socket is out of this process's reach,
    ConnectionResetError when what the token stood for or the worker has ended meanwhile, TimeoutError.
    """
    async with worker_channel(path) as channel:
        channel.send(token)
        await readable(channel)
        connected = receive(channel)
    if connected is None:
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was claimed")
    connected.setblocking(False)
    return connected


async def ask(path: str, to: Destination, idle: list[socket.socket]) -> Connection | None:
    """As ``ztclient.handoff.ask``; what it gives does not block."""
    with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as undo:
        channel = await _asked(undo, path, to, patience(to), idle)
        asked = asked_for(channel, to)
        if asked is not None:
            asked.setblocking(False)
            if give_back(channel, idle):
                undo.pop_all()
        return asked
    return None


async def ask_to_join(path: str, to: Destination, idle: list[socket.socket], *ends: socket.socket) -> bool:
    """Ask the worker itself for a connection, and to join it to an end, which stays the caller's to close; two ends are
    a client that is lent and its way back. False when nothing came of it: then the node is to be asked. Raises
    TimeoutError where the worker does not say: it may have joined it, and a second connection on one socket would mix
    their bytes."""
    with (
        contextlib.suppress(ConnectionError, FileNotFoundError, PermissionError, ValueError),
        contextlib.ExitStack() as undo,
    ):
        channel = await _asked(undo, path, to, CLAIM_TIMEOUT, idle, *ends)
        joined = channel.recv(1) == JOINED
        if joined and give_back(channel, idle):
            undo.pop_all()
        return joined
    return False


async def _asked(
    undo: contextlib.ExitStack,
    path: str,
    to: Destination,
    timeout: float,
    idle: list[socket.socket],
    *ends: socket.socket,
) -> socket.socket:
    """Where the worker's answer is to be read; ``undo`` closes it. Raises OSError, ValueError."""
    message = direct_request(to)
    async with asyncio.timeout(timeout):
        channel = tell(message, idle, *ends)
        if channel is None:
            channel = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            channel.setblocking(False)
            await connect(channel, path)
            ready(channel)
            send(channel, message, *ends)
        else:
            undo.enter_context(channel)
        await readable(channel)
        channel.setblocking(True)  # as the next one expects it: uvloop does not leave it so
        return channel


@contextlib.asynccontextmanager
async def worker_channel(path: str) -> AsyncIterator[socket.socket]:
    """Connected to the worker's Unix socket, for ``CLAIM_TIMEOUT`` seconds. Raises as ``claim`` does."""
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.setblocking(False)
                await connect(channel, path)
                yield channel
    except TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, "the stack worker did not hand over the connection in time") from None
    except ConnectionError as error:
        raise ConnectionResetError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error


async def connect(channel: socket.socket, path: str) -> None:
    """Connect; wait while the worker's queue is full. Such a connect is at once done or refused with EAGAIN, which
    ``loop.sock_connect`` takes for one that is under way."""
    while True:
        try:
            channel.connect(path)
            return
        except BlockingIOError:
            await asyncio.sleep(QUEUE_POLL)


async def readable(channel: socket.socket) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(channel, wake)
    try:
        await ready
    finally:
        loop.remove_reader(channel)
