"""What happens at one end of a splice is seen at the other, on real sockets."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from tests.unit.worker.worker_fakes import FakeConnection, FakeHost
from ztnode.worker import splice as splice_module
from ztnode.worker.splice import CHUNK, DRAIN_SECONDS, Splice
from ztnode.worker.tcp_pair import make_pair


class Bench:
    """One splice with its client's socket and its fake connection."""

    def __init__(self, **options: int) -> None:
        self.host = FakeHost()
        self.connection = FakeConnection(**options)
        ours, self.client = make_pair()
        self.client.settimeout(30)
        self.splice = Splice(self.connection.overlay, ours, self.host)

    def ready(self) -> None:
        self.splice.on_ready()

    @property
    def ended(self) -> bool:
        return not self.host.live


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.client.close()


def read_all(client: socket.socket) -> tuple[bytes, str]:
    """Everything up to the end of stream or the reset, and which of the two it was."""
    data = bytearray()
    try:
        while piece := client.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        return bytes(data), "reset"
    return bytes(data), "eof"


def test_bytes_both_ways(bench: Bench) -> None:
    bench.connection.arrive(b"hello ")
    bench.connection.arrive(b"client")
    bench.ready()
    assert bench.client.recv(100) == b"hello client"
    bench.client.sendall(b"hello overlay")
    bench.host.turn()
    assert bench.connection.sent == b"hello overlay"


def test_client_half_close_then_answer_then_end(bench: Bench) -> None:
    bench.client.sendall(b"request")
    bench.client.shutdown(socket.SHUT_WR)
    bench.host.turn()
    assert bench.connection.sent == b"request"
    assert bench.connection.shut
    bench.connection.arrive(b"answer")
    bench.connection.arrive_fin()
    bench.ready()
    assert read_all(bench.client) == (b"answer", "eof")
    assert bench.ended
    assert bench.connection.closed_by_owner
    assert not bench.connection.aborted


def test_overlay_half_close_leaves_the_other_way_open(bench: Bench) -> None:
    bench.connection.arrive(b"all there is")
    bench.connection.arrive_fin()
    bench.ready()
    assert read_all(bench.client) == (b"all there is", "eof")
    bench.client.sendall(b"thanks")
    bench.host.turn()
    assert bench.connection.sent == b"thanks"
    assert not bench.ended
    bench.client.close()
    bench.host.turn()
    assert bench.connection.shut
    assert bench.ended


def test_end_of_stream_comes_after_what_waited_for_the_client() -> None:
    bench = Bench()
    payload = os.urandom(6 << 20)
    bench.connection.arrive(payload)
    bench.connection.arrive_fin()
    bench.ready()
    assert bench.connection.readable, "the client's buffers are smaller than this"
    received = bytearray()
    while piece := bench.client.recv(1 << 20):
        received += piece
        bench.host.turn(1)
    assert received == payload


def test_reset_after_everything_that_arrived(bench: Bench) -> None:
    bench.connection.arrive(b"before the reset")
    bench.connection.error = ConnectionResetError(errno.ECONNRESET, "reset")
    bench.ready()
    assert bench.ended
    assert read_all(bench.client) == (b"before the reset", "reset")


def test_reset_with_more_waiting_than_the_client_has_room_for() -> None:
    bench = Bench()
    payload = os.urandom(6 << 20)
    bench.connection.arrive(payload)
    bench.ready()
    bench.connection.error = ConnectionResetError(errno.ECONNRESET, "reset")
    bench.ready()
    assert not bench.ended
    assert bench.host.draining
    received = bytearray()
    with pytest.raises(ConnectionResetError):
        while True:
            piece = bench.client.recv(1 << 20)
            assert piece, "a truncated stream must not look complete"
            received += piece
            bench.host.turn(1)
            bench.host.now += 0.02
            for splice in list(bench.host.draining):
                splice.handle_timer(bench.host.now)
    assert received == payload
    assert bench.ended


def test_reset_does_not_wait_for_ever_for_a_client_that_does_not_read() -> None:
    bench = Bench()
    bench.connection.arrive(bytes(6 << 20))
    bench.connection.error = TimeoutError(errno.ETIMEDOUT, "timed out")
    bench.ready()
    for _ in range(4):
        bench.splice.handle_timer(bench.host.now)
        bench.host.now += DRAIN_SECONDS / 2
    assert bench.ended
    assert read_all(bench.client)[1] == "reset"


def test_client_reset_aborts(bench: Bench) -> None:
    bench.connection.arrive(b"never read")
    bench.ready()
    bench.client.close()  # with unread data: the kernel sends a reset
    bench.host.turn()
    assert bench.connection.aborted
    assert bench.ended


def test_client_that_is_gone_is_noticed_when_the_overlay_speaks(bench: Bench) -> None:
    bench.client.close()
    bench.host.turn()
    assert bench.connection.shut, "until then it looks like a half-close"
    assert not bench.ended
    bench.connection.arrive(b"anybody there?")
    bench.ready()
    bench.host.turn()
    assert bench.connection.aborted
    assert bench.ended


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_LINGER2, to have the kernel forget in a second, is Linux's")
def test_client_that_is_gone_is_noticed_in_time_though_the_overlay_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel does with the orphan of a full close: FIN at once, and no waiting for the peer's without end."""
    monkeypatch.setattr("ztnode.worker.splice._HALF_CLOSED_IDLE", 2)
    monkeypatch.setattr("ztnode.worker.splice._HALF_CLOSED_INTERVAL", 1)
    gone, half = Bench(), Bench()
    gone.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # seconds in FIN-WAIT-2, instead of 60
    gone.client.close()
    half.client.shutdown(socket.SHUT_WR)
    start = time.monotonic()
    while not gone.ended:
        gone.host.turn()
        half.host.turn()
        assert time.monotonic() - start < 8
    assert gone.connection.shut
    assert gone.connection.aborted
    half.connection.arrive(b"a late answer")
    half.ready()
    assert half.client.recv(100) == b"a late answer"
    assert not half.ended
    half.client.close()
    half.host.turn()


def test_client_gone_while_its_data_is_held_back() -> None:
    bench = Bench(send_buffer=32 * 1024)
    bench.client.setblocking(False)
    bench.client.send(bytes(100_000))
    bench.host.turn()
    bench.connection.arrive(b"unread")
    bench.ready()
    bench.client.close()
    bench.host.turn()
    assert bench.connection.aborted
    assert bench.ended


def test_full_send_buffer_blocks_the_client() -> None:
    bench = Bench(send_buffer=64 * 1024)
    bench.client.setblocking(False)
    accepted = 0
    with pytest.raises(BlockingIOError):
        while True:
            accepted += bench.client.send(bytes(1 << 16))
            bench.host.turn(1)
    assert 48 * 1024 < len(bench.connection.sent) <= 64 * 1024
    assert bench.host.turn() == 0, "held back, the loop is at rest"
    total = 0
    while total < accepted:
        total += len(bench.connection.sent)
        bench.connection.sent.clear()
        bench.connection.acknowledge()
        bench.ready()
        bench.host.turn(1)
    assert total == accepted
    bench.client.close()


def test_client_that_does_not_read_stops_the_reading_from_the_overlay() -> None:
    bench = Bench()
    for _ in range(100):
        bench.connection.arrive(bytes(1 << 18))
        bench.ready()
        bench.host.turn(1)
    # The two kernel buffers of the pair, doubled by the kernel for its own book-keeping, and one chunk.
    assert bench.connection.reads <= 4 * (1 << 20) + CHUNK
    before = bench.connection.reads
    for _ in range(10):
        bench.ready()
    assert bench.connection.reads == before
    assert bench.host.turn() == 0, "nothing to do until the client reads"
    bench.client.close()


def test_hangup_with_a_full_send_buffer_does_not_spin() -> None:
    """Both directions are shut at the pair while the overlay takes nothing: the kernel reports that for ever."""
    bench = Bench(send_buffer=80 * 1024)
    bench.connection.arrive_fin()
    bench.ready()
    bench.client.sendall(bytes(300_000))
    bench.client.close()
    bench.host.turn(5)
    assert bench.host.turn(5) == 0
    total = len(bench.connection.sent)
    while total < 300_000:
        bench.connection.sent.clear()
        bench.connection.acknowledge()
        bench.splice.on_ready()
        bench.host.turn(1)
        total += len(bench.connection.sent)
    bench.connection.acknowledge()
    bench.ready()
    bench.host.turn()
    assert total == 300_000
    assert bench.connection.shut
    assert bench.ended


def test_many_small_pieces_exceed_one_gather_write(bench: Bench) -> None:
    for n in range(5000):
        bench.connection.arrive(bytes([n % 256]))
    bench.ready()
    received = bytearray()
    while len(received) < 5000:
        received += bench.client.recv(10_000)
    assert received == bytes(n % 256 for n in range(5000))


@pytest.mark.parametrize("seed", range(4))
def test_random_traffic_arrives_whole(seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(send_buffer=200_000)
    bench.client.setblocking(False)
    down = rng.randbytes(rng.randrange(1, 3 << 20))
    up = rng.randbytes(rng.randrange(1, 3 << 20))
    got_down, got_up = hashlib.sha256(), hashlib.sha256()
    fed = written = read = 0
    while read < len(down) or not bench.connection.shut:
        if fed < len(down) and bench.connection.readable < 1 << 20:
            size = rng.randrange(1, 50_000)
            bench.connection.arrive(down[fed : fed + size])
            fed += size
            if fed >= len(down):
                bench.connection.arrive_fin()
            bench.ready()
        if written < len(up):
            with contextlib.suppress(BlockingIOError):
                written += bench.client.send(up[written : written + rng.randrange(1, 100_000)])
            if written == len(up):
                bench.client.shutdown(socket.SHUT_WR)
        if rng.random() < 0.5:
            try:
                data = bench.client.recv(rng.randrange(1, 200_000))
                got_down.update(data)
                read += len(data)
            except BlockingIOError:
                pass
        bench.host.turn(1)
        if rng.random() < 0.3:
            got_up.update(bench.connection.sent)
            bench.connection.sent.clear()
            bench.connection.acknowledge()
            bench.ready()
    got_up.update(bench.connection.sent)
    bench.client.setblocking(True)
    while data := bench.client.recv(1 << 16):
        got_down.update(data)
    assert got_down.digest() == hashlib.sha256(down).digest()
    assert got_up.digest() == hashlib.sha256(up).digest()
    assert bench.ended


def test_idle_connection_costs_little_python() -> None:
    import tracemalloc

    host = FakeHost()
    connections = [FakeConnection() for _ in range(200)]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < 600:
        pytest.skip(f"needs 600 descriptors, the limit is {limit}")
    tracemalloc.start()
    pairs = []
    before = tracemalloc.get_traced_memory()[0]
    for connection in connections:
        ours, client = make_pair()
        pairs.append(client.detach())
        Splice(connection.overlay, ours, host)
    each = (tracemalloc.get_traced_memory()[0] - before) / len(connections)
    tracemalloc.stop()
    for splice in list(host.live):
        splice.reset()
    for fd in pairs:
        os.close(fd)
    assert each < 3000


def test_after_cuts_exactly() -> None:
    views: list[bytes | memoryview] = [b"abc", b"", memoryview(b"defg")]
    for cut in range(8):
        assert b"".join(splice_module._after(views, cut)) == b"abcdefg"[cut:]
