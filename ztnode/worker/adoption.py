"""Sockets that clients bring: accepted by a port forward, or connected to the server that is exposed.

They are the kernel's own and may lead to another machine; nothing is between them and the splice.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from ztnode.worker.tcp_pair import buffer_for, finish_on_close, reset_on_close, set_buffers

_LINGER: Final = struct.Struct("ii")
_FAMILIES: Final = frozenset((socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))


def adopt(descriptor: int, clients: int = 0) -> socket.socket:
    """The connected stream socket (TCP or Unix) behind ``descriptor``, set as the worker's end of a TCP pair is: it
    does not block, waits for no more bytes, and is reset when it is closed, as far as its kind can be. Raises OSError
    for anything else, which is closed."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)  # a pipe, say
        raise
    try:
        if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EPROTOTYPE, "a connected TCP or Unix socket was expected")
        sock.getpeername()
        sock.setblocking(False)
        reset_on_close(sock)
        # The window scale was agreed upon without us; what the kernel may queue for one client is bounded all the same.
        set_buffers(sock, buffer_for(clients))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        let_go(sock.detach())
        raise
    return sock


def let_go(descriptor: int) -> None:
    """Close what a client brought, without waiting: where its socket has SO_LINGER and bytes that nobody takes, close()
    waits for the client's number of seconds, and the worker's loop with it."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return
    with sock:
        waits, seconds = _LINGER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
        if waits and seconds:  # the client may have it still, and wants its reset if it asked for one
            finish_on_close(sock)
