"""What the ends of a local TCP connection are set to, and pairs of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

_LINGER_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def tuned(connected: socket.socket) -> socket.socket:
    """The socket, blocking, and set never to wait for more bytes: what to coalesce is for the TCP on the overlay to
    decide."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.settimeout(None)
    return connected


def reset_on_close(connected: socket.socket) -> None:
    """Make ``close`` a reset, so that the other end does not take what it has for all there is. Harmless where the
    connection has ended already."""
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def socket_pair(buffers: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets on loopback. ``buffers``: bytes of each of their buffers (0: as the kernel likes).
    Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        _set_buffers(listener, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(5.0)
        near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            _set_buffers(near, buffers)
            near.connect(listener.getsockname())
            while True:
                far, peer = listener.accept()
                # Any local user can connect to the port; only our own connection counts.
                if peer == near.getsockname():
                    return tuned(near), tuned(far)
                far.close()
        except BaseException:
            near.close()
            raise


def _set_buffers(sock: socket.socket, size: int) -> None:
    if size:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
