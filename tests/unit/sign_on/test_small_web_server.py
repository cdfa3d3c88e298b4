"""The small web server, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging

import pytest

from ztnode.sign_on import small_web_server
from ztnode.sign_on.small_web_server import Answer, Request, SmallWebServer

REQUEST = b"GET /sso HTTP/1.1\r\nHost: x\r\n\r\n"


async def _said(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return said


def test_what_was_not_foreseen_is_an_answer_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def stumble(_request: Request) -> Answer:
        raise TypeError("two\nlines")

    async def scenario() -> None:
        web = SmallWebServer(stumble)
        await web.open(["127.0.0.1"], 0)
        assert web.port is not None
        assert (await _said(web.port)).startswith(b"HTTP/1.1 500 ")
        await web.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    (record,) = [record for record in caplog.records if record.name.startswith("ztnode")]
    assert record.getMessage() == "GET '/sso' is not answered: TypeError: two lines" and record.exc_info is None


async def _asks(source: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    with contextlib.suppress(OSError):
        writer.write(REQUEST)
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return said


@pytest.mark.parametrize("apart", [False, True], ids=["loopback as one", "addresses apart"])
def test_silent_connections_keep_nobody_out(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One address fills its share, and then whatever says nothing gives way: those that wait for an answer do not."""
    if apart:
        monkeypatch.setattr(small_web_server, "_origin", lambda peername: peername[0].encode())
    share = small_web_server.ADDRESS_SHARE if apart else small_web_server.MAX_CONNECTIONS
    go_on = asyncio.Event()
    arrived = asyncio.Event()

    async def answer(request: Request) -> Answer:
        arrived.set()
        if request.fields:
            await go_on.wait()
        return Answer(200, "text/plain", "here")

    async def scenario() -> None:
        web = SmallWebServer(answer)
        await web.open(["127.0.0.1"], 0)
        assert web.port is not None
        waiting_reader, waiting = await asyncio.open_connection("127.0.0.1", web.port)
        waiting.write(REQUEST.replace(b"/sso", b"/sso?wait=1"))
        await arrived.wait()
        silent = [await asyncio.open_connection("127.0.0.1", web.port) for _ in range(3 * share)]
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in silent]
        for given_way in itertools.islice(asyncio.as_completed(ended), 2 * share + 1):
            await given_way
        for source in ("127.0.0.1", "127.0.0.2"):
            assert (await _asks(source, web.port)).endswith(b"here")
        assert not any(task.done() for task in ended[-share + 4 :]), "the oldest give way"
        go_on.set()
        assert (await waiting_reader.read()).endswith(b"here")
        web.abort()
        await asyncio.gather(*ended, return_exceptions=True)
        for _, writer in (*silent, (None, waiting)):
            writer.close()
        await web.close()

    asyncio.run(scenario())


def test_who_counts_as_one() -> None:
    origin = small_web_server._origin
    assert origin(("127.0.0.1", 1)) == origin(("::1", 1, 0, 0)) == origin(("::ffff:127.0.0.9", 1, 0, 0))
    assert origin(("192.0.2.1", 1)) == origin(("::ffff:192.0.2.1", 1, 0, 0)) != origin(("192.0.2.2", 1))
    assert origin(("fe80::1%eth0", 1, 0, 2)) == origin(("fe80::2", 1, 0, 0)) != origin(("2001:db8::1", 1, 0, 0))
