"""The node's own way to claim a connection, on behalf of a client that reaches it by gRPC alone."""

from __future__ import annotations

import asyncio
import errno
import socket

from ztclient.handoff import CLAIM_TIMEOUT, QUEUE_POLL, receive
from ztnode.node.api import Handoff


async def claim(handoff: Handoff) -> socket.socket:
    """Fetch the connected socket, non-blocking, from the worker. Raises OSError; ECONNRESET when the worker no longer
    has the connection."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.setblocking(False)
                await _connect(channel, handoff.path)
                await loop.sock_sendall(channel, handoff.token)
                await _readable(loop, channel)
                connected = receive(channel)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "the stack worker did not hand over the connection in time") from None
    except (FileNotFoundError, ConnectionError) as error:
        raise OSError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
    if connected is None:
        raise OSError(errno.ECONNRESET, "the connection ended before it was claimed")
    connected.setblocking(False)
    return connected


async def _connect(channel: socket.socket, path: str) -> None:
    """Connect; wait while the worker's queue is full. Such a connect is at once done or refused with EAGAIN, which
    ``loop.sock_connect`` takes for one that is under way."""
    while True:
        try:
            channel.connect(path)
            return
        except BlockingIOError:
            await asyncio.sleep(QUEUE_POLL)


async def _readable(loop: asyncio.AbstractEventLoop, channel: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(channel, wake)
    try:
        await ready
    finally:
        loop.remove_reader(channel)
