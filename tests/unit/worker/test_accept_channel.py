"""A listener's connections by the hand-off socket: each kind, what nobody has room for, and hostile clients."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from tests.unit.worker.worker_fakes import FakeConnection, FakeHost
from ztclient import accept_channel as client
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.worker.accept_channel import DEAF, ENDED, ENDS, MAX_CREDITS, OPEN, attend
from ztnode.worker.control_requests import Channel, Listener
from ztnode.worker.handoff_server import EXHAUSTED, HandoffServer

TOKEN = bytes(range(16))
RECORD = len(OPEN) + ENDS.size
FOUND = (("10.0.0.1", 40000), ("10.0.0.2", 80))


class FakeListener:
    """A listener's queue, in the test's hands."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.queue: deque[FakeConnection] = deque()

    def next(self) -> TcpConnection | None:
        return self.queue.popleft().overlay if self.queue else None

    def on_ready(self) -> None:
        if (channel := self.channel) is not None:
            while channel.has_room and (connection := self.next()) is not None:
                channel.bring(connection)
            channel.flush()


class Bench(FakeHost):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.listener = FakeListener()
        self.told: list[str] = []
        self.handoff = HandoffServer(path, self.poller, lambda: self.now, self.told.append, attend=self.attend)

    def attend(self, request: bytes, sock: socket.socket, brought: Sequence[int]) -> None:
        found = cast(Listener, self.listener) if request.startswith(TOKEN) else None
        attend(self, found, request, sock, brought)

    def connect(self, message: bytes, *descriptors: int) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(30)
        channel.connect(self.path)
        socket.send_fds(channel, [message], descriptors)
        self.turn()
        return channel

    def opened(self, kind: int, port: int = 0, *descriptors: int) -> socket.socket:
        channel = self.connect(client.request(TOKEN, kind, port), *descriptors)
        assert channel.recv(10) == OPEN
        return channel

    def arrives(self) -> FakeConnection:
        connection = FakeConnection()
        self.listener.queue.append(connection)
        self.listener.on_ready()
        return connection


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "worker-0.sock"))
    before = descriptors()
    yield made
    if made.listener.channel is not None:
        made.listener.channel.close()
    for splice in list(made.live):
        splice.reset()
    made.turn()
    assert descriptors() <= before, "a descriptor is left open"
    made.handoff.close()


def silent(channel: socket.socket) -> bool:
    """Whether nothing has come on a channel that is open."""
    channel.setblocking(False)
    try:
        return channel.recv(1) == b"never"
    except BlockingIOError:
        return True
    finally:
        channel.settimeout(30)


@pytest.mark.parametrize("kind", [client.DESCRIPTORS, client.TOKENS])
def test_connections_come_with_their_ends_as_far_as_there_is_room(bench: Bench, kind: int) -> None:
    arrived = [bench.arrives() for _ in range(3)]
    channel = bench.opened(kind)
    assert silent(channel)
    channel.sendall(client.credit(0, 0))
    bench.turn()
    for connection in arrived[:2]:
        record, found, _, _ = socket.recv_fds(channel, RECORD + 16 * kind - 16, 1)
        assert record[:1] == OPEN and client.ends(record[1:RECORD]) == (0, *FOUND)
        if kind == client.TOKENS:
            with bench.connect(record[RECORD:]) as fetching:
                found = socket.recv_fds(fetching, 1, 1)[1]
        with socket.socket(fileno=found[0]) as connected:
            connected.sendall(b"up")
            bench.turn()
            assert connection.sent == b"up"
    assert silent(channel) and len(bench.listener.queue) == 1
    channel.sendall(client.credit(0))
    bench.turn()
    record, found, _, _ = socket.recv_fds(channel, 100, 1)
    assert record.startswith(OPEN) and not bench.listener.queue
    for descriptor in found:
        os.close(descriptor)
    bench.now += 60
    bench.handoff.handle_timer(bench.now)
    channel.close()


class Client:
    """A client's listening socket, and sources for it."""

    def __init__(self, backlog: int = 10) -> None:
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(backlog)
        self.listening.settimeout(30)
        self.port = self.listening.getsockname()[1]
        self.table = os.memfd_create("ends")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.listening.close()
        os.close(self.table)

    def supply(self, channel: socket.socket, *numbers: int) -> None:
        sources = [socket.socket() for _ in numbers]
        socket.send_fds(channel, [client.credit(*numbers)], [source.fileno() for source in sources])
        for source in sources:
            source.close()

    def ends(self, number: int) -> object:
        return client.ends(os.pread(self.table, ENDS.size, number * ENDS.size))


needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")


@needs_memory
def test_sources_are_connected_to_the_clients_own_listening_socket(bench: Bench) -> None:
    with Client() as us:
        channel = bench.opened(client.SOURCES, us.port, us.table)
        us.supply(channel, 7, 65535, 3)
        bench.turn()
        connection = bench.arrives()
        connection.arrive(b"down")
        accepted, _ = us.listening.accept()
        with accepted:
            bench.turn()
            assert us.ends(7) == (us.port, *FOUND)
            connection.owner.on_ready()  # type: ignore[attr-defined]
            assert accepted.recv(10) == b"down"
            accepted.sendall(b"up")
            bench.turn()
            assert connection.sent == b"up"
        assert silent(channel), "one of three is not worth waking up for"
        bench.arrives()
        us.listening.accept()[0].close()
        assert channel.recv(10) == OPEN * 2
        bench.arrives()
        assert channel.recv(10) == OPEN
        bench.arrives()
        assert len(bench.listener.queue) == 1, "there is no source for it"
        us.supply(channel, 9)
        bench.turn()
        assert not bench.listener.queue and us.ends(9) == (us.port, *FOUND)
        channel.close()


@needs_memory
def test_who_finds_no_room_in_the_kernels_queue_waits_and_is_not_lost(bench: Bench) -> None:
    with Client(backlog=0) as us:
        channel = bench.opened(client.SOURCES, us.port, us.table)
        us.supply(channel, *range(4))
        bench.turn()
        arrived = [bench.arrives() for _ in range(3)]
        assert len(bench.listener.queue) == 1, "the second is being connected, the third waits behind it"
        for number, connection in enumerate(arrived):
            connection.arrive(b"%d" % number)
        for number in range(3):
            us.listening.settimeout(0.05)
            deadline = time.monotonic() + 20  # the kernel tries again after a second
            while True:
                bench.turn()
                try:
                    accepted = us.listening.accept()[0]
                    break
                except TimeoutError:
                    assert time.monotonic() < deadline
            bench.turn()
            arrived[number].owner.on_ready()  # type: ignore[attr-defined]
            accepted.settimeout(30)
            assert accepted.recv(1) == b"%d" % number
            accepted.close()
        # One that waits so is reset when its client goes away.
        us.supply(channel, 4, 5)
        bench.turn()
        for _ in range(2):
            waiting = bench.arrives()
        channel.close()
        bench.turn()
        assert waiting.aborted


@needs_memory
def test_nobody_at_the_clients_port_is_told(bench: Bench) -> None:
    with Client() as us:
        channel = bench.opened(client.SOURCES, us.port, us.table)
        us.supply(channel, 1, 2)
        bench.turn()
        us.listening.close()
        assert bench.arrives().aborted
        assert channel.recv(10) == DEAF and channel.recv(10) == b""
        assert bench.listener.channel is None
        bench.arrives()
        assert len(bench.listener.queue) == 1, "it waits for whoever accepts next"


@needs_memory
def test_sources_that_were_lost_on_the_way_are_told(bench: Bench) -> None:
    with Client() as us:
        channel = bench.opened(client.SOURCES, us.port, us.table)
        channel.sendall(client.credit(1, 2, 3))
        bench.turn()
        assert channel.recv(10) == EXHAUSTED * 3
        assert "no file descriptors" in bench.told[0]
        us.supply(channel, 1)
        bench.turn()
        assert not bench.arrives().aborted
        channel.close()


def test_the_end_of_a_listener_is_told(bench: Bench) -> None:
    channel = bench.opened(client.DESCRIPTORS)
    assert bench.listener.channel is not None
    bench.listener.channel.end()
    assert channel.recv(10) == ENDED and channel.recv(10) == b""
    channel.close()


def test_a_client_that_comes_again_takes_its_own_place(bench: Bench) -> None:
    former = bench.opened(client.DESCRIPTORS)
    former.sendall(client.credit(0))
    bench.turn()
    channel = bench.opened(client.DESCRIPTORS)
    assert former.recv(10) == b""
    former.close()
    bench.arrives()
    assert len(bench.listener.queue) == 1
    channel.close()
    bench.turn()
    assert bench.listener.channel is None and len(bench.listener.queue) == 1


@needs_memory
def test_who_is_no_client_of_the_listener_is_sent_away(bench: Bench) -> None:
    reading, writing = os.pipe()
    memory = os.memfd_create("ends")
    for message, sent in (
        (client.request(b"x" * 16, client.DESCRIPTORS), ()),
        (client.request(TOKEN, 3), ()),
        (client.request(TOKEN, client.DESCRIPTORS), (memory,)),
        (client.request(TOKEN, client.SOURCES), ()),
        (client.request(TOKEN, client.SOURCES), (memory, memory)),
        (client.request(TOKEN, client.SOURCES), (writing,)),
        (client.request(TOKEN, client.DESCRIPTORS) + b"more", ()),
    ):
        with bench.connect(message, *sent) as channel:
            assert channel.recv(10) == b"", message
    assert bench.handoff.counters["handoff_refused"] == 7 and bench.listener.channel is None
    for descriptor in (reading, writing, memory):
        os.close(descriptor)


@needs_memory
@pytest.mark.parametrize("kind", [client.SOURCES, client.DESCRIPTORS])
def test_what_is_no_credit_ends_the_channel_and_keeps_nothing(bench: Bench, kind: int) -> None:
    with Client() as us, socket.socket(socket.AF_UNIX) as other:
        brought = [us.table] if kind == client.SOURCES else []
        for data, sent in (
            (b"odd", []),
            *([] if brought else [(client.credit(*range(MAX_CREDITS + 1)), [])]),
            (client.credit(1), [other.fileno()]),
            (client.credit(1), [us.table]),
            (client.credit(1), [other.fileno()] * 2),
        ):
            channel = bench.opened(kind, us.port, *brought)
            socket.send_fds(channel, [data], sent)
            bench.turn()
            assert channel.recv(10) == b"" and bench.listener.channel is None
            channel.close()


def test_a_client_without_descriptors_to_be_had_resets_and_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_buffer: int, _count: int) -> None:
        raise OSError(24, "Too many open files")

    channel = bench.opened(client.DESCRIPTORS)
    channel.sendall(client.credit(0))
    bench.turn()
    bench.pairs.close()
    with monkeypatch.context() as patched:
        patched.setattr("ztnode.worker.tcp_pair.make_pairs", fail)
        assert bench.arrives().aborted
    assert "no file descriptors" in bench.told[0]
    assert not bench.arrives().aborted
    assert channel.recv(100).startswith(OPEN)
    channel.close()
