"""Our TCP against the Linux kernel's, over a TAP device and a bad wire.

The kernel's side runs in threads with ordinary blocking sockets, ours in the test's own thread. Every wire fault comes
from a generator seeded by the test's parameters, so a failure repeats (as far as two free-running clocks allow).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.fault_injector import Faults
from tests.netns import tapharness
from tests.netns.kernel_pairs import (
    MB,
    Worker,
    accepted,
    client,
    kernel_knows_port,
    linger_zero,
    now,
    opened,
    pair,
    pull,
    push,
    read_all,
    say_all,
    serve,
    transfer_down,
    transfer_up,
    until,
)
from tests.netns.tapharness import KERNEL, KERNEL4, NOBODY, OURS, OURS4, Harness, Namespace, Tap, harness
from ztnode.netstack.config import StackConfig
from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcp_config import TcpConfig

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(tapharness.unavailable() is not None, reason=str(tapharness.unavailable())),
]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
TCP_REPAIR = 19
"""linux/tcp.h; the socket module lacks it."""
LONG = os.environ.get("ZTNODE_LONG_TESTS") == "1"
"""8 MB over each bad wire, where CI sends one."""


@pytest.fixture
def net() -> Iterator[Harness]:
    with harness() as instance:
        yield instance


# --- opening ---


@VERSIONS
def test_connect_takes_one_round_trip(net: Harness, version: int) -> None:
    server = serve(net, version)
    opened(net, version)  # the neighbour is known from here on
    begin = now()
    connection = opened(net, version)
    assert now() - begin < 0.05
    assert connection.remote == (KERNEL[version], 7000)
    assert connection.local[0] == OURS[version]
    server.close()


@VERSIONS
def test_closed_port_refuses_at_once(net: Harness, version: int) -> None:
    begin = now()
    with pytest.raises(ConnectionRefusedError):
        opened(net, version, port=7999)
    assert now() - begin < 0.5


@VERSIONS
def test_our_closed_port_refuses_at_once(net: Harness, version: int) -> None:
    sock = client(net, version)
    worker = Worker(lambda: sock.connect((OURS[version], 7999)))
    begin = now()
    net.run(lambda: worker.done)
    assert now() - begin < 0.5
    with pytest.raises(ConnectionRefusedError):
        worker.result()


@VERSIONS
def test_an_address_nobody_has_fails_within_three_seconds(net: Harness, version: int) -> None:
    connection = net.stack.connect(NOBODY[version], 80, now())
    begin = now()
    net.run(lambda: connection.error)
    assert now() - begin < 3.0
    assert connection.error is not None
    assert connection.error.errno == errno.EHOSTUNREACH


def test_a_silent_host_times_out_when_asked_to(net: Harness) -> None:
    net.namespace.ip("route", "add", "blackhole", "10.77.0.55/32")
    net.namespace.ip("neigh", "add", "proxy", "10.77.0.55", "dev", "tap0")
    net.namespace.sysctl("ipv4.conf.tap0.proxy_arp", "1")
    connection = net.stack.connect("10.77.0.55", 80, now(), timeout=1.0)
    begin = now()
    net.run(lambda: connection.error)
    assert now() - begin < 3.0
    assert connection.error is not None
    assert connection.error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH)


def test_no_route_is_said_at_once(net: Harness) -> None:
    with pytest.raises(OSError, match="unreachable"):
        net.stack.connect("192.0.2.1", 80, now())


# --- bulk ---


@pytest.mark.parametrize("mtu", [1500, 2800])
@VERSIONS
def test_bulk(version: int, mtu: int) -> None:
    with harness(mtu=mtu) as net:
        transfer_up(net, 16 * MB, version)
        transfer_down(net, 16 * MB, version)


FAULTS = {
    "loss1": Faults(loss=0.01),
    "loss3": Faults(loss=0.03, delay=0.002),
    "loss10": Faults(loss=0.10),
    "reorder": Faults(reorder=0.10, reorder_delay=0.002),
    "duplicate": Faults(duplicate=0.10),
    "corrupt": Faults(corrupt=0.02),
    "delay": Faults(delay=0.010, jitter=0.002),
    "everything": Faults(loss=0.02, reorder=0.05, duplicate=0.05, corrupt=0.01, delay=0.003, jitter=0.001),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bulk_over_a_bad_wire(fault: str) -> None:
    faults = FAULTS[fault]
    size = (8 if LONG else 1) * MB
    with harness(faults=(faults, faults), generator=random.Random(f"wire {fault}")) as net:
        transfer_up(net, size)
        transfer_down(net, size)


@pytest.mark.parametrize("congestion", ["newreno", "bbr"])
def test_bulk_by_other_congestion_controls(congestion: str) -> None:
    config = StackConfig(tcp=TcpConfig(congestion=congestion))
    for faults in (Faults(), Faults(loss=0.02, reorder=0.02, delay=0.005, jitter=0.001)):
        with harness(config=config, faults=(faults, faults), generator=random.Random(f"wire {congestion}")) as net:
            transfer_up(net, 4 * MB)


def test_bulk_both_ways_at_once(net: Harness) -> None:
    ours, theirs = pair(net)
    up, down = os.urandom(4 * MB), os.urandom(4 * MB)
    reader = Worker(lambda: read_all(theirs))
    writer = Worker(lambda: say_all(theirs, down))
    pieces: list[bytes] = []
    feed, drain = push(ours, up), pull(ours, pieces)
    net.run(lambda: all((feed(), drain(), reader.done)), 60)
    writer.result()
    assert reader.result() == hashlib.sha256(up).hexdigest()
    assert b"".join(pieces) == down


# --- closing ---


def test_half_close_by_us(net: Harness) -> None:
    """We say all we have; the kernel reads to the end and answers afterwards."""
    ours, theirs = pair(net)

    def answer() -> None:
        said = read_all(theirs)
        time.sleep(0.2)
        theirs.sendall(said.encode() * 1000)
        theirs.close()

    worker = Worker(answer)
    net.run(push(ours, b"question" * 10000))
    pieces: list[bytes] = []
    net.run(pull(ours, pieces))
    worker.result()
    assert b"".join(pieces) == hashlib.sha256(b"question" * 10000).hexdigest().encode() * 1000
    ours.close()


def test_half_close_by_the_kernel(net: Harness) -> None:
    ours, theirs = pair(net)
    theirs.sendall(b"question")
    theirs.shutdown(socket.SHUT_WR)
    pieces: list[bytes] = []
    net.run(pull(ours, pieces))
    assert b"".join(pieces) == b"question"
    assert ours.state is State.CLOSE_WAIT
    worker = Worker(lambda: read_all(theirs))
    net.run(push(ours, b"answer" * 100000))
    net.run(lambda: worker.done)
    assert worker.result() == hashlib.sha256(b"answer" * 100000).hexdigest()
    net.run(lambda: ours.closed)


def test_both_close_at_once(net: Harness) -> None:
    ours, theirs = pair(net)
    theirs.shutdown(socket.SHUT_WR)  # its FIN waits at the TAP device while ours goes out
    ours.shutdown()
    net.flush()
    net.run(lambda: ours.eof)
    assert theirs.recv(1) == b""
    net.run(lambda: ours.closed)
    assert ours.error is None


# --- resets ---


def into_established(net: Harness) -> tuple[TcpConnection, socket.socket]:
    return pair(net)


def into_fin_wait_2(net: Harness) -> tuple[TcpConnection, socket.socket]:
    ours, theirs = pair(net)
    ours.shutdown()
    net.run(lambda: ours.state is State.FIN_WAIT_2)
    return ours, theirs


def into_close_wait(net: Harness) -> tuple[TcpConnection, socket.socket]:
    ours, theirs = pair(net)
    theirs.shutdown(socket.SHUT_WR)
    net.run(lambda: ours.state is State.CLOSE_WAIT)
    return ours, theirs


def into_fin_wait_1(net: Harness) -> tuple[TcpConnection, socket.socket]:
    """Data that fits no window keeps our FIN back."""
    ours, theirs = pair(net)
    feed = push(ours, bytes(16 * MB))
    with contextlib.suppress(TimeoutError):
        net.run(feed, 0.3)
    ours.shutdown()
    net.run(lambda: ours.state is State.FIN_WAIT_1)
    return ours, theirs


def into_last_ack(net: Harness) -> tuple[TcpConnection, socket.socket]:
    ours, theirs = into_close_wait(net)
    feed = push(ours, bytes(16 * MB))
    with contextlib.suppress(TimeoutError):
        net.run(feed, 0.3)
    ours.shutdown()
    net.run(lambda: ours.state is State.LAST_ACK)
    return ours, theirs


INTO = {
    "established": into_established,
    "fin_wait_1": into_fin_wait_1,
    "fin_wait_2": into_fin_wait_2,
    "close_wait": into_close_wait,
    "last_ack": into_last_ack,
}


@pytest.mark.parametrize("state", INTO)
def test_reset_by_the_kernel(net: Harness, state: str) -> None:
    ours, theirs = INTO[state](net)
    linger_zero(theirs)
    theirs.close()
    net.run(lambda: ours.error)
    assert ours.error is not None
    assert ours.error.errno == errno.ECONNRESET
    assert ours.state is State.CLOSED
    # Data that was cut off must not look complete.
    with pytest.raises(ConnectionResetError):
        net.run(pull(ours, []))


@pytest.mark.parametrize("state", INTO)
def test_reset_by_us(net: Harness, state: str) -> None:
    ours, theirs = INTO[state](net)
    ours.abort()

    def use() -> None:
        while theirs.recv(256 << 10):
            pass
        # After our FIN the kernel's reader sees the end of the stream, and its writer hears of the reset.
        for _ in range(100):
            theirs.sendall(b"x")
            time.sleep(0.01)

    worker = Worker(use)
    net.run(lambda: worker.done)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        worker.result()


def test_reset_of_a_half_open_connection(net: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives up before our SYN-ACK is there and answers it with a reset: nobody hears of it."""
    listener = net.stack.listen(OURS4, 7100)
    sock = client(net)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect((OURS4, 7100))
    write = net.tap.write
    held: list[Frame] = []

    def hold(frame: Frame) -> None:
        if len(frame[0]) > 50:  # ARP is shorter
            held.append(frame)
        else:
            write(frame)

    monkeypatch.setattr(net.tap, "write", hold)
    net.run(lambda: held)
    sock.close()
    monkeypatch.undo()
    for frame in held:
        write(frame)
    pause = now() + 0.3
    net.run(lambda: now() > pause)
    assert listener.accept() is None
    other = client(net)

    def connect_and_close() -> None:
        other.connect((OURS4, 7100))
        other.close()

    worker = Worker(connect_and_close)
    accepted(net, listener)
    net.run(lambda: worker.done)
    worker.result()


def test_close_with_unread_data_resets(net: Harness) -> None:
    """RFC 2525 section 2.17: what we did not read must not look delivered."""
    ours, theirs = pair(net)
    theirs.sendall(b"never read")
    net.run(lambda: ours.readable)
    ours.close()
    worker = Worker(lambda: theirs.recv(10))
    net.run(lambda: worker.done)
    with pytest.raises(ConnectionResetError):
        worker.result()


# --- windows ---


def test_slow_readers(net: Harness) -> None:
    """Both sides read in small sips; the windows close and open many times."""
    ours, theirs = pair(net)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    data = os.urandom(MB)

    def sip() -> str:
        digest = hashlib.sha256()
        while piece := theirs.recv(20000):
            digest.update(piece)
            time.sleep(0.01)
        return digest.hexdigest()

    reader = Worker(sip)
    writer = Worker(lambda: say_all(theirs, data))
    feed = push(ours, data)
    pieces: list[bytes] = []
    drain = pull(ours, pieces, 2000)
    due = now()

    def work() -> bool:
        nonlocal due
        fed = feed()
        if now() >= due:
            due = now() + 0.001
            drain()
        return fed and ours.eof and reader.done

    net.run(work, 60, tick=0.001)
    writer.result()
    assert reader.result() == hashlib.sha256(data).hexdigest()
    assert b"".join(pieces) == data


# --- many ---


def test_short_connections_by_us(net: Harness) -> None:
    """One request each; the kernel closes first, as an HTTP/1.0 server does."""
    server = serve(net)
    total, at_once = 5000, 50

    def answer() -> None:
        for _ in range(total):
            sock, _ = server.accept()
            sock.sendall(sock.recv(100)[::-1])
            sock.close()

    worker = Worker(answer)
    active: dict[TcpConnection, bytes] = {}
    started = finished = 0

    def work() -> bool:
        nonlocal started, finished
        while len(active) < at_once and started < total:
            connection = net.stack.connect(KERNEL4, 7000, now())
            connection.write(b"request %d" % started)
            active[connection] = b"request %d" % started
            started += 1
        for connection in list(active):
            if connection.error is not None:
                raise connection.error
            if connection.readable >= len(active[connection]):
                assert b"".join(map(bytes, connection.read(100))) == active.pop(connection)[::-1]
                connection.close()
                finished += 1
        return finished == total

    net.run(work, 60)
    net.run(lambda: worker.done)
    worker.result()


def test_short_connections_by_the_kernel(net: Harness) -> None:
    """We accept, answer and close first: our TIME-WAIT table fills, and nothing suffers."""
    listener = net.stack.listen(OURS4, 7100, backlog=128)
    total, threads = 5000, 8

    def ask(count: int) -> None:
        for number in range(count):
            with client(net) as sock:
                sock.connect((OURS4, 7100))
                sock.sendall(b"request %d" % number)
                assert read_all(sock) == hashlib.sha256(b"request %d" % number).hexdigest()

    workers = [Worker(lambda: ask(total // threads)) for _ in range(threads)]
    active: list[TcpConnection] = []

    def work() -> bool:
        while (connection := listener.accept()) is not None:
            active.append(connection)
        for connection in list(active):
            if connection.readable:
                for piece in connection.read(100):
                    connection.write(bytes(piece))
                connection.close()
                active.remove(connection)
        return all(worker.done for worker in workers)

    net.run(work, 60)
    for worker in workers:
        worker.result()


def test_a_hundred_at_once(net: Harness) -> None:
    """All whole, none starved."""
    server = serve(net)
    size = MB // 8
    answers: list[str] = []

    def one(sock: socket.socket) -> None:
        answers.append(read_all(sock))

    def accept() -> None:
        workers = []
        for _ in range(100):
            sock, _ = server.accept()
            workers.append(Worker(partial(one, sock)))
        for worker in workers:
            worker.join()

    worker = Worker(accept)
    expected: list[str] = []
    feeds = []
    for _ in range(100):
        data = os.urandom(size)
        expected.append(hashlib.sha256(data).hexdigest())
        connection = net.stack.connect(KERNEL4, 7000, now())
        feeds.append(push(connection, data))
    net.run(lambda: sum(feed() for feed in feeds) == len(feeds) and worker.done, 60)
    assert sorted(answers) == sorted(expected)


# --- TIME-WAIT ---


def test_the_kernel_reuses_its_port_through_our_time_wait(net: Harness) -> None:
    """We close first and keep the TIME-WAIT; the same four-tuple opens again at once (RFC 9293 section 3.10.7.4)."""
    listener = net.stack.listen(OURS4, 7100)

    def hear_out(sock: socket.socket) -> None:
        sock.connect((OURS4, 7100))
        read_all(sock)
        sock.close()

    for round_number in range(3):
        sock = client(net)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((KERNEL4, 6500))
        worker = Worker(partial(hear_out, sock))
        begin = now()
        ours = accepted(net, listener, worker=worker)
        assert now() - begin < 1.5, round_number
        ours.write(b"bye")
        ours.close()
        until(net, worker, lambda worker: worker.done)
        worker.result()
        until(net, ours, lambda ours: ours.closed and not kernel_knows_port(net, 6500))


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.FIN_WAIT_2, State.CLOSE_WAIT], ids=lambda state: state.name)
def test_the_kernel_reuses_its_port_after_it_forgot_a_connection(net: Harness, state: State) -> None:
    """As after a crash of its host: challenge ACK, RST, SYN again (RFC 5961 section 4), and no waiting."""
    listener = net.stack.listen(OURS4, 7100)

    def dial() -> tuple[Worker, TcpConnection]:
        sock = client(net)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((KERNEL4, 6500))

        def connect() -> socket.socket:
            sock.connect((OURS4, 7100))
            return sock

        worker = Worker(connect)
        ours = accepted(net, listener, worker=worker)
        net.run(lambda: worker.done)
        return worker, ours

    worker, ours = dial()
    sock = worker.result()
    assert isinstance(sock, socket.socket)
    if state is State.FIN_WAIT_2:
        ours.shutdown()
    elif state is State.CLOSE_WAIT:
        sock.shutdown(socket.SHUT_WR)
    net.run(lambda: ours.state is state)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # a socket under repair closes without a word
    sock.close()
    begin = now()
    worker, again = dial()
    assert now() - begin < 1.5
    assert again is not ours
    assert isinstance(ours.error, ConnectionResetError)
    fresh = worker.result()
    assert isinstance(fresh, socket.socket)
    fresh.close()


def test_we_reuse_our_port_through_the_kernels_time_wait(net: Harness) -> None:
    server = serve(net)
    for _ in range(3):
        flow = net.stack.find_flow(socket.inet_aton(KERNEL4), now())
        ours = net.stack.tcp.connect(flow, 7000, now(), local_port=6600)
        worker = Worker(lambda: server.accept()[0].close())  # the kernel closes first
        until(net, ours, lambda ours: ours.eof, 5)
        assert ours.error is None
        ours.close()
        until(net, ours, lambda ours: ours.closed)
        worker.join()


# --- path MTU ---


class Router:
    """Behind the kernel's namespace a second one, over a narrow link that a thread carries frames across."""

    def __init__(self, net: Harness, link_mtu: int, carried: int) -> None:
        self.far = Namespace()
        self.far.ip("link", "set", "lo", "up")
        self._near_tap, self._far_tap = Tap(net.namespace, "tap1", link_mtu), Tap(self.far, "tap0", 1500)
        self.far.ip("link", "set", "tap0", "address", "02:aa:bb:cc:00:03")
        net.namespace.sysctl("ipv4.ip_forward", "1")
        net.namespace.ip("address", "add", "10.78.0.1/24", "dev", "tap1")
        self.far.ip("address", "add", "10.78.0.2/24", "dev", "tap0")
        self.far.ip("route", "add", "10.77.0.0/24", "via", "10.78.0.1")
        config = net.stack.ports[0].config
        routes = (("10.78.0.0/24", KERNEL4),)
        net.stack.update_port(0, type(config)(config.mac, config.mtu, config.addresses, routes), now())
        self._largest = carried + 14
        self.swallowed = 0
        self._stop = False
        self._thread = Worker(self._carry)

    def _carry(self) -> None:
        import select

        taps = {self._near_tap.fd: self._far_tap, self._far_tap.fd: self._near_tap}
        while not self._stop:
            for fd in select.select(list(taps), [], [], 0.05)[0]:
                frame = os.read(fd, 65536)
                if len(frame) > self._largest:
                    self.swallowed += 1
                else:
                    taps[fd].write((frame,))

    def serve(self) -> socket.socket:
        server = self.far.run(lambda: socket.create_server(("10.78.0.2", 7000)))
        server.settimeout(30)
        return server

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self._near_tap.close()
        self._far_tap.close()
        self.far.close()


@pytest.mark.parametrize("black_hole", [False, True], ids=["reported", "black hole"])
def test_a_narrow_link_on_the_way(net: Harness, black_hole: bool) -> None:
    """The router says "fragmentation needed" (RFC 1191), or its link swallows what is too big in silence."""
    router = Router(net, 1500 if black_hole else 1000, 1000)
    server = router.serve()
    worker = Worker(lambda: read_all(server.accept()[0]))
    data = os.urandom(MB)
    connection = net.stack.connect("10.78.0.2", 7000, now())
    net.run(push(connection, data), 30)
    net.run(lambda: worker.done, 30)
    assert worker.result() == hashlib.sha256(data).hexdigest()
    assert bool(router.swallowed) == black_hole
    mss = connection.info()["mss"]
    assert isinstance(mss, int)
    assert mss <= 1000 - 40
    router.close()
