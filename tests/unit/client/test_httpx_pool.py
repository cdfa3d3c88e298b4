"""The connections of httpx's AsyncTransport, against a server of asyncio on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("httpx")
import httpcore
import httpx

from ztclient.integrations import httpx_pool
from ztclient.integrations.httpx_connect import Connector
from ztclient.integrations.httpx_http1 import Answer
from ztclient.integrations.httpx_pool import MOST_DIALS, AsyncPool


class Server:
    """Answers with the number of the connection and of the request on it; ``/wait`` when it is let."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.most = 0
        self.go = asyncio.Event()
        self.waiting = asyncio.Semaphore(0)
        self.left = asyncio.Semaphore(0)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        number, requests = self.connections, 0
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                requests += 1
                if head.startswith(b"GET /wait"):
                    self.waiting.release()
                    await self.go.wait()
                body = b"%d.%d" % (number, requests)
                close = b"Connection: close\r\n" if head.startswith(b"GET /last") else b""
                writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (close, len(body), body))
                await writer.drain()
                if close:
                    break
        self.open -= 1
        self.left.release()
        writer.close()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, int]]:
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        server.go.set()
        listening.close()


def pool(**limits: Any) -> AsyncPool:
    known = httpx.Limits(**limits)
    dial = httpcore.AnyIOBackend().connect_tcp
    connector = Connector(dial, ssl_context=ssl.create_default_context(), keepalive=known.keepalive_expiry)
    return AsyncPool(connector, known)


async def get(connections: AsyncPool, port: int, path: str = "/", scheme: str = "http", **timeouts: float) -> str:
    request = httpx.Request("GET", f"{scheme}://127.0.0.1:{port}{path}", extensions={"timeout": timeouts})
    answer = await connections.send(request)
    try:
        return str((await answer.aread()).decode())
    finally:
        await answer.aclose()


def run(test: Callable[[Server, int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving() as (server, port):
            await test(server, port)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_free_connection_is_used_again() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool()
        assert [await get(connections, port) for _ in range(3)] == ["1.1", "1.2", "1.3"]
        await connections.aclose()
        assert await get(connections, port) == "2.1"
        await connections.aclose()

    run(test)


def test_so_many_at_a_time_and_the_others_wait() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=3)
        answers = await asyncio.gather(*(get(connections, port) for _ in range(40)))
        assert len(set(answers)) == 40
        assert server.connections <= 3
        await connections.aclose()

    run(test)


def test_who_waits_too_long_for_a_turn_is_told() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=1)
        first = asyncio.create_task(get(connections, port, "/wait"))
        await server.waiting.acquire()
        with pytest.raises(httpcore.PoolTimeout):
            await get(connections, port, pool=0.05)
        server.go.set()
        assert await first == "1.1"
        assert await get(connections, port, pool=5) == "1.2"
        await connections.aclose()

    run(test)


def test_no_more_are_kept_than_was_asked_for() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=10, max_keepalive_connections=2)
        waiting = [asyncio.create_task(get(connections, port, "/wait")) for _ in range(10)]
        for _ in waiting:
            await server.waiting.acquire()
        server.go.set()
        await asyncio.gather(*waiting)
        for _ in range(8):
            await server.left.acquire()
        assert server.open == 2
        assert server.connections == 10
        await get(connections, port)
        assert server.connections == 10
        await connections.aclose()

    run(test)


def test_what_the_server_closed_is_not_used_again() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool()
        assert await get(connections, port, "/last") == "1.1"
        assert await get(connections, port) == "2.1"
        await connections.aclose()

    run(test)


def test_a_request_that_is_given_up_gives_its_turn_back() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=1)
        for _ in range(3):
            given_up = asyncio.create_task(get(connections, port, "/wait"))
            await server.waiting.acquire()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        assert await get(connections, port, pool=5) == "4.1"
        with pytest.raises(httpcore.ConnectError):
            await get(connections, 1, pool=5)
        assert await get(connections, port, pool=5)
        await connections.aclose()

    run(test)


def test_one_that_has_waited_too_long_is_not_used_again() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(keepalive_expiry=0.01)
        assert await get(connections, port) == "1.1"
        await asyncio.sleep(0.05)
        assert await get(connections, port) == "2.1"
        await connections.aclose()

    run(test)


def test_a_connection_to_another_origin_makes_room() -> None:
    async def test(server: Server, port: int) -> None:
        async with serving() as (other, elsewhere):
            connections = pool(max_connections=1)
            for _ in range(3):
                await get(connections, port)
                await get(connections, elsewhere)
            for _ in range(3):
                await server.left.acquire()
            assert (server.open, other.open) == (0, 1)
            assert server.most == other.most == 1
            await connections.aclose()

    run(test)


def test_who_was_asked_once_keeps_nobody_from_keeping_a_connection() -> None:
    """Of those that are kept the oldest goes, and of an origin that has none and no request nothing is left."""

    async def test(server: Server, port: int) -> None:
        async with contextlib.AsyncExitStack() as undo:
            others = [await undo.enter_async_context(serving()) for _ in range(5)]
            connections = pool(max_keepalive_connections=2)
            for _, elsewhere in others:
                await get(connections, elsewhere)
            assert [await get(connections, port) for _ in range(3)] == ["1.1", "1.2", "1.3"]
            for other, _ in others[:4]:
                await other.left.acquire()
            assert [other.open for other, _ in others] == [0, 0, 0, 0, 1]
            assert len(connections._origins) == 2
            await connections.aclose()
            assert not connections._origins

    run(test)


def test_what_has_expired_is_closed_though_its_origin_is_not_asked_again() -> None:
    async def test(server: Server, port: int) -> None:
        async with serving() as (other, elsewhere):
            connections = pool(keepalive_expiry=0.01)
            await get(connections, elsewhere)
            await asyncio.sleep(0.05)
            await get(connections, port)
            await other.left.acquire()
            assert len(connections._origins) == 1
            await connections.aclose()

    run(test)


# A crowd: which requests dial, and which wait for a connection that comes free. Time passes when it is told to.


class Clock(asyncio.SelectorEventLoop):
    """One whose time can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody loses it by himself."""
    monkeypatch.setattr(httpx_pool, "PATIENCE", httpx_pool.PATIENCE * 10_000)
    monkeypatch.setattr(httpx_pool, "LONGEST_WAIT", httpx_pool.LONGEST_WAIT * 10_000)


async def until_the_next_look() -> None:
    clock = asyncio.get_running_loop()
    assert isinstance(clock, Clock)
    clock.ahead += httpx_pool.PATIENCE
    await settle()


class Known:
    """A connection that answers when it is let, with its number."""

    def __init__(self, connections: Connections, number: int, shared: bool) -> None:
        self._connections = connections
        self.number = number
        self.shared = shared
        self.requests = 0
        self.busy = 0
        self.closed = False

    def is_available(self) -> bool:
        return not self.closed and (self.shared or not self.busy)

    def is_idle(self) -> bool:
        return not self.closed and not self.busy

    def is_closed(self) -> bool:
        return self.closed

    def has_expired(self) -> bool:
        return False

    async def aclose(self) -> None:
        self.closed = True

    async def send(self, request: httpx.Request) -> Answer:
        self.busy += 1
        self.requests += 1
        turn = self._connections.answers
        try:
            await turn.acquire()
            if self.closed:
                raise httpcore.ReadError
        except BaseException:
            await self._finish()
            await self.aclose()
            raise
        return Answer(200, [], {}, self._parts(), self._last if request.url.path == "/last" else self._finish)

    async def _parts(self) -> AsyncIterator[bytes]:
        yield b"%d" % self.number

    async def _finish(self) -> None:
        self.busy -= 1

    async def _last(self) -> None:
        await self._finish()
        await self.aclose()


class Connections:
    """Makes them when it is let."""

    def __init__(self, may_share: bool = False, shared: bool = False) -> None:
        self.made: list[Known] = []
        self.under_way = 0
        self.most_under_way = 0
        self.dials = asyncio.Semaphore(0)
        self.answers = asyncio.Semaphore(0)
        self.failures = 0
        self._may_share = may_share
        self._shared = shared

    def may_share(self, _request: httpx.Request) -> bool:
        return self._may_share

    async def connect(self, _request: httpx.Request) -> Known:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.dials.acquire()
            if self.failures:
                self.failures -= 1
                raise httpcore.ConnectError
        finally:
            self.under_way -= 1
        self.made.append(Known(self, len(self.made), self._shared))
        return self.made[-1]

    def let(self, dials: int = 0, answers: int = 0) -> None:
        for turns, count in ((self.dials, dials), (self.answers, answers)):
            for _ in range(count):
                turns.release()


CROWD = 200


async def crowd(connections: AsyncPool, path: str = "/", **timeouts: float) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(get(connections, 1, path, "https", **timeouts)) for _ in range(CROWD)]
    await settle()
    return tasks


async def settle() -> None:
    """Until nobody has anything to do but wait."""
    for _ in range(50):
        await asyncio.sleep(0)


def run_crowd(
    test: Callable[[AsyncPool, Connections], Awaitable[None]],
    may_share: bool = False,
    shared: bool = False,
    **limits: Any,
) -> None:
    async def main() -> None:
        connections = Connections(may_share, shared)
        await test(AsyncPool(connections, httpx.Limits(**({"max_connections": CROWD} | limits))), connections)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(main())


def test_a_crowd_dials_a_few_and_shares_them() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        assert known.under_way == MOST_DIALS
        known.let(dials=CROWD, answers=CROWD)
        await asyncio.gather(*tasks)
        assert len(known.made) == MOST_DIALS
        assert {connection.requests for connection in known.made} <= {*range(1, 20)}

    run_crowd(test)


def test_who_waits_longest_has_the_first_that_comes_free() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        known.let(dials=MOST_DIALS)
        for done in range(MOST_DIALS + 10):
            known.let(answers=1)
            await settle()
            assert [task.done() for task in tasks[: done + 2]] == [True] * (done + 1) + [False]
        known.let(answers=CROWD)
        await asyncio.gather(*tasks)
        assert len(known.made) == MOST_DIALS

    run_crowd(test)


def test_a_server_that_takes_its_time_has_as_many_as_it_may() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        known.let(dials=CROWD)
        await settle()
        await until_the_next_look()
        assert len(known.made) == CROWD
        known.let(answers=CROWD)
        assert len(set(await asyncio.gather(*tasks))) == CROWD

    run_crowd(test)


def test_who_is_given_up_while_waiting_takes_nothing_along() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        async def first() -> None:
            await get(connections, 1, scheme="https")
            tasks[next_in_turn].cancel()  # in the moment in which it is given what comes free

        next_in_turn = MOST_DIALS - 1
        one = asyncio.create_task(first())
        tasks = await crowd(connections)
        known.let(dials=MOST_DIALS)
        await settle()
        for task in tasks[next_in_turn + 5 :]:
            task.cancel()
        known.let(answers=CROWD)
        done = await asyncio.gather(one, *tasks, return_exceptions=True)
        assert sum(isinstance(each, str) for each in done) == next_in_turn + 4
        assert len(known.made) == MOST_DIALS
        assert await asyncio.gather(*(get(connections, 1, scheme="https") for _ in range(MOST_DIALS)))
        assert len(known.made) == MOST_DIALS

    run_crowd(test)


def test_a_dial_that_fails_and_a_connection_that_ends_make_room_for_a_dial() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        known.failures = CROWD // 2
        tasks = await crowd(connections, "/last")
        known.let(dials=CROWD, answers=CROWD)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, httpcore.ConnectError) for each in done) == CROWD // 2
        assert len(known.made) == CROWD // 2
        assert known.most_under_way == MOST_DIALS

    run_crowd(test)


def test_who_cannot_wait_dials() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections, pool=0.1)
        assert known.under_way == CROWD
        known.let(dials=CROWD, answers=CROWD)
        await asyncio.gather(*tasks)

    run_crowd(test)


def test_nobody_waits_for_a_pool_that_is_closed() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        known.let(dials=1)
        await settle()
        await connections.aclose()
        known.let(dials=MOST_DIALS, answers=1)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, httpcore.ReadError) for each in done) == 1
        assert sum(isinstance(each, httpcore.ConnectError) for each in done) == CROWD - 1
        assert all(connection.closed for connection in known.made)

    run_crowd(test)


def test_a_crowd_shares_one_where_that_can_be() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        await until_the_next_look()
        assert known.under_way == 1
        known.let(dials=1, answers=CROWD)
        assert set(await asyncio.gather(*tasks)) == {"0"}

    run_crowd(test, may_share=True, shared=True)


def test_what_might_have_been_shared_and_is_not_is_dialled_by_all() -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        assert known.under_way == 1
        known.let(dials=1)
        await settle()
        assert known.under_way == MOST_DIALS
        known.let(dials=CROWD, answers=CROWD)
        await asyncio.gather(*tasks)
        assert len(known.made) <= MOST_DIALS + 1

    run_crowd(test, may_share=True)


def test_a_shared_connection_that_failed_and_stays_open_is_closed() -> None:
    """As httpcore's of HTTP/2 after an error: it takes no more requests, and says neither that it is closed."""

    async def test(connections: AsyncPool, known: Connections) -> None:
        class Failed(Known):
            def is_available(self) -> bool:
                return False

            async def send(self, request: httpx.Request) -> Answer:
                raise httpcore.RemoteProtocolError

        async def connect(_request: httpx.Request) -> Known:
            known.made.append(Failed(known, 0, True))
            return known.made[-1]

        known.connect = connect  # type: ignore[method-assign]
        with pytest.raises(httpcore.RemoteProtocolError):
            await get(connections, 1)
        assert known.made[0].closed
        assert not connections._all

    run_crowd(test, may_share=True, shared=True)


@pytest.mark.parametrize("given_up", [False, True])
def test_a_shared_dial_that_fails_holds_nobody_up_twice(given_up: bool) -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        if given_up:
            tasks[0].cancel()
            await settle()
            assert known.under_way == 1
        else:
            known.failures = 1
            known.let(dials=1)
            await settle()
            assert known.under_way == CROWD - 1
        known.let(dials=CROWD, answers=CROWD)
        failed = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if not isinstance(each, str)]
        assert len(failed) == 1

    run_crowd(test, may_share=True, shared=True)


@pytest.mark.parametrize(
    ("come_free", "all_dial"),
    [([0], True), ([1, 1], True), ([1, 20, 1, 20], False), ([20, 0], True), ([20, 20, 20], False)],
)
def test_all_dial_where_too_few_come_free(come_free: list[int], all_dial: bool) -> None:
    async def test(connections: AsyncPool, known: Connections) -> None:
        tasks = await crowd(connections)
        known.let(dials=CROWD)
        await settle()
        for count in come_free:
            assert len(known.made) == MOST_DIALS
            known.let(answers=count)
            await settle()
            await until_the_next_look()
        assert (len(known.made) > MOST_DIALS) == all_dial
        known.let(answers=CROWD)
        await asyncio.gather(*tasks)

    run_crowd(test)
