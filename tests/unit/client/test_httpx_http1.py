"""HTTP/1.1 for httpx, on a stream that says what a server said."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("httpx")
import httpcore
import httpx

from ztclient.integrations.httpx_connect import Connector
from ztclient.integrations.httpx_http1 import LONGEST_HEAD, Http1Connection

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"Content-Length: 2\r\n\r\nhi"


class Stream(httpcore.AsyncNetworkStream):
    """``said`` comes part by part, then the end, or what ``fails``."""

    def __init__(self, *said: bytes, write_fails: bool = False) -> None:
        self.said = list(said)
        self.written: list[bytes] = []
        self.timeouts: set[float | None] = set()
        self.closed = False
        self._write_fails = write_fails

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.timeouts.add(timeout)
        data = self.said.pop(0) if self.said else b""
        assert len(data) <= max_bytes
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.timeouts.add(timeout)
        if self._write_fails:
            raise httpcore.WriteError
        self.written.append(buffer)

    async def aclose(self) -> None:
        self.closed = True

    def get_extra_info(self, info: str) -> Any:
        return {"is_readable": bool(self.said)}.get(info)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def request(method: str = "GET", **rest: Any) -> httpx.Request:
    return httpx.Request(method, "http://10.1.2.3/path?query", **rest)


async def answered(connection: Http1Connection, asked: httpx.Request | None = None) -> tuple[int, bytes]:
    answer = await connection.send(asked or request())
    try:
        return answer.status, b"".join([part async for part in answer.parts])
    finally:
        await answer.finish()


async def pieces() -> AsyncIterator[bytes]:
    yield b"one"
    yield b""
    yield b"two"


@pytest.mark.parametrize(
    ("said", "body"),
    [
        ([WHOLE], b"hi"),
        ([bytes([byte]) for byte in WHOLE], b"hi"),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nTrailer: 1\r\n\r\n"], b"hi"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + WHOLE], b"hi"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], b""),
    ],
)
def test_an_answer_whose_end_is_known_leaves_room_for_the_next(said: list[bytes], body: bytes) -> None:
    async def test() -> None:
        stream = Stream(*said)
        connection = Http1Connection(stream, 60)
        assert await answered(connection) == (200, body)
        assert connection.is_available()
        assert not connection.has_expired()
        stream.said = [*said, b"unasked"]
        assert await answered(connection) == (200, body)
        assert connection.is_available() and connection.has_expired()
        assert not stream.closed

    run(test)


@pytest.mark.parametrize(
    "said",
    [
        [OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi"],
        [OK + b"\r\nh", b"i"],
        [b"HTTP/1.0 200 OK\r\n\r\nhi"],
        [WHOLE + WHOLE],
    ],
)
def test_an_answer_that_is_the_last_closes(said: list[bytes]) -> None:
    async def test() -> None:
        stream = Stream(*said)
        connection = Http1Connection(stream, None)
        assert await answered(connection) == (200, b"hi")
        assert connection.is_closed() and stream.closed and not connection.is_available()

    run(test)


@pytest.mark.parametrize(
    "said",
    [
        [],
        [OK],
        [OK + b"Content-Length: 3\r\n\r\nhi"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n"],
        [OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nhi"],
        [b"\x16\x03\x01\r\n\r\n"],
        [OK] + [b"A: " + b"b" * 1000 + b"\r\n"] * (LONGEST_HEAD // 1000),
    ],
)
def test_what_is_no_answer_is_an_error_and_closes(said: list[bytes]) -> None:
    async def test() -> None:
        stream = Stream(*said, *([b"more\r\n"] * 10 if len(said) > 2 else []))
        connection = Http1Connection(stream, None)
        with pytest.raises(httpcore.RemoteProtocolError):
            await answered(connection)
        assert connection.is_closed() and stream.closed

    run(test)


def test_a_body_that_is_known_leaves_with_its_head() -> None:
    async def test() -> None:
        stream = Stream(WHOLE)
        timeouts = {"timeout": {"write": 3, "read": 4}}
        await answered(Http1Connection(stream, None), request("POST", content=b"x" * 1000, extensions=timeouts))
        (written,) = stream.written
        head, _, body = written.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /path?query HTTP/1.1\r\nHost: 10.1.2.3\r\n") and body == b"x" * 1000
        assert stream.timeouts == {3, 4}

        stream = Stream(WHOLE)
        await answered(Http1Connection(stream, None), request("POST", content=pieces()))
        assert stream.written[1:] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]

    run(test)


def test_the_target_may_be_one_that_is_no_path() -> None:
    async def test() -> None:
        stream = Stream(WHOLE)
        await answered(Http1Connection(stream, None), request("OPTIONS", extensions={"target": b"*"}))
        assert stream.written[0].startswith(b"OPTIONS * HTTP/1.1\r\nHost: 10.1.2.3\r\n")

    run(test)


def test_a_connection_that_cannot_be_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpcore raises RuntimeError where h2 is not installed."""

    async def test() -> None:
        stream = Stream()

        async def dial(*_: object) -> Stream:
            return stream

        monkeypatch.delattr("httpcore.AsyncHTTP2Connection")
        connector = Connector(dial, ssl_context=ssl.create_default_context(), keepalive=None, http1=False, http2=True)
        with pytest.raises(AttributeError):
            await connector.connect(request())
        assert stream.closed

    run(test)


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"A": "b\nSmuggled: 1"}},
        {"headers": {"Content-Length": "3"}, "content": pieces()},
        {"headers": {"Content-Length": "7"}, "content": pieces()},
    ],
)
def test_a_request_that_is_wrong_is_not_sent_to_its_end(wrong: dict[str, Any]) -> None:
    async def test() -> None:
        stream = Stream(WHOLE)
        connection = Http1Connection(stream, None)
        with pytest.raises(httpcore.LocalProtocolError):
            await answered(connection, request("POST", **wrong))
        assert stream.closed and not any(b"Smuggled" in each for each in stream.written)

    run(test)


def test_an_answer_before_the_end_of_the_request_is_shown() -> None:
    async def test() -> None:
        stream = Stream(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", write_fails=True)
        connection = Http1Connection(stream, None)
        assert await answered(connection, request("POST", content=pieces())) == (413, b"no")
        assert stream.closed

    run(test)


def test_an_answer_that_is_not_read_to_its_end_closes() -> None:
    async def test() -> None:
        stream = Stream(WHOLE[:-1], WHOLE[-1:])
        connection = Http1Connection(stream, None)
        answer = await connection.send(request())
        assert await anext(answer.parts) == b"h"
        assert not connection.is_available()
        await answer.finish()
        assert stream.closed

    run(test)


@pytest.mark.parametrize(
    ("method", "said"),
    [("GET", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), ("CONNECT", OK + b"\r\n")],
)
def test_what_follows_the_end_of_http_is_read_from_the_stream(method: str, said: bytes) -> None:
    async def test() -> None:
        stream = Stream(said + b"first", b"second")
        headers = {"Connection": "upgrade", "Upgrade": "x"} if method == "GET" else {}
        answer = await Http1Connection(stream, None).send(request(method, headers=headers))
        assert answer.status == (101 if method == "GET" else 200)
        behind = answer.extensions["network_stream"]
        assert [await behind.read(2), await behind.read(100), await behind.read(100)] == [b"fi", b"rst", b"second"]
        await behind.write(b"said")
        assert stream.written[-1] == b"said"
        await answer.finish()
        assert stream.closed

    run(test)


def test_a_trace_is_told_of_every_step() -> None:
    async def test() -> None:
        told: list[str] = []

        async def trace(name: str, _info: dict[str, Any]) -> None:
            told.append(name.removeprefix("http11."))

        steps = ["send_request_headers", "send_request_body", "receive_response_headers", "receive_response_body"]
        steps.append("response_closed")
        await answered(Http1Connection(Stream(WHOLE), None), request(extensions={"trace": trace}))
        assert told == [f"{step}.{end}" for step in steps for end in ("started", "complete")]
        told.clear()
        with pytest.raises(httpcore.RemoteProtocolError):
            await answered(Http1Connection(Stream(), None), request(extensions={"trace": trace}))
        assert told[-4:] == [
            "receive_response_headers.started",
            "receive_response_headers.failed",
            "response_closed.started",
            "response_closed.complete",
        ]

    run(test)
