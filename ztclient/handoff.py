"""Fetching a connected socket from a stack worker on the same machine, whose Unix socket takes a connection's token and
gives the descriptor. The worker's side is ztnode.worker.handoff."""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import struct
import time
from array import array
from typing import TYPE_CHECKING

from ztclient.forms import packed_ip
from ztclient.loopback import tuned
from ztclient.overlay_socket import Connection, overlay_address

if TYPE_CHECKING:
    from ztclient.destination import Destination

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
_DESCRIPTOR = struct.Struct("i")
_ROOM = socket.CMSG_LEN(_DESCRIPTOR.size) if hasattr(socket, "CMSG_LEN") else 0  # Windows knows none of it
_CLOSED_BY_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""A worker that is gone is not the end of a program that wants SIGPIPE to be."""
_TIMEOUT = struct.pack("@ll", int(PATIENCE), round(PATIENCE % 1 * 1e6))
"""A struct timeval."""


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


def ask(path: str, to: Destination, idle: list[socket.socket]) -> Connection | None:
    """Ask the worker itself for a connection to a numeric address; None when nothing came of it within
    half a second, whatever the reason: then the node is to be asked. ``idle``: channels to that worker, which any
    thread takes and gives back."""
    channel = None
    answered = False
    try:
        message = direct_request(to)
        channel = tell(message, idle) or _new_channel(path, message)
        _answers(channel, patience(to))
        asked = asked_for(channel, to)
        answered = asked is not None
        return asked
    except OSError as error:
        answered = error.errno == errno.EMFILE  # and what the channel has is not to be had by others for that
    except ValueError:
        pass
    finally:
        if channel is not None and not (answered and give_back(channel, idle)):
            channel.close()
    return None


def give_back(channel: socket.socket, idle: list[socket.socket]) -> bool:
    """Let the next one have a channel that has brought an answer; False where there are enough."""
    if len(idle) >= MAX_IDLE:
        return False
    idle.append(channel)
    return True


def tell(message: bytes, idle: list[socket.socket], *ends: socket.socket) -> socket.socket | None:
    """One of the channels, which has taken a request; None when there is none whose worker still listens. A channel
    blocks, for ``PATIENCE`` at the most: that is one system call for each step, where a time-out of Python's makes it
    three."""
    while idle:
        try:
            channel = idle.pop()
        except IndexError:  # another thread took it
            break
        try:
            send(channel, message, *ends)
            return channel
        except OSError:
            channel.close()
        except BaseException:
            channel.close()
            raise
    return None


def send(channel: socket.socket, message: bytes, *ends: socket.socket) -> None:
    """Send a request, and what goes with it. Raises OSError."""
    if ends:
        # socket.send_fds has a parameter for flags, and drops them.
        rights = array("i", [end.fileno() for end in ends])
        channel.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _NO_SIGNAL)
    else:
        channel.send(message, _NO_SIGNAL)


def ready(channel: socket.socket) -> None:
    """Make a new channel one as ``tell`` has them."""
    channel.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        channel.setsockopt(socket.SOL_SOCKET, option, _TIMEOUT)


def patience(to: Destination) -> float:
    """Seconds for which the worker's answer is waited for."""
    return min(to.timeout or PATIENCE, PATIENCE)


def _answers(channel: socket.socket, seconds: float) -> None:
    """Wait for an answer. Raises TimeoutError. The channel's own patience is longer than a hurried dial's, and would
    begin anew with each signal."""
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    if not poller.poll(seconds * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "the stack worker does not answer")


def _new_channel(path: str, message: bytes) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(PATIENCE)
        connect(channel, path, time.monotonic() + PATIENCE)
        ready(channel)
        channel.send(message)
    except BaseException:
        channel.close()
        raise
    return channel


@functools.lru_cache(256)
def direct_request(to: Destination) -> bytes:
    """What the worker reads, of a numeric address. Raises ValueError for what has no place there, such as
    a longer name of a congestion control: the node says what is wrong with it."""
    packed = packed_ip(to.ip)
    name = to.congestion.encode("ascii")
    if len(name) > _NAME_BYTES:
        raise ValueError("no name of a congestion control")
    nwid = int(to.network_id, 16) if to.network_id else 0
    milliseconds = min(round(to.timeout * 1000) or LONGEST, LONGEST)
    try:
        return _ASK + _REQUEST.pack(len(packed), to.delay, packed, to.port, nwid, milliseconds, name)
    except struct.error as error:  # a number out of its range
        raise ValueError(str(error)) from None


def asked_for(channel: socket.socket, to: Destination) -> Connection | None:
    """The connection (blocking) that the worker answers with on ``channel``; None when it closes that
    instead. Raises OSError, ValueError."""
    word, descriptor = _receive(channel, _WORD_BYTES)
    if descriptor is None:
        return None
    try:
        ip, port = word[1:].decode("ascii").split(" ")
        connected = Connection(descriptor, overlay_address(ip, int(port)), overlay_address(to.ip, to.port))
    except ValueError:
        os.close(descriptor)
        raise
    if socket.getdefaulttimeout() is not None:  # otherwise it is as it came, and that is blocking
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
    data, ancillary, flags, _address = channel.recvmsg(length, _ROOM, _CLOSED_BY_EXEC)
    descriptor = None
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            (descriptor,) = _DESCRIPTOR.unpack(content[: _DESCRIPTOR.size])
    if not data or descriptor is None:
        if descriptor is not None:
            os.close(descriptor)
        if flags & socket.MSG_CTRUNC:  # it was sent, and there was no room for it in this process
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if data == EXHAUSTED:
            raise exhausted()
        return data, None
    if not _CLOSED_BY_EXEC:
        os.set_inheritable(descriptor, False)
    return data, descriptor


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
