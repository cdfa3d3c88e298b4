"""Several transports as one: which is used when, and what counts as an answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

import pytest

from ztnode.hookspecs import Datagrams, Endpoint, TellsPeersApart
from ztnode.node import fail_over
from ztnode.node.fail_over import (
    AFTER,
    ASK_AFTER,
    DEAF_AFTER,
    DEAF_ASK_AFTER,
    DOWN_AFTER,
    LINGER,
    LOOK_EVERY,
    MAX_TRIAL,
    SILENT_AFTER,
    FailOver,
)

ROOT: Endpoint = ("84.17.53.155", 9993)
STRANGER: Endpoint = ("84.17.53.156", 9993)
NEIGHBOR: Endpoint = ("192.168.1.7", 9993)
PACKET = bytes(24)


class Fake:
    """A transport that brings what it is told to."""

    def __init__(self, *, is_up: bool = True) -> None:
        self.sent = 0
        self.is_open = False
        self.is_up = is_up
        self.refuses = False
        self.counters = {"fake": 1}
        self.receive: Callable[[Datagrams], None] = lambda _datagrams: None

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        if self.refuses:
            raise OSError("no")
        self.receive, self.is_open = receive, True

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        assert self.is_open
        self.sent += len(datagrams)
        return 0

    def local_endpoints(self) -> Sequence[Endpoint]:
        return [("0.0.0.0", 9993)]

    async def close(self) -> None:
        self.is_open = False


class Stage:
    """A FailOver, with time that passes when it is told to."""

    def __init__(self, *fakes: Fake) -> None:
        self.now = 1000.0
        self.fakes = fakes
        self.came: list[Datagrams] = []
        self.others = self.count = self.asked = 0
        self.answered = False
        self.last_answer = self.last_word = float("-inf")
        self.joined = FailOver([(f"way{n}", fake) for n, fake in enumerate(fakes)], clock=lambda: self.now)

    async def open(self) -> None:
        def another() -> None:
            self.others += 1
            assert any(fake.is_open for fake in self.fakes[1:]), "what is sent now goes by it"

        self.joined.on_another = another

        def ask() -> None:
            self.asked += 1

        self.joined.answers = lambda: self.count
        self.joined.answered = lambda: self.last_answer
        self.joined.heard = lambda: self.last_word
        self.joined.ask = ask
        await self.joined.open(9993, self.took)

    def answers(self, fake: Fake, endpoint: Endpoint) -> None:
        """By this way a peer answers."""
        self.answered = True
        fake.receive([(PACKET, endpoint)])
        self.answered = False
        if endpoint != NEIGHBOR:
            self.last_answer = self.last_word = self.now

    def took(self, datagrams: Datagrams) -> None:
        self.came.append(datagrams)
        self.count += self.answered

    async def wait(self, seconds: float, *, by: Fake | None = None, at_once: bool = False) -> None:
        """Time passes, and what is due is done, each second; ``by`` this way a root answers all the while. ``at_once``:
        as it is for a process that is stopped."""
        end = self.now + seconds
        while self.now < end:
            self.now = end if at_once else min(self.now + LOOK_EVERY, end)
            if by is not None:
                self.answers(by, ROOT)
            if self.joined._looking is not None:
                self.joined._looking.cancel()
                self.joined._look()
            for _ in range(5):
                await asyncio.sleep(0)


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await check()

    asyncio.run(bounded())


def test_the_next_is_taken_after_a_minute_and_left_when_the_first_answers() -> None:
    async def check() -> None:
        first, second = Fake(), Fake()
        stage = Stage(first, second)
        await stage.open()
        joined = stage.joined
        assert isinstance(joined, TellsPeersApart)
        joined.send(NEIGHBOR, [PACKET])
        await stage.wait(AFTER + 1)
        assert joined.in_use == "way0", "nothing was asked of the internet"
        joined.send(ROOT, [PACKET])
        first.receive([(PACKET, STRANGER)])
        await stage.wait(AFTER + 1)
        assert joined.in_use == "way1" and second.is_open and stage.others == 1
        assert joined.send(ROOT, [PACKET]) == 0
        assert (first.sent, second.sent) == (3, 1), "by the first all the same"
        stage.answers(second, ROOT)
        first.receive([(PACKET, ROOT)])
        joined.send(ROOT, [PACKET])
        assert second.sent == 2, "what comes in is no answer, and may be all that a wall lets pass"
        joined.send(NEIGHBOR, [PACKET])
        stage.answers(first, NEIGHBOR)
        joined.send(ROOT, [PACKET])
        assert (first.sent, second.sent) == (6, 3), "the neighbor is asked and answers straight, which means nothing"
        stage.answers(first, ROOT)
        joined.send(ROOT, [PACKET])
        assert (first.sent, second.sent) == (7, 3)
        assert second.is_open, "peers still send there"
        second.receive([(PACKET, ROOT)])
        assert len(stage.came) == 6
        await stage.wait(LINGER, by=first)
        assert joined.in_use == "way0" and not second.is_open
        await joined.close()
        assert not first.is_open

    run(check)


def test_a_socket_of_the_first_is_the_way_while_the_first_is_in_use() -> None:
    class Lends(Fake):
        def lend(self, _endpoint: Endpoint) -> socket.socket | None:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def leads_to(self, _endpoint: Endpoint) -> bool:
            return True

        def take_back(self, _endpoint: Endpoint) -> None:
            pass

    async def check() -> None:
        first, second = Lends(), Fake()
        stage = Stage(first, second)
        await stage.open()
        lent = stage.joined.lend(ROOT)
        assert lent is not None
        lent.close()
        assert stage.joined.leads_to(ROOT)
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(AFTER + 1)
        assert stage.joined.in_use == "way1"
        assert not stage.joined.leads_to(ROOT), "frames that still left by it would miss the relay"
        assert stage.joined.lend(ROOT) is None
        assert stage.joined.leads_to(NEIGHBOR), "where the relay does not lead"
        await stage.joined.close()

    run(check)


def test_silence_in_which_nothing_was_asked_means_nothing() -> None:
    async def check() -> None:
        stage = Stage(Fake(), Fake())
        await stage.open()
        stage.joined.send(ROOT, [PACKET])
        stage.answers(stage.fakes[0], ROOT)
        await stage.wait(10 * AFTER)
        assert stage.joined.in_use == "way0" and not stage.asked
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(SILENT_AFTER - 0.5)
        assert stage.joined.in_use == "way0"
        await stage.wait(1)
        assert stage.joined.in_use == "way1"
        await stage.joined.close()

    run(check)


def test_what_never_worked_is_given_a_minute() -> None:
    async def check() -> None:
        stage = Stage(Fake(), Fake())
        await stage.open()
        stage.joined.send(ROOT, [PACKET])
        stage.fakes[0].receive([(PACKET, ROOT)])  # forged, for VL1 knows nothing of it
        await stage.wait(AFTER - 1)
        assert stage.joined.in_use == "way0" and not stage.asked
        await stage.wait(2)
        assert stage.joined.in_use == "way1"
        await stage.joined.close()

    run(check)


async def working() -> Stage:
    """UDP has worked, and something was sent by it just now."""
    stage = Stage(Fake(), Fake())
    await stage.open()
    stage.joined.send(ROOT, [PACKET])
    stage.answers(stage.fakes[0], ROOT)
    await stage.wait(1)
    stage.joined.send(ROOT, [PACKET])
    return stage


def test_the_roots_are_asked_before_the_next_is_taken() -> None:
    async def check() -> None:
        stage = await working()
        for second in range(1, int(SILENT_AFTER) + 1):
            await stage.wait(1)
            assert stage.asked == max(0, second - ASK_AFTER), "at each look, and no oftener"
            stage.joined.send(ROOT, [PACKET])
            stage.fakes[0].receive([(PACKET, ROOT)])  # whoever forges this keeps nothing alive
        assert stage.joined.in_use == "way0"
        await stage.wait(1)
        assert stage.joined.in_use == "way1"
        await stage.joined.close()

    run(check)


@pytest.mark.parametrize("moment", [3, 4])
def test_a_root_that_answers_shows_that_only_a_peer_is_gone(moment: int) -> None:
    async def check() -> None:
        stage = await working()
        for second in range(40):
            await stage.wait(1)
            stage.joined.send(STRANGER, [PACKET])
            if second % (moment + 1) == moment:
                stage.answers(stage.fakes[0], ROOT)
            assert stage.joined.in_use == "way0" and not stage.others
        assert stage.asked < 40
        await stage.joined.close()

    run(check)


def test_who_is_heard_and_answers_nothing_does_not_hear_us() -> None:
    async def check() -> None:
        stage = await working()
        for _ in range(int(DEAF_AFTER)):
            stage.last_word = stage.now
            await stage.wait(1)
            stage.joined.send(ROOT, [PACKET])
        assert stage.joined.in_use == "way0" and stage.asked == DEAF_AFTER - DEAF_ASK_AFTER
        stage.last_word = stage.now
        await stage.wait(1)
        assert stage.joined.in_use == "way1"
        await stage.joined.close()

    run(check)


def test_udp_that_works_for_a_moment_only_is_not_gone_back_to() -> None:
    async def check() -> None:
        stage = await working()
        first, second = stage.fakes

        async def sent_by_both() -> bool:
            before = second.sent
            stage.joined.send(ROOT, [PACKET])
            return second.sent > before

        await stage.wait(SILENT_AFTER + 1)
        assert stage.joined.in_use == "way1"
        stage.answers(second, ROOT)
        stage.joined.send(ROOT, [PACKET])
        stage.answers(first, ROOT)
        await stage.wait(1)
        assert not await sent_by_both()
        await stage.wait(SILENT_AFTER + 0.5, by=second)
        assert await sent_by_both(), "what comes by the relay says nothing about UDP"
        await stage.wait(LINGER + 1, by=second)
        assert stage.joined.in_use == "way1" and second.is_open
        await stage.wait(LINGER - 2, by=first)
        assert await sent_by_both(), "until it has brought answers for a while"
        await stage.wait(SILENT_AFTER + 1)
        await stage.wait(LINGER + 2, by=first)
        assert not await sent_by_both() and second.is_open
        await stage.wait(LINGER, by=first)
        assert stage.joined.in_use == "way0" and not second.is_open
        await stage.wait(1)
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(SILENT_AFTER + 2)
        assert stage.joined.in_use == "way1", "what has worked is given up soon, again"
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(LINGER + 2, by=first)
        assert await sent_by_both()
        await stage.wait(LINGER + 2, by=first)
        assert stage.joined.in_use == "way1" and not await sent_by_both()
        await stage.wait(LINGER + MAX_TRIAL + 1, by=first)
        assert stage.joined.in_use == "way0"
        await stage.wait(1)
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(SILENT_AFTER + 2)
        stage.answers(first, ROOT)
        assert stage.joined.in_use == "way1" and not await sent_by_both(), "it had worked for long"
        await stage.joined.close()

    run(check)


def test_time_in_which_the_process_did_not_run_is_no_silence() -> None:
    async def check() -> None:
        stage = await working()
        await stage.wait(30, at_once=True)
        await stage.wait(SILENT_AFTER - 1)
        assert stage.joined.in_use == "way0" and stage.asked
        await stage.wait(2)
        assert stage.joined.in_use == "way1"
        stage.joined.send(ROOT, [PACKET])
        stage.answers(stage.fakes[0], ROOT)
        await stage.wait(30, at_once=True)
        assert stage.joined.in_use == "way1", "nobody knows if UDP worked meanwhile"
        await stage.wait(LINGER, by=stage.fakes[0])
        assert stage.joined.in_use == "way0"
        await stage.joined.close()

    run(check)


def test_what_says_that_it_is_down_is_passed_over_soon() -> None:
    async def check() -> None:
        first, second, third = Fake(), Fake(is_up=False), Fake()
        third.refuses = True
        stage = Stage(first, second, third)
        await stage.open()
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(AFTER + 1)
        stage.joined.send(ROOT, [PACKET])
        await stage.wait(DOWN_AFTER + 1)
        assert stage.joined.in_use == "way2" and not third.is_open
        stage.joined.send(ROOT, [PACKET])
        third.refuses = False
        await stage.wait(1)
        assert third.is_open, "tried again"
        stage.answers(third, ROOT)
        await stage.wait(LINGER + 1, by=second)
        assert stage.joined.in_use == "way1" and second.is_open and not third.is_open
        assert stage.joined.counters == {"fake": 1}
        await stage.joined.close()

    run(check)


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fail_over, "MAX_ASKED", 16)

    async def check() -> None:
        stage = Stage(Fake())
        await stage.open()
        for number in range(100):
            stage.joined.send((f"84.17.53.{number}", 9993), [PACKET])
        assert len(stage.joined._asked) <= 16
        await stage.joined.close()

    run(check)
