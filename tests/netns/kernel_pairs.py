"""Connections between our TCP and the kernel's, and what the tests do with them.

The kernel's side runs in threads with ordinary blocking sockets, ours in the test's own thread.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.netns.tapharness import KERNEL, OURS, Harness
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.listener import TcpListener

MB = 1 << 20

Subject = TypeVar("Subject")


def now() -> float:
    return time.monotonic()


class Worker(threading.Thread):
    """Runs the kernel's side; ``result()`` re-raises what went wrong there."""

    def __init__(self, body: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._body = body
        self._value: object = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._body()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self.is_alive()

    def result(self) -> object:
        self.join(10)  # what we saw of its doing may be a moment ahead of its end
        assert self.done
        if self._error is not None:
            raise self._error
        return self._value


def until(net: Harness, subject: Subject, holds: Callable[[Subject], object], timeout: float = 10.0) -> None:
    """Work until something holds for ``subject``. Raises TimeoutError."""
    net.run(lambda: holds(subject), timeout)


def say_all(sock: socket.socket, data: bytes) -> None:
    """Send and shut down."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def serve(net: Harness, version: int = 4, port: int = 7000) -> socket.socket:
    """A listening socket of the kernel's."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    server = net.namespace.run(lambda: socket.create_server((KERNEL[version], port), family=family, backlog=512))
    server.settimeout(60)
    return server


def client(net: Harness, version: int = 4) -> socket.socket:
    """A socket of the kernel's, not yet connected."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = net.namespace.run(lambda: socket.socket(family, socket.SOCK_STREAM))
    sock.settimeout(60)
    return sock


def kernel_knows_port(net: Harness, port: int) -> bool:
    """Whether the kernel has a socket with this local port, in any state: LAST-ACK lasts until it has worked off our
    acknowledgement, some time after we sent it, and until then it refuses the same connection with EADDRNOTAVAIL."""
    table = net.namespace.run(Path("/proc/thread-self/net/tcp").read_text)
    return any(line.split()[1].endswith(f":{port:04X}") for line in table.splitlines()[1:])


def linger_zero(sock: socket.socket) -> None:
    """``close`` resets from now on."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_all(sock: socket.socket) -> str:
    """SHA-256 of everything until the end of the stream."""
    digest = hashlib.sha256()
    while data := sock.recv(256 << 10):
        digest.update(data)
    return digest.hexdigest()


def push(connection: TcpConnection, data: bytes, step: int = 64 << 10) -> Callable[[], bool]:
    """A condition for ``Harness.run`` that feeds ``data`` as the connection takes it and ends with a half-close."""
    position = 0

    def more() -> bool:
        nonlocal position
        if connection.error is not None:
            raise connection.error
        while position < len(data) and connection.writable > 0:
            connection.write(data[position : position + step])
            position += step
        if position < len(data):
            return False
        connection.shutdown()
        return True

    return more


def pull(connection: TcpConnection, into: list[bytes], limit: int = 1 << 20) -> Callable[[], bool]:
    """A condition for ``Harness.run`` that reads until the end of the stream."""

    def more() -> bool:
        if connection.error is not None:
            raise connection.error
        into.extend(bytes(piece) for piece in connection.read(limit))
        return connection.eof

    return more


def opened(net: Harness, version: int = 4, port: int = 7000, timeout: float = 20.0) -> TcpConnection:
    """A connection of ours to the kernel, established."""
    connection = net.stack.connect(KERNEL[version], port, now())
    net.run(lambda: connection.established or connection.error, timeout)
    if connection.error is not None:
        raise connection.error
    return connection


def accepted(net: Harness, listener: TcpListener, timeout: float = 20.0, worker: Worker | None = None) -> TcpConnection:
    """The next connection that the kernel opened to us; what ``worker``, who opens it, failed with is raised."""
    got: list[TcpConnection] = []

    def ready() -> bool:
        if worker is not None and worker.done:
            worker.result()
        connection = listener.accept()
        if connection is not None:
            got.append(connection)
        return bool(got)

    net.run(ready, timeout)
    return got[0]


def pair(net: Harness) -> tuple[TcpConnection, socket.socket]:
    """(ours, the kernel's), connected by us."""
    server = serve(net)
    worker = Worker(lambda: server.accept()[0])
    ours = opened(net)
    net.run(lambda: worker.done)
    server.close()
    theirs = worker.result()
    assert isinstance(theirs, socket.socket)
    theirs.settimeout(30)
    return ours, theirs


def transfer_up(net: Harness, size: int, version: int = 4, timeout: float = 60.0) -> TcpConnection:
    """We connect and send; the kernel says what it got."""
    server = serve(net, version)
    worker = Worker(lambda: read_all(server.accept()[0]))
    data = os.urandom(size)
    connection = opened(net, version, timeout=timeout)
    net.run(push(connection, data), timeout)
    net.run(lambda: worker.done, timeout)
    assert worker.result() == hashlib.sha256(data).hexdigest()
    server.close()
    return connection


def transfer_down(net: Harness, size: int, version: int = 4, timeout: float = 60.0) -> TcpConnection:
    """The kernel connects to us and sends; we say what we got."""
    listener = net.stack.listen(None, 7100)
    data = os.urandom(size)

    def send() -> None:
        with client(net, version) as sock:
            sock.connect((OURS[version], 7100))
            sock.sendall(data)

    worker = Worker(send)
    connection = accepted(net, listener, timeout)
    pieces: list[bytes] = []
    net.run(pull(connection, pieces), timeout)
    connection.close()
    net.run(lambda: worker.done, timeout)
    worker.result()
    assert hashlib.sha256(b"".join(pieces)).digest() == hashlib.sha256(data).digest()
    listener.close()
    return connection
