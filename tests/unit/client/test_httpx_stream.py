"""One connection as httpcore has it, on both loops, over a socket of the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import pytest
import uvloop

pytest.importorskip("httpx")
import httpcore

from tests.unit.worker.worker_pair import reset
from ztclient import aio
from ztclient.integrations.httpx_stream import BUFFER, AsyncStream

Runner = Callable[[Coroutine[Any, Any, None]], None]


class Dialler:
    """The part of a Node that is used."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    async def dial(self, host: str, port: int, timeout: float | None) -> socket.socket:
        assert (host, port, timeout) == ("10.121.15.99", 80, 5)
        connected = socket.create_connection(self._address)
        connected.setblocking(False)
        return connected


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[AsyncStream, socket.socket]]:
    """A stream and the other end, which blocks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node = cast(aio.Node, Dialler(listener.getsockname()))
        stream = await AsyncStream.connect(node, "10.121.15.99", 80, 5)
        far, _ = listener.accept()
    with far:
        far.settimeout(5)
        assert stream.get_extra_info("server_addr") == far.getsockname()
        assert stream.get_extra_info("client_addr") == far.getpeername()
        yield stream, far
        await stream.aclose()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    return cast(Runner, request.param)


def test_an_end_that_the_loop_has_not_seen_yet_is_seen(run: Runner) -> None:
    """Who worked for a while without the loop asks next on a connection that the server has closed meanwhile."""

    async def main() -> None:
        async with connected() as (stream, far):
            await asyncio.sleep(0)
            assert not stream.get_extra_info("is_readable")
            far.close()
            assert stream.get_extra_info("is_readable")

    run(main())


def test_what_comes_is_read_in_order_and_the_end(run: Runner) -> None:
    async def main() -> None:
        async with connected() as (stream, far):
            far.sendall(b"abcdef")
            assert [await stream.read(4), await stream.read(4, 5)] == [b"abcd", b"ef"]
            assert not stream.get_extra_info("is_readable")
            await stream.write(b"half")
            far.shutdown(socket.SHUT_WR)
            assert await stream.read(4, 5) == b""
            assert stream.get_extra_info("is_readable")
            await stream.write(b" closed")
            assert far.recv(4) + far.recv(7) == b"half closed"

    run(main())


def test_a_wait_ends_in_time_whatever_waits_were_before(run: Runner) -> None:
    """The timer of an earlier read is still there: it is neither taken for the later one's nor waited for."""

    async def main() -> None:
        async with connected() as (stream, far):
            for before, now in ((60, 0.05), (0.05, 0.1), (0.05, None)):
                reading = asyncio.create_task(stream.read(1, before))
                await asyncio.sleep(0)
                far.send(b"x")
                assert await reading == b"x"
                if now is None:
                    reading = asyncio.create_task(stream.read(1))
                    await asyncio.sleep(0.1)
                    assert not reading.done()
                    far.send(b"y")
                    assert await reading == b"y"
                else:
                    with pytest.raises(httpcore.ReadTimeout):
                        await stream.read(1, now)

    run(main())


def test_nobody_reads_and_little_is_kept(run: Runner) -> None:
    async def main() -> None:
        async with connected() as (stream, far):
            sent = 0
            far.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                while sent < 64 * BUFFER:
                    sent += await asyncio.to_thread(far.send, bytes(BUFFER))
            assert sent < 64 * BUFFER
            received = 0
            while received < sent:
                received += len(await stream.read(1 << 16, 5))

    run(main())


def test_a_reset_comes_after_what_came_before(run: Runner) -> None:
    async def main() -> None:
        async with connected() as (stream, far):
            far.sendall(b"last words")
            assert await stream.read(4, 5) == b"last"
            reset(far)
            with contextlib.suppress(httpcore.WriteError):
                while True:
                    await stream.write(b"x")
                    await asyncio.sleep(0.01)
            assert await stream.read(100, 5) == b" words"
            with pytest.raises(httpcore.ReadError):
                await stream.read(100, 5)

    run(main())


def test_who_does_not_read_holds_a_writer_up_until_it_gives_up_or_the_end(run: Runner) -> None:
    async def main() -> None:
        async with connected() as (stream, far):
            with pytest.raises(httpcore.WriteTimeout):
                while True:
                    await stream.write(bytes(BUFFER), 0.05)
            writing = asyncio.create_task(stream.write(b"more", 60))
            await asyncio.sleep(0.01)
            assert not writing.done()
            reset(far)
            with pytest.raises(httpcore.WriteError):
                await writing

    run(main())


def test_a_peer_that_reads_nothing_does_not_hold_up_the_end(run: Runner) -> None:
    async def main() -> None:
        async with connected() as (stream, far):
            with pytest.raises(httpcore.WriteTimeout):
                while True:
                    await stream.write(bytes(BUFFER), 0.05)
            async with asyncio.timeout(30):
                await stream.aclose()
            with pytest.raises(httpcore.WriteError):
                await stream.write(b"more")
            assert far.recv(1) == b"\0"

    run(main())
