"""The way to a worker's hand-off socket for whoever lives on an event loop: to fetch a connection's socket, or to bring
a socket for it."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from ztclient.aio import handoff as client
from ztclient.handoff import EXHAUSTED, exhausted
from ztclient.loopback import reset_on_close
from ztnode.node.api import Handoff


async def claim(handoff: Handoff) -> socket.socket:
    """Fetch the connected socket, non-blocking, from the worker. Raises OSError; ECONNRESET when the worker no longer
    has the connection."""
    with _gone():
        return await client.claim(handoff.path, handoff.token)


async def claim_records(handoff: Handoff) -> socket.socket:
    """Fetch the socket of a UDP socket, non-blocking; its records are those of ``worker/udp_pairs.py``. Raises
    OSError."""
    with _gone():
        async with client.worker_channel(handoff.path) as channel:
            channel.send(handoff.token)
            await client.readable(channel)
            data, descriptors, _flags, _address = socket.recv_fds(channel, 1, 1)
    if data == EXHAUSTED:
        raise exhausted()
    if not descriptors:
        raise OSError(errno.ECONNRESET, "the UDP socket was gone before it was claimed")
    records = socket.socket(fileno=descriptors[0])
    records.set_inheritable(False)
    records.setblocking(False)
    return records


async def give(handoff: Handoff, connected: socket.socket, way_back: socket.socket | None = None) -> None:
    """Bring the worker the connected socket of a client that is to be joined to the connection; ours is closed. Its
    bytes then pass through the worker alone. With a ``way_back`` it is lent (``worker/loan.py``). Raises OSError;
    ECONNRESET when the worker no longer has the connection, FileNotFoundError or PermissionError where its Unix socket
    is out of reach: then ``connected`` is still ours."""
    async with client.worker_channel(handoff.path) as channel:
        with connected:
            try:
                with _gone():
                    socket.send_fds(
                        channel, [handoff.token], [each.fileno() for each in (connected, way_back) if each is not None]
                    )
                    await client.readable(channel)
                    answer = channel.recv(1)
                    if answer == EXHAUSTED:
                        raise exhausted()
                    if not answer:
                        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was joined")
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
