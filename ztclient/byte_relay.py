"""Two connected TCP sockets joined by threads, for what no stack worker can join."""

from __future__ import annotations

import contextlib
import socket
import threading

from ztclient.loopback import reset_on_close

CHUNK = 256 * 1024


def start(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both directions have ended; takes over both sockets (blocking). A reset on one side
    is one on the other."""
    ByteRelay(one, other)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    reset_on_close(sock)
    sock.close()


class ByteRelay:
    """Both directions, a thread each; the last one that ends closes the sockets."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self._sockets = one, other
        self._lock = threading.Lock()
        self._running = 2
        self._failed = False
        for source, target in ((one, other), (other, one)):
            threading.Thread(target=self._carry, args=(source, target), name="ztclient-relay", daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._fail()
        with self._lock:
            self._running -= 1
            if self._running:
                return
        for sock in self._sockets:
            sock.close()

    def _fail(self) -> None:
        """Reset both ends, and wake the other direction."""
        self._failed = True
        for sock in self._sockets:
            reset_on_close(sock)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
