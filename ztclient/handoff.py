"""Fetching a connected socket from a stack worker on the same machine, whose Unix socket takes a connection's token and
gives the descriptor. The worker's side is ztnode.worker.handoff."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from ztclient.forms import packed_ip
from ztclient.loopback import tuned
from ztclient.overlay_socket import Connection, overlay_address
from ztclient.times import seconds

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
MAX_IDLE = 64
"""Channels that are kept for the next connections."""
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
            data, connected = _received(channel)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "the stack worker did not take over the connection in time") from None
        except ConnectionError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
    if connected is None and data != JOINED:
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before it was claimed")
    return connected


def ask(path: str, request: pb.DialRequest, idle: list[socket.socket]) -> Connection | None:
    """Ask the worker itself for a connection to a numeric address; None when nothing came of it within
    half a second, whatever the reason: then the node is to be asked. ``idle``: channels to that worker, which any
    thread takes and gives back."""
    with contextlib.ExitStack() as undo, contextlib.suppress(OSError, ValueError):
        message = direct_request(request)
        channel = undo.enter_context(idle_channel(idle) or _new_channel(path, time.monotonic() + PATIENCE))
        channel.settimeout(PATIENCE)
        channel.send(message)
        asked = None
        try:
            asked = asked_for(channel, request)
            answered = asked is not None
        except OSError as error:
            answered = error.errno == errno.EMFILE  # and what the channel has is not to be had by others for that
        if answered and give_back(channel, idle):
            undo.pop_all()
        return asked
    return None


def give_back(channel: socket.socket, idle: list[socket.socket]) -> bool:
    """Let the next one have a channel that has brought an answer; False where there are enough."""
    if len(idle) >= MAX_IDLE:
        return False
    idle.append(channel)
    return True


def idle_channel(idle: list[socket.socket]) -> socket.socket | None:
    """One of the channels (non-blocking) on which nothing has come since, such as the end of its worker."""
    while idle:
        try:
            channel = idle.pop()
        except IndexError:  # another thread took it
            break
        channel.setblocking(False)
        try:
            channel.recv(1)
        except BlockingIOError:
            return channel
        except OSError:
            pass
        channel.close()
    return None


def _new_channel(path: str, deadline: float) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(PATIENCE)
        connect(channel, path, deadline)
    except BaseException:
        channel.close()
        raise
    return channel


def direct_request(request: pb.DialRequest) -> bytes:
    """``request``, to a numeric address, as the worker reads it. Raises ValueError for what has no place there, such as
    a longer name of a congestion control: the node says what is wrong with it."""
    packed = packed_ip(request.ip)
    name = request.congestion.encode("ascii")
    if len(name) > _NAME_BYTES:
        raise ValueError("no name of a congestion control")
    nwid = int(request.network_id or "0", 16)
    milliseconds = min(round(seconds(request.timeout) * 1000) or LONGEST, LONGEST)
    try:
        return _ASK + _REQUEST.pack(len(packed), request.delay, packed, request.port, nwid, milliseconds, name)
    except struct.error as error:  # a number out of its range
        raise ValueError(str(error)) from None


def asked_for(channel: socket.socket, request: pb.DialRequest) -> Connection | None:
    """The connection (blocking) that the worker answers ``request`` with on ``channel``; None when it closes that
    instead. Raises OSError, ValueError."""
    word, descriptor = _receive(channel, _WORD_BYTES)
    if descriptor is None:
        return None
    try:
        ip, port = word[1:].decode("ascii").split(" ")
        connected = Connection(descriptor, overlay_address(ip, int(port)), overlay_address(request.ip, request.port))
    except ValueError:
        os.close(descriptor)
        raise
    connected.settimeout(None)
    return connected


def receive(channel: socket.socket) -> socket.socket | None:
    """The connected socket (blocking) that the worker sends on ``channel``; None when it closes that instead."""
    return _received(channel)[1]


def _received(channel: socket.socket) -> tuple[bytes, socket.socket | None]:
    data, descriptor = _receive(channel, 1)
    if descriptor is None:
        return data, None
    connected = socket.socket(fileno=descriptor)
    return data, connected if connected.type is not socket.SOCK_STREAM else tuned(connected)


def _receive(channel: socket.socket, length: int) -> tuple[bytes, int | None]:
    """What the worker answers, and the descriptor that came with it. Raises OSError."""
    data, descriptors, flags, _address = socket.recv_fds(channel, length, 1)
    if not data or not descriptors:
        for descriptor in descriptors:
            os.close(descriptor)
        if flags & socket.MSG_CTRUNC:  # it was sent, and there was no room for it in this process
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if data == EXHAUSTED:
            raise exhausted()
        return data, None
    os.set_inheritable(descriptors[0], False)
    return data, descriptors[0]


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
