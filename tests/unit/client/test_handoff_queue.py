"""Many clients at the same moment: those for whom the worker's queue has no room wait their turn."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ztclient import handoff as client_handoff
from ztnode.node.api import Handoff
from ztnode.node.handoffs import claim as node_claim

TOKEN = bytes(range(16))


def claim_for_the_node(path: str, token: bytes) -> socket.socket:
    return asyncio.run(node_claim(Handoff(path, token, ("", 0), ("", 0))))


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A hand-off socket whose queue is full, and its listener."""
    path = str(tmp_path / "worker.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        yield path, listener
        for client in waiting:
            client.close()


@pytest.mark.parametrize("claim", [client_handoff.claim, claim_for_the_node])
def test_a_full_queue_is_waited_for(
    busy: tuple[str, socket.socket], claim: Callable[[str, bytes], socket.socket]
) -> None:
    path, listener = busy
    tcp = socket.create_server(("127.0.0.1", 0))
    connected = socket.create_connection(tcp.getsockname())

    def serve() -> None:
        while True:
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(0.05)
                try:
                    token = accepted.recv(16)
                except TimeoutError:
                    continue  # one of those that only fill the queue
                if token == TOKEN:
                    socket.send_fds(accepted, [b"\0"], [connected.fileno()])
                    return

    timer = threading.Timer(0.2, serve)
    timer.start()
    try:
        with claim(path, TOKEN) as got:
            assert got.getpeername() == tcp.getsockname()
    finally:
        timer.join()
        tcp.close()
        connected.close()


def test_a_queue_that_stays_full_is_a_timeout(busy: tuple[str, socket.socket]) -> None:
    with pytest.raises(TimeoutError, match="in time"):
        client_handoff.claim(busy[0], TOKEN, timeout=0.1)
