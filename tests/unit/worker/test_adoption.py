"""Sockets that clients bring to the hand-off socket: real ones of the kernel, and everything that is none."""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.worker.worker_fakes import FakeConnection, FakeDial, FakeHost
from ztnode.worker.control_requests import ParkedConnection
from ztnode.worker.handoff_server import ASK, CLIENT_SECONDS, JOINED, REQUEST, Answer, HandoffServer

RESET = struct.pack("ii", 1, 0)


class Bench(FakeHost):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.asked: list[FakeDial] = []
        self.server = HandoffServer(path, self.poller, lambda: self.now, ask=self.ask)

    def ask(self, request: bytes, answer: Answer) -> FakeDial:
        if not request[0]:
            raise ValueError("no request")
        self.asked.append(FakeDial(request, answer))
        return self.asked[-1]

    def park(self) -> tuple[FakeConnection, bytes]:
        connection = FakeConnection()
        return connection, self.server.offer(ParkedConnection(self, connection.overlay))

    def bring(self, message: bytes, *descriptors: int) -> bytes:
        """Bring sockets with a token; what the worker answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(self.path)
            socket.send_fds(client, [message], list(descriptors))
            self.turn()
            return client.recv(1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "worker-0.sock"))
    yield made
    made.server.close()
    made.pairs.close()


def tcp(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """What a port forward accepted, and its client's end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        accepted, _ = listener.accept()
    client.settimeout(30)
    return accepted, client


def unix() -> tuple[socket.socket, socket.socket]:
    accepted, client = socket.socketpair()
    client.settimeout(30)
    return accepted, client


def open_descriptors() -> int:
    gc.collect()  # what earlier tests left is not to be closed in between
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("make", [tcp, lambda: tcp("::1"), unix], ids=["IPv4", "IPv6", "Unix"])
def test_bytes_and_ends_of_stream_both_ways(
    bench: Bench, make: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    connection, token = bench.park()
    connection.arrive(b"came before the client did")
    accepted, client = make()
    client.sendall(b"sent before it was brought")
    with accepted, client:
        assert bench.bring(token, accepted.fileno()) == JOINED
        accepted.close()
        assert client.recv(100) == b"came before the client did"
        bench.turn()
        assert connection.sent == b"sent before it was brought"
        client.shutdown(socket.SHUT_WR)
        bench.turn()
        assert connection.shut
        connection.arrive(b"answer")
        connection.arrive_fin()
        for splice in list(bench.live):
            splice.on_ready()
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""
        assert not bench.live
        assert connection.closed_by_owner


def test_small_parts_do_not_wait_and_the_kernel_queues_no_more_than_for_others(bench: Bench) -> None:
    _, token = bench.park()
    accepted, client = tcp()
    with accepted, client:
        assert bench.bring(token, accepted.fileno()) == JOINED
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 1 << 20
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 1 << 20


def test_resets_stay_resets(bench: Bench) -> None:
    connection, token = bench.park()
    accepted, client = tcp()
    with accepted, client:
        bench.bring(token, accepted.fileno())
        accepted.close()
        connection.arrive(b"last words")
        connection.error = ConnectionResetError()
        for splice in list(bench.live):
            splice.on_ready()
        assert client.recv(100) == b"last words"
        while bench.live:
            for splice in list(bench.draining):
                splice.handle_timer(bench.now)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    connection, token = bench.park()
    accepted, client = tcp()
    with accepted:
        bench.bring(token, accepted.fileno())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    bench.turn()
    assert connection.aborted
    assert not bench.live


def test_a_brought_socket_may_wait_for_its_connection(bench: Bench) -> None:
    accepted, client = tcp()
    with accepted, client, socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(30)
        channel.connect(bench.path)
        socket.send_fds(channel, [ASK + b"\4" + bytes(REQUEST.size - 1)], [accepted.fileno()])
        bench.turn()
        connection = FakeConnection()
        connection.arrive(b"here")
        bench.asked[0].answer(ParkedConnection(bench, connection.overlay), b"")
        assert channel.recv(1) == JOINED
        assert client.recv(10) == b"here"


def pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def datagrams() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def unconnected() -> int:
    return socket.socket().detach()


def listening() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


@pytest.mark.parametrize("make", [pipe, datagrams, unconnected, listening])
def test_what_cannot_be_joined_resets_the_connection_and_is_closed(bench: Bench, make: Callable[[], int]) -> None:
    connection, token = bench.park()
    before = open_descriptors()
    descriptor = make()
    assert bench.bring(token, descriptor) == b""
    os.close(descriptor)
    assert connection.aborted
    assert not bench.live
    assert open_descriptors() <= before  # threads of earlier tests may still close theirs
    assert bench.server.counters["handoff_failed"] == 1


def test_no_descriptor_stays_behind(bench: Bench) -> None:
    """Whatever comes with a wrong token, with half of one, or beside the one that counts."""
    _, token = bench.park()
    accepted, client = tcp()
    before = open_descriptors()
    with accepted, client:
        assert bench.bring(os.urandom(16), accepted.fileno()) == b""
        with socket.socket(socket.AF_UNIX) as slow:
            slow.settimeout(30)
            slow.connect(bench.path)
            for part in (token[:4], token[4:6]):
                socket.send_fds(slow, [part], [accepted.fileno(), client.fileno()])
                bench.turn()
            bench.now += CLIENT_SECONDS
            bench.server.handle_timer(bench.now)
            assert slow.recv(1) == b""
        bench.turn()
        assert open_descriptors() <= before  # as above
        assert bench.bring(token, accepted.fileno()) == JOINED


def test_a_refused_socket_that_lingers_does_not_hold_the_worker_up(bench: Bench) -> None:
    for asked, lingers in ((struct.pack("ii", 1, 60), False), (RESET, True)):
        accepted, client = tcp()
        with accepted, client:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, asked)
            assert bench.bring(b"\0" * 16, accepted.fileno()) == b""
            assert bool(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER)) is lingers
            client.sendall(b"it is its owner's still")
            assert accepted.recv(100) == b"it is its owner's still"


@pytest.mark.parametrize("first", ["socket", "pipe"])
def test_a_way_back_that_is_none_is_closed(bench: Bench, first: str) -> None:
    accepted, client = unix()
    reading, writing = os.pipe()
    before = open_descriptors()
    for _ in range(3):
        connection, token = bench.park()
        bench.bring(token, *(accepted.fileno(), reading) if first == "socket" else (reading, accepted.fileno()))
        assert connection.aborted
    assert open_descriptors() == before
    for descriptor in (reading, writing):
        os.close(descriptor)
    accepted.close()
    client.close()
