"""Clients that a proxy lends: their requests go to the connection's server, and they come back for another."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.worker.test_adoption import Bench, open_descriptors, tcp
from tests.unit.worker.worker_fakes import FakeConnection
from ztnode.proxy.answers import MAX_OWED
from ztnode.worker.handoff_server import JOINED
from ztnode.worker.loan import ARE_THEY_THERE, Loan, Return, build_loan, channel, parse_return, split
from ztnode.worker.request_splice import LEAVE_SECONDS

FIRST = b"GET http://one/a HTTP/1.1\r\nHost: x\r\n\r\n"
AS_SENT = b"GET /a HTTP/1.1\r\nHost: one\r\nVia: 1.1 ztnode\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OTHER = b"GET http://two/b HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Lent:
    bench: Bench
    server: FakeConnection
    client: socket.socket
    proxy: socket.socket

    def say(self, data: bytes) -> None:
        self.client.sendall(data)
        self.bench.turn()

    def answer(self, data: bytes = b"", *, end: bool = False) -> None:
        if data:
            self.server.arrive(data)
        if end:
            self.server.arrive_fin()
        for splice in list(self.bench.live):
            splice.on_ready()

    def returned(self) -> Return | None:
        data, descriptors, _, _ = socket.recv_fds(self.proxy, 1 << 20, 1)
        for descriptor in descriptors:
            os.close(descriptor)
        message = split(data)
        assert (message is None) == (not descriptors)
        return None if message is None else parse_return(message)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "worker-0.sock"))
    yield made
    made.server.close()
    made.pairs.close()


def lend(bench: Bench, data: bytes = FIRST, credentials: tuple[str, str] | None = None) -> Lent:
    server, token = bench.park()
    accepted, client = tcp()
    proxy, way_back = channel()
    with accepted, way_back:
        proxy.send(build_loan(Loan("one", 80, credentials, data)))
        assert bench.bring(token, accepted.fileno(), way_back.fileno()) == JOINED
    return Lent(bench, server, client, proxy)


def test_requests_are_made_ready_for_the_server_and_answers_pass(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        assert lent.server.sent == AS_SENT
        lent.answer(ANSWER)
        assert lent.client.recv(100) == ANSWER
        lent.say(b"POST http://one/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")
        lent.say(b"+half" + FIRST[:10])
        lent.say(FIRST[10:])
        post = b"POST / HTTP/1.1\r\nHost: one\r\nContent-Length: 9\r\nVia: 1.1 ztnode\r\n\r\nhalf+half"
        assert lent.server.sent == AS_SENT + post + AS_SENT
        lent.client.shutdown(socket.SHUT_WR)
        bench.turn()
        assert lent.server.shut
        lent.answer(ANSWER * 2, end=True)
        assert lent.client.recv(100) == ANSWER * 2
        assert lent.client.recv(100) == b""
        assert not bench.live
        assert lent.returned() is None


@pytest.mark.parametrize("bad", [OTHER, b"GET / HTTP/1.1\r\n\r\n"], ids=["for another", "for nobody"])
def test_a_client_that_asks_another_comes_back_after_the_last_answer(bench: Bench, bad: bytes) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.say(FIRST + bad + b"and more")
        assert lent.server.sent == AS_SENT * 2
        lent.answer(ANSWER + ANSWER[:-1])
        with pytest.raises(BlockingIOError):
            lent.returned()
        lent.answer(ANSWER[-1:] + b"HTTP/1.1 200 A lie about two\r\n\r\n")
        assert lent.client.recv(1000) == ANSWER * 2
        assert lent.returned() == Return(False, bad + b"and more")
        assert lent.server.closed_by_owner
        assert not bench.live


def test_nonsense_within_a_request_is_answered_and_nothing_after_it_is_read(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.say(b"POST http://one/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n" + OTHER)
        lent.answer(end=True)
        returned = lent.returned()
        assert returned is not None
        assert returned.last
        assert returned.data.startswith(b"HTTP/1.1 400 ")


def test_each_request_shows_the_password(bench: Bench) -> None:
    shown = FIRST[:-2] + b"Proxy-Authorization: Basic YW5uOng=\r\n\r\n"
    lent = lend(bench, shown, ("ann", "x"))
    with lent.client, lent.proxy:
        assert lent.server.sent == AS_SENT
        lent.say(FIRST)
        lent.answer(ANSWER)
        assert lent.returned() == Return(False, FIRST)


def test_a_server_that_does_not_end_keeps_nobody(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.say(b"POST http://one/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n")
        (splice,) = bench.draining
        splice.handle_timer(bench.now + LEAVE_SECONDS - 1)
        assert bench.live
        splice.handle_timer(bench.now + LEAVE_SECONDS)
        returned = lent.returned()
        assert returned is not None
        assert returned.last


def test_what_nobody_asked_for_ends_the_connection(bench: Bench) -> None:
    """The client, which may be about to ask another, would take it for an answer of that one."""
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.answer(ANSWER + b"HTTP/1.1 200 A lie about two\r\n\r\n")
        assert not bench.live
        assert lent.client.recv(1000) == ANSWER
        assert lent.client.recv(1000) == b""
        assert lent.returned() is None


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\nto the end", ANSWER[:-1], b""])
def test_nobody_comes_back_from_half_an_answer_or_one_that_the_end_ends(bench: Bench, answer: bytes) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.say(OTHER)
        lent.answer(answer, end=True)
        assert lent.client.recv(1000) == answer
        assert lent.client.recv(1000) == b""
        assert lent.returned() is None


def test_who_asks_far_ahead_waits_for_answers(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.say(FIRST * (MAX_OWED + 1))
        sent = len(lent.server.sent)
        lent.say(FIRST)
        assert len(lent.server.sent) == sent
        lent.answer(ANSWER * 2)
        bench.turn()
        assert len(lent.server.sent) == sent + len(AS_SENT)


def test_who_asks_the_same_again_and_again_without_waiting_waits_for_answers(bench: Bench) -> None:
    """One request at a time: each is passed on as the one before it, and counted none the less."""
    lent = lend(bench)
    with lent.client, lent.proxy:
        for _ in range(MAX_OWED + 3):
            lent.client.sendall(FIRST)
            bench.turn(1)
        assert lent.server.sent == AS_SENT * (MAX_OWED + 1)
        lent.answer(ANSWER * 2)
        assert lent.client.recv(1000) == ANSWER * 2
        bench.turn()
        assert lent.server.sent == AS_SENT * (MAX_OWED + 4)


def test_after_the_same_request_again_another_target_is_seen(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        lent.say(FIRST)
        lent.say(FIRST)
        lent.say(OTHER)
        assert lent.server.sent == AS_SENT * 3
        for _ in range(3):
            lent.answer(ANSWER)
        assert lent.client.recv(1000) == ANSWER * 3
        assert lent.returned() == Return(False, OTHER)


def test_who_neither_asks_nor_reads_is_let_go(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client, lent.proxy:
        for _ in range(2):
            lent.proxy.send(ARE_THEY_THERE)
            bench.turn()
            assert bench.live
            lent.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in range(2):
            lent.proxy.send(ARE_THEY_THERE)
            bench.turn()
        assert not bench.live
        assert lent.client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n" * 2
        assert lent.client.recv(100) == b""


def test_without_its_proxy_a_client_is_served_until_it_asks_another(bench: Bench) -> None:
    lent = lend(bench)
    with lent.client:
        lent.proxy.close()
        bench.turn()
        lent.say(FIRST)
        assert lent.server.sent == AS_SENT * 2
        lent.say(OTHER)
        lent.answer(ANSWER * 2)
        assert lent.client.recv(100) == ANSWER * 2
        assert lent.client.recv(100) == b""


@pytest.mark.parametrize(
    "message", [b"", b"\0\0\0\1", b"\0\0\0\2{}", b"\0\0\0\1{", b"\xff\xff\xff\xff", b"\0\0\0\4[[[["]
)
def test_what_is_no_loan_is_refused_and_nothing_stays_open(bench: Bench, message: bytes) -> None:
    before = open_descriptors()
    connection, token = bench.park()
    accepted, client = tcp()
    proxy, way_back = channel()
    with accepted, client, proxy, way_back:
        proxy.send(message)
        assert bench.bring(token, accepted.fileno(), way_back.fileno()) == b""
    assert connection.aborted
    assert not bench.live
    assert open_descriptors() <= before
