"""Fetching a connected socket from a stack worker on the same machine, whose Unix socket takes a connection's token and
gives the descriptor. The worker's side is ztnode.worker.handoff."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from types import TracebackType

from ztclient.loopback import tuned

CLAIM_TIMEOUT = 5.0
"""Seconds that a worker may take to hand over a connection that is already established."""
QUEUE_POLL = 0.01
"""Seconds between two looks whether the worker has room for one more client."""
TOKEN_BYTES = 16
"""Length of the token that names a connection."""
EXHAUSTED = b"\2"
"""The answer of a worker that has no descriptors left."""
JOINED = b"\1"
"""The answer of a worker that took the end that it was given."""
_WAIT = bytes(TOKEN_BYTES)
"""Before a token: what it stands for is still being made."""
# What has come already must not be lost: Linux gives it out first, others throw it away with the reading side.
_END = socket.SHUT_RDWR if sys.platform == "linux" else socket.SHUT_WR


def claim(path: str, token: bytes, timeout: float = CLAIM_TIMEOUT) -> socket.socket:
    """Connect to the worker's Unix socket, send the token, receive the connected TCP socket (blocking).

    Raises FileNotFoundError or PermissionError when the Unix socket is out of this process's reach,
    ConnectionResetError when the connection or the worker has ended meanwhile, OSError(EMFILE) where either side has no
    descriptors left.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            _connect(channel, path, time.monotonic() + timeout)
            channel.sendall(token)
            connected = receive(channel)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "the stack worker did not hand over the connection in time") from None
        except ConnectionError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
    if connected is None:
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was claimed")
    return connected


def join(path: str, token: bytes, end: socket.socket, timeout: float = CLAIM_TIMEOUT) -> socket.socket | None:
    """Give the worker one ``end`` of a connection of our own, instead of being given one; ``end`` stays the caller's to
    close. None when the worker took it; a worker that does not know how gives a connected socket as ``claim``
    does. Raises as ``claim`` does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            _connect(channel, path, time.monotonic() + timeout)
            socket.send_fds(channel, [token], [end.fileno()])
            data, connected = _receive(channel)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "the stack worker did not take over the connection in time") from None
        except ConnectionError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
    if connected is None and data != JOINED:
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was claimed")
    return connected


class Appointment:
    """A place at the worker's Unix socket for a connection that is yet to be made, under a token of our own: the socket
    comes as soon as there is one, without waiting for the node to say so. A context manager."""

    def __init__(self, path: str, token: bytes) -> None:
        """Raises OSError where the worker cannot be reached or has no room at this moment."""
        self._lock = threading.Lock()
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._channel.setblocking(False)
            self._channel.connect(path)
            self._channel.send(_WAIT + token)
        except OSError:
            self._channel.close()
            raise

    def keep(self, timeout: float) -> socket.socket | None:
        """Wait for the connected TCP socket (blocking), ``timeout`` seconds at most; None when there will be none here,
        or not in time."""
        self._channel.settimeout(timeout)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return receive(self._channel)
        return None

    def cancel(self) -> None:
        """End :meth:`keep`, from another thread; what has come already still counts. Safe at any time."""
        # The lock: a descriptor that is being closed may be somebody else's a moment later.
        with self._lock, contextlib.suppress(OSError):
            self._channel.shutdown(_END)

    def __enter__(self) -> Appointment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._channel.close()


def appoint(path: str, token: bytes) -> Appointment | None:
    """An appointment, or None where the worker cannot be reached or has no room at this moment."""
    try:
        return Appointment(path, token)
    except OSError:
        return None


def receive(channel: socket.socket) -> socket.socket | None:
    """The connected socket (blocking) that the worker sends on ``channel``; None when it closes that instead."""
    return _receive(channel)[1]


def _receive(channel: socket.socket) -> tuple[bytes, socket.socket | None]:
    data, descriptors, flags, _address = socket.recv_fds(channel, 1, 1)
    if not data or not descriptors:
        for descriptor in descriptors:
            os.close(descriptor)
        if flags & socket.MSG_CTRUNC:  # it was sent, and there was no room for it in this process
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if data == EXHAUSTED:
            raise exhausted()
        return data, None
    connected = socket.socket(fileno=descriptors[0])
    connected.set_inheritable(False)
    return data, connected if connected.type is not socket.SOCK_STREAM else tuned(connected)


def exhausted() -> OSError:
    """What ``EXHAUSTED`` means to whoever wanted a connection."""
    return OSError(errno.EMFILE, "the node has no file descriptors left for another connection")


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
