"""The small web server, over loopback."""

from __future__ import annotations

import asyncio
import logging

import pytest

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
