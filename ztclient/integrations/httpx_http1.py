"""HTTP/1.1 on one connection, for httpx: h11 reads and writes it.

httpcore's own connection takes a quarter of a millisecond of CPU more for a request of 64 KB, for its locks and five
generators around each body.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

import h11
import httpcore
import httpx

READ_BYTES: Final = 1 << 18
LONGEST_HEAD: Final = 100 * 1024
"""Bytes of a head that never ends after which it is given up."""
_NOTHING: Final = (b"", False)
"""Behind an answer: neither bytes, which nobody asked for, nor the end."""
Result = TypeVar("Result")
Trace = Callable[[str, dict[str, Any]], Awaitable[None]]


class Answer(NamedTuple):
    """The head of an answer, and the way to the rest."""

    status: int
    headers: list[tuple[bytes, bytes]]
    extensions: dict[str, Any]
    parts: AsyncIterator[bytes]
    """The body. Raises what httpcore raises."""
    finish: Callable[[], Coroutine[Any, Any, None]]
    """To be called when nothing more is wanted of it."""


class Http1Connection:
    """Takes a request when it is available, and the next one when the answer is finished."""

    shared: Final = False
    """Whether it takes a request beside another."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, keepalive: float | None) -> None:
        """``keepalive``: seconds for which it may wait for its next request; None: for ever."""
        self._stream = stream
        self._keepalive = keepalive
        self._expires: float | None = None
        self._state = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self._busy = False
        self._closed = False

    def is_available(self) -> bool:
        """Whether it takes a request now."""
        return not self._busy and not self._closed

    is_idle = is_available

    def is_closed(self) -> bool:
        """Whether it will take none any more."""
        return self._closed

    def has_expired(self) -> bool:
        """Whether, being idle, it has waited too long, or the server has closed it."""
        if self._expires is not None and time.monotonic() > self._expires:
            return True
        return bool(self._stream.get_extra_info("is_readable"))  # nothing was asked, so what comes can only be the end

    async def aclose(self) -> None:
        """What is under way fails."""
        self._closed = True
        await self._stream.aclose()

    async def send(self, request: httpx.Request) -> Answer:
        """Send it, and wait for the answer's head. Raises what httpcore raises."""
        self._busy = True
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        trace: Trace | None = request.extensions.get("trace")
        write, read = timeouts.get("write"), timeouts.get("read")
        try:
            try:
                waiting = await traced(trace, "http11.send_request_headers", request, self._send_head(request, write))
                await traced(trace, "http11.send_request_body", request, self._send_body(request, waiting, write))
            except httpcore.WriteError:
                pass  # an answer that came before the request's end, such as 413, says why
            head = await traced(trace, "http11.receive_response_headers", request, self._receive_head(read))
        except BaseException:
            await traced(trace, "http11.response_closed", request, self._finish())
            raise
        stream = self._stream
        if head.status_code == 101 or (request.method == "CONNECT" and 200 <= head.status_code < 300):
            stream = _Upgraded(stream, self._state.trailing_data[0])
        return Answer(
            head.status_code,
            head.headers.raw_items(),
            {"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason, "network_stream": stream},
            _Parts(self._next, read) if trace is None else _traced_parts(trace, request, _Parts(self._next, read)),
            self._finish if trace is None else lambda: traced(trace, "http11.response_closed", request, self._finish()),
        )

    async def _send_head(self, request: httpx.Request, timeout: float | None) -> bytes:
        """What of it waits for the body."""
        try:
            target = request.extensions.get("target", request.url.raw_path)  # such as the * of OPTIONS
            head = h11.Request(method=request.method, target=target, headers=request.headers.raw)
            data = self._state.send(head)
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error
        assert data is not None
        if isinstance(request.stream, httpx.ByteStream):
            return data
        await self._stream.write(data, timeout)
        return b""

    async def _send_body(self, request: httpx.Request, waiting: bytes, timeout: float | None) -> None:
        send, write, body = self._state.send, self._stream.write, request.stream
        try:
            if isinstance(body, httpx.ByteStream):
                # In one write with the head: two would wake everybody on the way twice.
                parts = (send(h11.Data(part)) for part in body if part)
                waiting = b"".join([waiting, *filter(None, parts)])
            else:
                assert isinstance(body, httpx.AsyncByteStream)
                async for part in body:
                    if data := send(h11.Data(part)):
                        await write(data, timeout)
            if waiting := waiting + (send(h11.EndOfMessage()) or b""):
                await write(waiting, timeout)
        except h11.LocalProtocolError as error:  # it is longer or shorter than it says
            raise httpcore.LocalProtocolError(str(error)) from error

    async def _receive_head(self, timeout: float | None) -> h11.Response | h11.InformationalResponse:
        while True:
            event = await self._next(timeout)
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                return event

    async def _next(self, timeout: float | None) -> h11.Event | type[h11.PAUSED]:
        state = self._state
        try:
            while (event := state.next_event()) is h11.NEED_DATA:
                data = await self._stream.read(READ_BYTES, timeout)
                if not data and state.their_state is h11.SEND_RESPONSE:
                    raise httpcore.RemoteProtocolError("the server closed the connection without an answer")
                state.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise httpcore.RemoteProtocolError(str(error)) from error
        return event  # type: ignore[return-value]  # mypy keeps NEED_DATA among its types

    async def _finish(self) -> None:
        state = self._state
        done = state.our_state is h11.DONE and state.their_state is h11.DONE
        if done and state.trailing_data == _NOTHING and not self._closed:
            state.start_next_cycle()
            self._busy = False
            if self._keepalive is not None:
                self._expires = time.monotonic() + self._keepalive
        else:  # what was not read of the answer is not waited for
            await self.aclose()


class _Parts:
    """No generator: each costs a body several microseconds."""

    __slots__ = ("_next", "_timeout")

    def __init__(self, following: Callable[[float | None], Awaitable[Any]], timeout: float | None) -> None:
        self._next = following
        self._timeout = timeout

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        event = await self._next(self._timeout)
        if type(event) is h11.Data:
            return bytes(event.data)
        raise StopAsyncIteration


class _Upgraded(httpcore.AsyncNetworkStream):
    """What follows an answer that ends HTTP on its connection; some of it came with that."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, received: bytes) -> None:
        self._received = received
        self.write, self.aclose = stream.write, stream.aclose  # type: ignore[method-assign]
        self.start_tls, self.get_extra_info = stream.start_tls, stream.get_extra_info  # type: ignore[method-assign]
        self._read = stream.read

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore.AsyncNetworkStream."""
        if not self._received:
            return await self._read(max_bytes, timeout)
        taken, self._received = self._received[:max_bytes], self._received[max_bytes:]
        return taken


async def traced(trace: Trace | None, name: str, request: httpx.Request, step: Coroutine[Any, Any, Result]) -> Result:
    """Do it, and tell the request's ``trace`` extension of it as httpcore does."""
    if trace is None:
        return await step
    try:
        await trace(f"{name}.started", {"request": request})
        result = await step
    except BaseException as error:
        step.close()
        await trace(f"{name}.failed", {"exception": error})
        raise
    await trace(f"{name}.complete", {"return_value": result})
    return result


async def _traced_parts(trace: Trace, request: httpx.Request, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    await trace("http11.receive_response_body.started", {"request": request})
    try:
        async for part in parts:
            yield part
    except BaseException as error:
        await trace("http11.receive_response_body.failed", {"exception": error})
        raise
    await trace("http11.receive_response_body.complete", {"return_value": None})
