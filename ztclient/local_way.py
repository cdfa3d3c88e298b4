"""Local sockets that lead to one host on the overlay, for libraries that take an address and no socket.

A Unix socket in a directory that only this user may enter, or a port on loopback, on which connections of other users
are turned away where the system says whose they are (Linux). A thread accepts; each connection is dialled by a thread
of its own and then joined by the stack worker: no byte passes through here. They live as long as the process, one
for each host and port.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from ztclient import byte_relay, dialling
from ztclient.node import Node
from ztclient.reach import dial_request
from ztclient.web import as_node

BACKLOG: Final = 128
DIAL_SECONDS: Final = 30.0


class LocalWay:
    """A listening socket whose connections are joined to connections to ``host`` and ``port``."""

    def __init__(self, node: Node, host: str, port: int, listener: socket.socket) -> None:
        self._node = node
        self._target = host, port
        self._listener = listener
        self.failure: OSError | None = None
        """Why the last connection was not made, for an error that says more than "reset by peer"."""
        threading.Thread(target=self._run, name="ztclient-local-way", daemon=True).start()

    @property
    def address(self) -> Any:
        """Where it listens: a path, or an IP and a port."""
        return self._listener.getsockname()

    def _run(self) -> None:
        while True:
            try:
                local, peer = self._listener.accept()
            except OSError:
                return
            if local.family == socket.AF_INET and not _is_ours(peer, self.address):
                byte_relay.reset(local)
                continue
            threading.Thread(target=self._join, args=(local,), name="ztclient-local-way", daemon=True).start()

    def _join(self, local: socket.socket) -> None:
        try:
            request, patience = dial_request(*self._target, DIAL_SECONDS, None)
            dialling.join(self._node.control, request, local, patience)
            self.failure = None
        except OSError as error:
            self.failure = error
            byte_relay.reset(local)


_lock = threading.Lock()
_ways: dict[tuple[int, str, str, int, bool], LocalWay] = {}


def unix_socket(node: Node | str | None, host: str, port: int, name: str = "socket") -> tuple[str, LocalWay]:
    """The path of a Unix socket that leads to a host, whose last part is ``name``. Raises OSError."""
    way = _way(as_node(node), host, port, name)
    return str(way.address), way


def loopback(node: Node | str | None, host: str, port: int) -> tuple[str, int, LocalWay]:
    """The IP and port of a loopback socket that leads to a host. Raises OSError."""
    way = _way(as_node(node), host, port, None)
    return (*way.address, way)


def _way(node: Node, host: str, port: int, name: str | None) -> LocalWay:
    key = os.getpid(), node.address, host, port, name is not None
    with _lock:
        if key not in _ways:
            dial_request(host, port, None, None)  # what is no host or port shall be said here
            _ways[key] = LocalWay(node, host, port, _listen_on_loopback() if name is None else _listen(name))
        return _ways[key]


def _listen_on_loopback() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    return listener


def _listen(name: str) -> socket.socket:
    directory = tempfile.mkdtemp(prefix="ztclient-")  # for us alone
    atexit.register(_remove, directory, os.getpid())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(Path(directory, name)))
    listener.listen(BACKLOG)
    return listener


def _remove(directory: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(directory, ignore_errors=True)


def _is_ours(peer: tuple[str, int], here: tuple[str, int]) -> bool:
    """Whether the connection from ``peer`` is this user's, as far as can be seen."""
    if sys.platform != "linux":
        return True

    def written(address: tuple[str, int]) -> str:
        return f"{int.from_bytes(socket.inet_aton(address[0]), sys.byteorder):08X}:{address[1]:04X}"

    ends = [written(peer), written(here)]
    with contextlib.suppress(OSError), Path("/proc/net/tcp").open() as table:
        for line in table:
            words = line.split()
            if words[1:3] == ends:
                return int(words[7]) == os.getuid()
    return True
