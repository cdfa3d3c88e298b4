"""Fetching a connected socket from a stack worker on the same machine, whose Unix socket takes a connection's token and
gives the descriptor. The worker's side is ztnode.worker.handoff."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ztclient.loopback import tuned
from ztclient.overlay_socket import Connection, connection

if TYPE_CHECKING:
    from ztclient.v1 import node_pb2 as pb

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
LONGEST = 500
"""Milliseconds for a connection that the worker itself is asked for: what takes longer needs the node's advice, and
more patience."""
PATIENCE = 2 * LONGEST / 1000
"""Seconds until its answer is not waited for any more: it gives up long before."""
_ASK = b"\xff" * TOKEN_BYTES
"""In place of a token: a request for a connection follows."""
_REQUEST = struct.Struct("!BB16sHQI16s")
"""DialResponse.direct says what these are."""
_NAME_BYTES = 16
_WORD_BYTES = 64
"""At most: of what comes with an answer."""


def claim(path: str, token: bytes, timeout: float = CLAIM_TIMEOUT) -> socket.socket:
    """Connect to the worker's Unix socket, send the token, receive the connected TCP socket (blocking).

    Raises FileNotFoundError or PermissionError when the Unix socket is out of this process's reach,
    ConnectionResetError when the connection or the worker has ended meanwhile, OSError(EMFILE) where either side has no
    descriptors left.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            connect(channel, path, time.monotonic() + timeout)
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
            connect(channel, path, time.monotonic() + timeout)
            socket.send_fds(channel, [token], [end.fileno()])
            data, connected = _receive(channel)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "the stack worker did not take over the connection in time") from None
        except ConnectionError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
    if connected is None and data != JOINED:
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was claimed")
    return connected


def ask(path: str, request: pb.DialRequest) -> Connection | None:
    """Ask the worker itself for a connection to a numeric address; None when nothing came of it within
    half a second, whatever the reason: then the node is to be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel, contextlib.suppress(OSError, ValueError):
        channel.settimeout(PATIENCE)
        channel.connect(path)
        channel.send(direct_request(request))
        return asked_for(channel, request)
    return None


def direct_request(request: pb.DialRequest) -> bytes:
    """``request``, to a numeric address, as the worker reads it. Raises ValueError for what has no place there, such as
    a longer name of a congestion control: the node says what is wrong with it."""
    packed = ip_address(request.ip).packed
    name = request.congestion.encode("ascii")
    if len(name) > _NAME_BYTES:
        raise ValueError("no name of a congestion control")
    nwid = int(request.network_id or "0", 16)
    milliseconds = min(request.timeout.ToMilliseconds() or LONGEST, LONGEST)
    try:
        return _ASK + _REQUEST.pack(len(packed), request.delay, packed, request.port, nwid, milliseconds, name)
    except struct.error as error:  # a number out of its range
        raise ValueError(str(error)) from None


def asked_for(channel: socket.socket, request: pb.DialRequest) -> Connection | None:
    """The connection (blocking) that the worker answers ``request`` with on ``channel``; None when it closes that
    instead. Raises OSError, ValueError."""
    word, plain = _receive(channel, _WORD_BYTES)
    if plain is None:
        return None
    with plain:
        ip, port = word[1:].decode("ascii").split(" ")
        return connection(plain, (ip, int(port)), (request.ip, request.port))


def receive(channel: socket.socket) -> socket.socket | None:
    """The connected socket (blocking) that the worker sends on ``channel``; None when it closes that instead."""
    return _receive(channel)[1]


def _receive(channel: socket.socket, length: int = 1) -> tuple[bytes, socket.socket | None]:
    data, descriptors, flags, _address = socket.recv_fds(channel, length, 1)
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


def connect(channel: socket.socket, path: str, deadline: float) -> None:
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
