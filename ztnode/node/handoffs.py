"""The way to a worker's hand-off socket for whoever lives on an event loop: to fetch a connection's socket, or to bring
a socket for it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

from ztclient.handoff import CLAIM_TIMEOUT, QUEUE_POLL, receive
from ztclient.loopback import reset_on_close
from ztnode.node.api import Handoff


async def claim(handoff: Handoff) -> socket.socket:
    """Fetch the connected socket, non-blocking, from the worker. Raises OSError; ECONNRESET when the worker no longer
    has the connection."""
    with _gone():
        async with _channel(handoff) as channel:
            channel.send(handoff.token)
            await readable(channel)
            connected = receive(channel)
    if connected is None:
        raise OSError(errno.ECONNRESET, "the connection ended before it was claimed")
    connected.setblocking(False)
    return connected


async def claim_records(handoff: Handoff) -> socket.socket:
    """Fetch the socket of a UDP socket, non-blocking; its records are those of ``worker/datagrams.py``. Raises
    OSError."""
    with _gone():
        async with _channel(handoff) as channel:
            channel.send(handoff.token)
            await readable(channel)
            _data, descriptors, _flags, _address = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        raise OSError(errno.ECONNRESET, "the UDP socket was gone before it was claimed")
    records = socket.socket(fileno=descriptors[0])
    records.set_inheritable(False)
    records.setblocking(False)
    return records


async def give(handoff: Handoff, connected: socket.socket) -> None:
    """Bring the worker the connected socket of a client that is to be joined to the connection; ours is closed. Its
    bytes then pass through the worker alone. Raises OSError; ECONNRESET when the worker no longer has the connection,
    FileNotFoundError or PermissionError where its Unix socket is out of reach: then ``connected`` is still ours."""
    async with _channel(handoff) as channel:
        with connected:
            try:
                with _gone():
                    socket.send_fds(channel, [handoff.token], [connected.fileno()])
                    await readable(channel)
                    if not channel.recv(1):
                        raise OSError(errno.ECONNRESET, "the connection ended before it was joined")
            except BaseException:
                reset_on_close(connected)
                raise


async def drop(handoff: Handoff) -> None:
    """Reset a connection that nobody wants, now and not when its offer expires; one that is gone is no error."""
    with contextlib.suppress(OSError), await claim(handoff) as connected:
        reset_on_close(connected)


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        raise OSError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error


@contextlib.asynccontextmanager
async def _channel(handoff: Handoff) -> AsyncIterator[socket.socket]:
    """Connected to the worker's Unix socket, for ``CLAIM_TIMEOUT`` seconds. Raises OSError."""
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.setblocking(False)
                await _connect(channel, handoff.path)
                yield channel
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "the stack worker did not hand over the connection in time") from None


async def _connect(channel: socket.socket, path: str) -> None:
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
