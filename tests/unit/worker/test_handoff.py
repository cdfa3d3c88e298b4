"""The hand-off socket: who gets what, once, in time, and what the loopback pair is worth."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from tests.unit.worker.worker_fakes import FakeConnection, FakeDial, FakeHost
from ztnode.netstack.udp import UdpSocket
from ztnode.worker import tcp_pair
from ztnode.worker.control_requests import ParkedConnection
from ztnode.worker.handoff_server import (
    ASK,
    CLIENT_SECONDS,
    EXHAUSTED,
    MAX_ASKED,
    MAX_CLIENTS,
    OFFER_SECONDS,
    REQUEST,
    Answer,
    HandoffServer,
)
from ztnode.worker.moderation import PERIOD
from ztnode.worker.tcp_pair import finish_on_close, make_pair
from ztnode.worker.udp_pairs import BATCH, BUSY_WINDOW, DatagramRelay


class Bench(FakeHost):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.asked: list[FakeDial] = []
        self.told: list[str] = []
        self.server = HandoffServer(path, self.poller, lambda: self.now, self.told.append, self.ask)

    def ask(self, request: bytes, answer: Answer) -> FakeDial:
        if not request[0]:
            raise ValueError("no request")
        self.asked.append(FakeDial(request, answer))
        return self.asked[-1]

    def connect(self, token: bytes = b"") -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(30)
        client.connect(self.path)
        if token:
            client.sendall(token)
        self.turn()
        return client


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "worker-0.sock"))
    yield made
    made.server.close()


def fetch(client: socket.socket) -> socket.socket | None:
    data, fds, _, _ = socket.recv_fds(client, 1, 1)
    client.close()
    if not fds:
        assert data == b""
        return None
    assert data == b"\0"
    return socket.socket(fileno=fds[0])


def park(bench: Bench) -> tuple[FakeConnection, bytes]:
    connection = FakeConnection()
    return connection, bench.server.offer(ParkedConnection(bench, connection.overlay))


def test_token_fetches_a_connected_socket(bench: Bench) -> None:
    connection, token = park(bench)
    connection.arrive(b"came before the client did")
    client = fetch(bench.connect(token))
    assert client is not None
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert client.getpeername()[0] == "127.0.0.1"
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert client.recv(100) == b"came before the client did"
    client.sendall(b"up")
    bench.turn()
    assert connection.sent == b"up"
    assert bench.server.counters["handoffs"] == 1
    client.close()


def test_token_works_once(bench: Bench) -> None:
    _, token = park(bench)
    first = fetch(bench.connect(token))
    assert first is not None
    assert fetch(bench.connect(token)) is None
    assert bench.server.counters["handoff_refused"] == 1
    first.close()


def test_wrong_token_gets_nothing(bench: Bench) -> None:
    connection, token = park(bench)
    assert fetch(bench.connect(os.urandom(16))) is None
    assert not connection.aborted
    client = fetch(bench.connect(token))
    assert client is not None
    client.close()


def test_token_may_come_in_pieces(bench: Bench) -> None:
    _, token = park(bench)
    client = bench.connect(token[:5])
    bench.turn()
    client.sendall(token[5:])
    bench.turn()
    fetched = fetch(client)
    assert fetched is not None
    fetched.close()


def test_renewed_offer_waits_as_long_again_and_a_withdrawn_one_not_at_all(bench: Bench) -> None:
    connection, token = park(bench)
    other, second = park(bench)
    bench.now += OFFER_SECONDS - 1
    bench.server.renew(token)
    bench.server.renew(bytes(16))
    bench.now += 1
    bench.server.handle_timer(bench.now)
    assert other.aborted
    assert not connection.aborted
    assert bench.server.next_timer() == bench.now + OFFER_SECONDS - 1
    bench.server.withdraw(token)
    bench.server.withdraw(second)
    assert connection.aborted
    assert fetch(bench.connect(token)) is None


def test_lack_of_descriptors_is_waited_out_quietly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = park(bench)

    class Exhausted:
        def __init__(self, listener: socket.socket) -> None:
            self.fileno = listener.fileno
            self.close = listener.close

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    listener = bench.server._listener
    monkeypatch.setattr(bench.server, "_listener", Exhausted(listener))
    client = bench.connect(token)
    assert bench.turn(20) == 0, "it is not reported again and again"
    monkeypatch.setattr(bench.server, "_listener", listener)
    due = bench.server.next_timer()
    assert due is not None
    assert due < bench.now + 1
    bench.now = due
    bench.server.handle_timer(due)
    bench.turn()
    fetched = fetch(client)
    assert fetched is not None
    fetched.close()


def test_unfetched_connection_is_reset_in_time(bench: Bench) -> None:
    connection, token = park(bench)
    assert bench.server.next_timer() == bench.now + OFFER_SECONDS
    bench.now += OFFER_SECONDS - 1
    bench.server.handle_timer(bench.now)
    assert not connection.aborted
    bench.now += 1
    bench.server.handle_timer(bench.now)
    assert connection.aborted
    assert fetch(bench.connect(token)) is None
    assert bench.server.next_timer() is None


def test_reset_before_the_fetch_reaches_the_client(bench: Bench) -> None:
    connection, token = park(bench)
    connection.arrive(b"last words")
    connection.error = ConnectionResetError()
    client = fetch(bench.connect(token))
    assert client is not None
    assert client.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    client.close()


def test_client_that_sends_no_token_is_dropped(bench: Bench) -> None:
    client = bench.connect()
    bench.now += CLIENT_SECONDS
    bench.server.handle_timer(bench.now)
    assert client.recv(1) == b""
    client.close()


def test_a_crowd_of_silent_clients_is_bounded_and_does_not_spin(bench: Bench) -> None:
    crowd = []
    for _ in range(MAX_CLIENTS + 20):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.setblocking(False)
        client.connect(bench.path)
        crowd.append(client)
        bench.turn(1)
    assert len(bench.server._clients) == MAX_CLIENTS
    assert bench.turn() == 0
    _, token = park(bench)
    bench.now += CLIENT_SECONDS
    bench.server.handle_timer(bench.now)
    bench.turn(20)
    fetched = fetch(bench.connect(token))
    assert fetched is not None
    fetched.close()
    for client in crowd:
        client.close()
    bench.turn()
    assert not bench.server._clients


def test_client_that_vanishes_in_the_middle_leaves_no_half_open_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise BrokenPipeError

    connection, token = park(bench)
    monkeypatch.setattr("socket.socket.sendmsg", fail)
    assert fetch(bench.connect(token)) is None
    bench.turn()
    assert connection.aborted
    assert not bench.live


def test_no_descriptors_left_is_told_and_ends_the_offer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_buffer: int, _count: int) -> None:
        raise OSError(24, "Too many open files")

    bench.pairs.close()
    monkeypatch.setattr("ztnode.worker.tcp_pair.make_pairs", fail)
    for _ in range(3):
        connection, token = park(bench)
        with bench.connect(token) as client:
            assert client.recv(2) == EXHAUSTED
        assert connection.aborted
    assert len(bench.told) == 1 and "no file descriptors" in bench.told[0]


def test_socket_is_for_its_owner_alone(bench: Bench) -> None:
    assert stat.S_IMODE(Path(bench.path).stat().st_mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user for a moment")
def test_another_user_gets_nothing_even_past_the_mode(bench: Bench) -> None:
    _, token = park(bench)
    path = Path(bench.path)
    for each in (path.parent, path):
        each.chmod(0o777)  # as if the file system did not enforce it
    # From within, or what is above would have to be opened too, which is not ours alone.
    script = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[2])\n"
        "try:\n"
        "    s.sendall(bytes.fromhex(sys.argv[3]))\n"
        "    print(socket.recv_fds(s, 1, 1)[:2])\n"
        "except OSError: print('refused')\n"
    )
    command = [sys.executable, "-c", script, str(path.parent), path.name, token.hex()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 10
    while child.poll() is None and time.monotonic() < deadline:
        bench.turn()
    output, _ = child.communicate()
    assert output.decode().strip() in ("(b'', [])", "refused")
    assert bench.server.counters["handoff_refused"] == 1


def test_pair_resets_unless_told_to_finish() -> None:
    ours, client = make_pair()
    ours.send(b"data")
    ours.close()
    assert client.recv(10) == b"data"
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    client.close()
    ours, client = make_pair()
    ours.send(b"data")
    finish_on_close(ours)
    ours.close()
    assert client.recv(10) == b"data"
    assert client.recv(10) == b""
    client.close()


def test_client_that_dies_before_its_socket_comes(bench: Bench) -> None:
    """Between token and descriptor: nobody ever was there, so the peer is reset."""
    connection, token = park(bench)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(bench.path)
    client.sendall(token)
    client.close()
    bench.turn()
    assert connection.aborted
    assert not bench.live
    assert bench.server.counters["handoff_failed"] == 1


@pytest.mark.parametrize("unread", [b"", b"data that nobody will read"])
def test_client_that_dies_with_its_socket_on_the_way(bench: Bench, unread: bytes) -> None:
    """The kernel closes what was on the way: as with any process that ends, a FIN, or a reset with data unread."""
    connection, token = park(bench)
    connection.arrive(unread)
    bench.connect(token).close()
    bench.turn()
    assert bench.server.counters["handoffs"] == 1
    assert connection.aborted == bool(unread)
    assert connection.shut != bool(unread)
    connection.arrive(b"more")
    for splice in list(bench.live):
        splice.on_ready()
    bench.turn()
    assert connection.aborted
    assert not bench.live


def test_killed_process_resets_its_pairs() -> None:
    script = (
        "import socket, sys, time\n"
        "from ztnode.worker.tcp_pair import make_pair\n"
        "s = socket.socket(fileno=0); ours, client = make_pair(); ours.send(b'some')\n"
        "socket.send_fds(s, [b'x'], [client.fileno()]); client.close(); time.sleep(60)\n"
    )
    parent, child_end = socket.socketpair()
    child = subprocess.Popen([sys.executable, "-c", script], stdin=child_end.fileno())
    child_end.close()
    _, fds, _, _ = socket.recv_fds(parent, 1, 1)
    client = socket.socket(fileno=fds[0])
    child.kill()
    child.wait()
    assert client.recv(10) == b"some"
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    client.close()
    parent.close()


def test_strangers_on_the_loopback_port_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = []
    own_accept = tcp_pair._accept_own

    def crowded(listener: socket.socket, client: socket.socket) -> socket.socket:
        return own_accept(listener, client)

    original_connect = socket.socket.connect

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        stranger = socket.socket()
        original_connect(stranger, address)
        strangers.append(stranger)
        original_connect(self, address)

    monkeypatch.setattr(tcp_pair, "_accept_own", crowded)
    monkeypatch.setattr(socket.socket, "connect", connect)
    ours, client = make_pair()
    monkeypatch.undo()
    client.sendall(b"mine")
    ours.setblocking(True)
    assert ours.recv(10) == b"mine"
    strangers[0].settimeout(30)
    with pytest.raises(ConnectionResetError):
        strangers[0].recv(1)
    for sock in (ours, client, *strangers):
        sock.close()


class FakeUdp:
    """What ``DatagramRelay`` uses of a ``UdpSocket``."""

    def __init__(self) -> None:
        self.owner: object = None
        self.local = ("10.0.0.1", 5353)
        self.closed = False
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.queue: list[tuple[bytes, tuple[str, int]]] = []
        self.failures: list[tuple[OSError, tuple[str, int]]] = []

    def errors(self) -> list[tuple[OSError, tuple[str, int]]]:
        taken, self.failures = self.failures, []
        return taken

    def take(self, limit: int) -> list[tuple[bytes, bytes, int]]:
        taken, self.queue = self.queue[:limit], self.queue[limit:]
        return [(data, ip_address(host).packed, port) for data, (host, port) in taken]

    def send_many(self, payloads: Sequence[bytes], remote: bytes, port: int, now: float) -> bool:
        if len(payloads) == 2:
            return False  # for whatever reason: then each goes alone
        for data in payloads:
            self.sendto_packed(data, remote, port, now)
        return True

    def sendto_packed(self, data: bytes, remote: bytes, port: int, _now: float) -> None:
        if port == 0:
            raise OSError(22, "Invalid argument")
        self.sent.append((data, (str(ip_address(remote)), port)))

    def close(self) -> None:
        self.closed = True


def test_datagrams_keep_their_boundaries_and_addresses(bench: Bench) -> None:
    udp = FakeUdp()
    relay = DatagramRelay(cast(UdpSocket, udp), bench)
    udp.queue = [(b"one", ("10.0.0.2", 53)), (b"", ("fd00::2", 5300))]
    udp.failures = [(ConnectionRefusedError(111, "refused"), ("10.0.0.3", 9))]
    client = fetch(bench.connect(bench.server.offer(relay)))
    assert client is not None
    assert client.recv(100) == b"\x01\x04\x00\x09\x0a\x00\x00\x03" + struct.pack("!I", 111)
    assert client.recv(100) == b"\x00\x04\x00\x35\x0a\x00\x00\x02one"
    assert client.recv(100) == b"\x00\x10\x14\xb4" + bytes.fromhex("fd00" + "00" * 13 + "02")
    client.send(b"\x00\x04\x00\x35\x0a\x00\x00\x02question")
    client.send(b"\x00\x04\x00\x00\x0a\x00\x00\x02unsendable")
    for bad in (
        b"\x00",
        b"\x00\x05\x00\x35\x0a\x00\x00\x02x",
        b"\x07\x04\x00\x35\x0a\x00\x00\x02",
        b"\x00\x10\x00\x35",
    ):
        client.send(bad)
    bench.turn()
    assert udp.sent == [(b"question", ("10.0.0.2", 53))]
    assert bench.counters == {"udp_bad_record": 4, "udp_unsendable": 1}
    client.close()
    bench.turn()
    assert udp.closed


def test_datagrams_wait_for_a_slow_client(bench: Bench) -> None:
    udp = FakeUdp()
    relay = DatagramRelay(cast(UdpSocket, udp), bench)
    client = fetch(bench.connect(bench.server.offer(relay)))
    assert client is not None
    total = 800
    udp.queue = [(n.to_bytes(4, "big") * 200, ("10.0.0.2", 53)) for n in range(total)]
    relay.on_ready()
    assert udp.queue, "the kernel's buffer is smaller than this"
    assert bench.turn() == 0
    for n in range(total):
        assert client.recv(2000)[8:12] == n.to_bytes(4, "big")
        if udp.queue and n % 8 == 0:
            bench.turn(1)
    client.close()
    bench.turn()


class BusyClient:
    """A client of a relay whose clock the test turns."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.udp = FakeUdp()
        self.relay = DatagramRelay(cast(UdpSocket, self.udp), bench)
        client = fetch(bench.connect(bench.server.offer(self.relay)))
        assert client is not None
        client.setblocking(False)
        self.sock = client
        self.count = 0

    def send(self, count: int) -> int:
        """As many as there is room for; how many."""
        for sent in range(count):
            try:
                self.sock.send(b"\x00\x04\x00\x35\x0a\x00\x00\x02%d" % self.count)
            except BlockingIOError:
                return sent
            self.count += 1
        return count

    def pass_time(self, seconds: float) -> None:
        """With a round of the loop at its end."""
        self.bench.now += seconds
        due = self.bench.moderation.next_timer()
        if due is not None and due <= self.bench.now:
            self.bench.moderation.handle_timer(self.bench.now)

    def all_sent(self) -> bool:
        return self.udp.sent == [(b"%d" % number, ("10.0.0.2", 53)) for number in range(self.count)]


def test_a_client_of_many_datagrams_is_looked_at_once_in_a_while(bench: Bench) -> None:
    busy = BusyClient(bench)
    for _ in range(2):
        busy.send(BATCH - 4)
        bench.now += 1.5 * BUSY_WINDOW
        assert bench.turn(1), "it is waited for"
    busy.send(1)
    assert not bench.turn(), "the first of many more wakes nobody"
    busy.send(40)
    busy.pass_time(PERIOD)
    assert busy.all_sent()
    busy.send(BATCH + 1)
    busy.pass_time(PERIOD)
    assert not busy.all_sent()
    busy.pass_time(0.0)
    assert busy.all_sent(), "what is more than a batch has its turn at once"
    for _ in range(2):
        busy.pass_time(2 * BUSY_WINDOW)
    busy.send(1)
    assert bench.turn(1) and busy.all_sent(), "who sends little is waited for again"
    busy.sock.close()
    bench.turn()
    assert busy.udp.closed and bench.moderation.next_timer() is None


def test_a_client_waits_while_the_node_does_not_keep_up(bench: Bench) -> None:
    busy = BusyClient(bench)
    bench.congested = True
    taken = busy.send(100_000)
    assert 0 < taken < 100_000
    bench.turn()
    assert not bench.turn(), "nor does the loop spin"
    busy.pass_time(PERIOD)
    assert not busy.udp.sent and not busy.send(1), "its send blocks"
    bench.congested = False
    for _ in range(taken // BATCH + 1):
        busy.pass_time(PERIOD)
        bench.turn(1)
    assert len(busy.udp.sent) == taken and busy.all_sent()
    bench.congested = True
    busy.send(3)
    busy.sock.close()
    bench.turn()
    assert busy.all_sent() and busy.udp.closed, "what it said before its end is said"


def test_unfetched_udp_socket_is_closed(bench: Bench) -> None:
    udp = FakeUdp()
    bench.server.offer(DatagramRelay(cast(UdpSocket, udp), bench))
    bench.now += OFFER_SECONDS
    bench.server.handle_timer(bench.now)
    assert udp.closed


def test_a_pair_made_ahead_is_given_once_and_closed_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = tcp_pair.PairStock()
    made: list[tuple[socket.socket, socket.socket]] = []

    original = tcp_pair.make_pairs

    def counted(_buffer: int, count: int) -> list[tuple[socket.socket, socket.socket]]:
        made.extend(original(tcp_pair.BUFFER_BYTES, count))
        return made[-count:]

    monkeypatch.setattr(tcp_pair, "make_pairs", counted)
    assert not stock.due
    stock.refill()
    assert not made, "one is enough"
    ours, client = stock.take(100.0)
    assert not made
    assert stock.due == 100.0 + tcp_pair.REFILL_SECONDS
    client.sendall(b"up")
    ours.setblocking(True)
    assert ours.recv(10) == b"up"
    assert stock.take(100.0) is made[0]
    taken = {made[0], stock.take(100.0), stock.take(100.0)}
    assert taken == {*made} and len(made) == 3, "the more are wanted at once, the more are made at once"
    stock.refill()
    assert not stock.due and len(made) == 4
    stock.close()
    assert [end.fileno() for end in made[3]] == [-1, -1]
    for end in (ours, client, *(end for pair in taken for end in pair)):
        end.close()


def test_a_pair_that_cannot_be_made_ahead_is_missed_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_buffer: int, _count: int) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(tcp_pair, "make_pairs", fail)
        stock = tcp_pair.PairStock()
        with pytest.raises(OSError, match="Too many"):
            stock.take(100.0)
    for end in stock.take(100.0):
        end.close()


def test_connection_that_cannot_be_joined_is_reset_at_both_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poller is full: the client has its socket by then, and is to see a reset, not an end."""
    connection, token = park(bench)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(bench.path)
    client.sendall(token)

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bench.poller, "register", full)
        bench.turn()
    assert connection.aborted
    assert not bench.live
    assert bench.server.counters["handoff_failed"] == 1
    fetched = fetch(client)
    assert fetched is not None
    with pytest.raises(ConnectionResetError):
        fetched.recv(1)
    fetched.close()


REQUESTED = b"\4" + bytes(range(1, REQUEST.size))


@pytest.mark.parametrize("parts", [1, 4])
def test_who_asks_for_a_connection_gets_it_as_soon_as_it_stands(bench: Bench, parts: int) -> None:
    message = ASK + REQUESTED
    step = -(-len(message) // parts)
    client = bench.connect(message[:step])
    for start in range(step, len(message), step):
        client.sendall(message[start : start + step])
        bench.turn()
    bench.now += 10 * CLIENT_SECONDS
    bench.server.handle_timer(bench.now)
    (asked,) = bench.asked
    assert asked.request == REQUESTED
    connection = FakeConnection()
    asked.answer(ParkedConnection(bench, connection.overlay), b"10.0.0.1 40000")
    data, fds, _, _ = socket.recv_fds(client, 100, 1)
    assert data == b"\x0010.0.0.1 40000"
    with client, socket.socket(fileno=fds[0]) as fetched:
        fetched.sendall(b"up")
        bench.turn()
        assert connection.sent == b"up"
    bench.turn()
    assert bench.server.counters == {"handoffs": 1, "handoff_refused": 0, "handoff_failed": 0, "handoff_expired": 0}
    assert bench.server.next_timer() is None and not asked.cancelled and not bench.server._idle


def test_who_has_the_answer_may_ask_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztnode.worker.handoff_server.MAX_IDLE", 2)
    clients = [bench.connect(ASK + REQUESTED) for _ in range(3)]
    for turn in range(2):
        for asked, client in zip(bench.asked[-len(clients) :], clients, strict=True):
            asked.answer(ParkedConnection(bench, FakeConnection().overlay), b"word")
            data, fds, _, _ = socket.recv_fds(client, 100, 1)
            assert data == b"\0word"
            os.close(fds[0])
        if not turn:
            assert clients.pop(0).recv(1) == b"", "so many are not kept"
            for client in clients:
                client.sendall(ASK + REQUESTED)
            bench.turn()
            assert len(bench.asked) == 5
    token = park(bench)[1]
    clients[0].sendall(token)  # this is for another place
    bench.turn()
    assert clients[0].recv(1) == b""
    clients[1].sendall(ASK + REQUESTED)
    bench.turn()
    bench.asked[-1].answer(None, b"")
    assert clients[1].recv(1) == b"" and not bench.server._idle
    assert bench.turn() == 0


def test_who_asks_in_vain_is_sent_away(bench: Bench) -> None:
    client = bench.connect(ASK + REQUESTED)
    bench.asked[0].answer(None, b"")
    assert fetch(client) is None
    for bad in (b"\0" * REQUEST.size, b""):  # what cannot be asked for, and half a request
        client = bench.connect(ASK + bad)
        client.shutdown(socket.SHUT_WR)
        bench.turn()
        assert fetch(client) is None
    assert bench.server.counters["handoff_refused"] == 2 and len(bench.asked) == 1
    client = bench.connect(ASK + REQUESTED[:-1])
    bench.now += CLIENT_SECONDS
    bench.server.handle_timer(bench.now)
    assert fetch(client) is None
    assert bench.turn() == 0


def test_who_asked_and_left_ends_the_dial(bench: Bench) -> None:
    bench.connect(ASK + REQUESTED).close()
    bench.turn()
    assert bench.asked[0].cancelled
    assert bench.turn() == 0
    # Or too late for that: then the connection is reset.
    client = bench.connect(ASK + REQUESTED)
    client.close()
    connection = FakeConnection()
    bench.asked[1].answer(ParkedConnection(bench, connection.overlay), b"")
    assert connection.aborted and not bench.live
    assert bench.server.counters["handoff_failed"] == 1
    assert bench.turn() == 0


def test_those_who_asked_do_not_keep_others_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztnode.worker.handoff_server.MAX_ASKED", MAX_CLIENTS + 19)
    assert MAX_ASKED > MAX_CLIENTS
    crowd = [bench.connect(ASK + REQUESTED) for _ in range(MAX_CLIENTS + 19)]
    assert fetch(bench.connect(ASK + REQUESTED)) is None
    _, token = park(bench)
    fetched = fetch(bench.connect(token))
    assert fetched is not None
    fetched.close()
    bench.server.close()
    for client in crowd:
        assert fetch(client) is None
