"""Connections between being opened and being claimed, and the node's own way to claim one.

The worker hands a connection to whoever brings its token to the worker's Unix socket. The gRPC byte stream does so on
behalf of a client that cannot: it needs to know which worker a token belongs to.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections import OrderedDict

from ztnode.node.api import Handoff

TOKEN_BYTES = 16
CLAIM_TIMEOUT = 5.0
"""Seconds that a worker may take to hand over a connection that is already established."""
QUEUE_POLL = 0.01
"""Seconds between two looks whether the worker has room for one more client."""


class PendingConnections:
    """Remembers for a minute where a token can be redeemed; bounded, the oldest is forgotten first."""

    LIFETIME = 60.0
    LIMIT = 16384

    def __init__(self) -> None:
        self._pending: OrderedDict[bytes, tuple[float, Handoff]] = OrderedDict()

    def add(self, handoff: Handoff, now: float) -> None:
        """Remember ``handoff``. ``now``: monotonic seconds."""
        pending = self._pending
        while pending and (len(pending) >= self.LIMIT or next(iter(pending.values()))[0] <= now):
            pending.popitem(last=False)
        pending[handoff.token] = (now + self.LIFETIME, handoff)

    def take(self, token: bytes, now: float) -> Handoff | None:
        """What ``token`` stands for, once; None when unknown or too old."""
        found = self._pending.pop(token, None)
        if found is None or found[0] <= now:
            return None
        return found[1]


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
                return _receive_socket(channel)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "the stack worker did not hand over the connection in time") from None
    except (FileNotFoundError, ConnectionError) as error:
        raise OSError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error


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


def _receive_socket(channel: socket.socket) -> socket.socket:
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    data, ancillary, _flags, _address = channel.recvmsg(1, room)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
            descriptors.extend(received)
    if not data or not descriptors:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError(errno.ECONNRESET, "the connection ended before it was claimed")
    connected = socket.socket(fileno=descriptors[0])
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected
