"""Fetching a connected socket from a stack worker on the same machine."""

from __future__ import annotations

import errno
import os
import socket
import time

CLAIM_TIMEOUT = 5.0
"""Seconds that a worker may take to hand over a connection that is already established."""
QUEUE_POLL = 0.01
"""Seconds between two looks whether the worker has room for one more client."""


def claim(path: str, token: bytes, timeout: float = CLAIM_TIMEOUT) -> socket.socket:
    """Connect to the worker's Unix socket, send the token, receive the connected TCP socket (blocking).

    Raises FileNotFoundError or PermissionError when the Unix socket is out of this process's reach,
    ConnectionResetError when the connection or the worker has ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            _connect(channel, path, time.monotonic() + timeout)
            channel.sendall(token)
            data, descriptors, _flags, _address = socket.recv_fds(channel, 1, 1)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "the stack worker did not hand over the connection in time") from None
        except ConnectionError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
    if not data or not descriptors:
        for descriptor in descriptors:
            os.close(descriptor)
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was claimed")
    connected = socket.socket(fileno=descriptors[0])
    connected.set_inheritable(False)
    return tuned(connected)


def _connect(channel: socket.socket, path: str, deadline: float) -> None:
    """Connect; wait while as many clients as the worker's queue holds came at the same moment. Linux does not wait by
    itself on a socket with a timeout: it says EAGAIN. Raises OSError, TimeoutError."""
    while True:
        try:
            channel.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(QUEUE_POLL)


def tuned(connected: socket.socket) -> socket.socket:
    """The local hop never waits for more bytes: what to coalesce is for the TCP on the overlay to decide."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.settimeout(None)
    return connected
