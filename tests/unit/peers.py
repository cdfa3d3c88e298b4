"""TCP servers on loopback that stand for peers on the overlay."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINGER_RESET = struct.pack("ii", 1, 0)


@contextmanager
def peer(behaviour: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server that runs ``behaviour`` on each connection in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connected: socket.socket) -> None:
        # Tests end connections in every way; what a behaviour cares about it catches itself.
        with connected, contextlib.suppress(ConnectionError):
            behaviour(connected)

    def accept() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connected,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def echo(connected: socket.socket) -> None:
    """Send back what comes, until the peer's half-close."""
    while data := connected.recv(65536):
        connected.sendall(data)


def reset_after_some(connected: socket.socket) -> None:
    """Send 10 bytes and reset."""
    connected.sendall(b"0123456789")
    connected.recv(1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


def read_to_end(connected: socket.socket) -> bytes:
    """All bytes until the end of stream."""
    data = bytearray()
    while part := connected.recv(65536):
        data += part
    return bytes(data)
