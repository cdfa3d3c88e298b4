"""Requests of the overlay for one HTTP server behind us, each with a word on who asks.

Every request is read and written anew by h11, so that no second one can hide in its body, and no client can say of
itself where it comes from: after an upgrade too the bytes are let through only once the server has agreed to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import h11

from ztnode.forwarding.http_stream import (
    ANSWER_SECONDS,
    BODY_SECONDS,
    CHUNK,
    HEAD_SECONDS,
    HttpStream,
    answer,
    open_stream,
    refuse_garbage,
)
from ztnode.forwarding.local import connect
from ztnode.forwarding.mapping import LocalAddress

_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"upgrade")
)

Headers: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind. ``prefix``: of each path there. ``tls``: its name, where it is spoken to by TLS."""

    address: LocalAddress
    prefix: str = ""
    tls: str | None = None


class BadGatewayError(OSError):
    """The server behind did not do its part."""


class ReverseProxy:
    """Carries the requests of any number of connections, each with the peer's address in X-Forwarded-For: what a client
    says there itself goes, for a server would believe it. ``scheme``: what the clients' side speaks, told as
    X-Forwarded-Proto; None: not told."""

    def __init__(self, upstream: Upstream, scheme: str | None = None) -> None:
        self._upstream = upstream
        self._scheme = scheme
        self._context = None if upstream.tls is None else ssl.create_default_context()

    async def serve(self, client: HttpStream, peer: str) -> None:
        """All that one client, at the address ``peer``, asks. Raises BadGatewayError, after the client was told;
        OSError, TimeoutError, h11.ProtocolError: the client's doing."""
        server: HttpStream | None = None
        try:
            while (request := await client.next_request(HEAD_SECONDS)) is not None:
                if server is not None and server.reader.at_eof():
                    server.close()
                    server = None
                if server is None:
                    server = await self._connect()
                switched = await self._exchange(client, server, request, peer)
                if switched:
                    await _copy_both_ways(client, server)
                    return
                server = _next_cycle(server)
                if _next_cycle(client) is None:
                    await client.linger()
                    return
        except BadGatewayError as error:
            if client.http.our_state is h11.SEND_RESPONSE:
                await answer(client, 502, "Bad Gateway", f"ztnode: {error.strerror}", ("Connection", "close"))
                await client.linger()
            raise
        except h11.RemoteProtocolError as error:
            await refuse_garbage(client, error)
            raise
        finally:
            if server is not None:
                server.close()

    async def _connect(self) -> HttpStream:
        try:
            sock = await connect(self._upstream.address)
            return await open_stream(sock, h11.CLIENT, self._context, self._upstream.tls or "")
        except OSError as error:
            raise BadGatewayError(error.errno, error.strerror or str(error)) from error

    async def _exchange(self, client: HttpStream, server: HttpStream, request: h11.Request, peer: str) -> bool:
        """One request and its answer; True when the two have agreed to speak something else now."""
        target = self._upstream.prefix.encode("ascii") + request.target
        headers = self._headers(request, peer)
        with _server_errors(server):
            await server.send(h11.Request(method=request.method, target=target, headers=headers))
        asking = asyncio.create_task(_ask(client, server))
        answering = asyncio.create_task(_answer(client, server))
        try:
            await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result()
            return await answering
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)

    def _headers(self, request: h11.Request, peer: str) -> Headers:
        headers = _end_to_end(request)
        host = next((value for name, value in headers if name.lower() == b"host"), b"")
        told = [(b"X-Forwarded-For", peer.encode())]
        if self._scheme is not None:
            told += [(b"X-Forwarded-Proto", self._scheme.encode()), (b"X-Forwarded-Host", host)]
        if self._upstream.tls is not None:  # which of its names is asked, it learns by this alone
            told.append((b"Host", self._upstream.tls.encode()))
        names = {name.lower() for name, _ in told}
        return [field for field in headers if field[0].lower() not in names] + told


def _end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> Headers:
    """The fields that are not for the next hop alone (RFC 9110, section 7.6.1); h11 sees to those of the framing."""
    fields = list(message.headers.raw_items())
    named = {
        token.strip().lower() for name, value in fields if name.lower() == b"connection" for token in value.split(b",")
    }
    upgrades = b"upgrade" in named
    kept = [field for field in fields if field[0].lower() not in _HOP_BY_HOP | named - {b"content-length", b"host"}]
    if upgrades:
        kept += [field for field in fields if field[0].lower() == b"upgrade"] + [(b"Connection", b"upgrade")]
    return kept


async def _ask(client: HttpStream, server: HttpStream) -> None:
    """The body of a request, to its end."""
    while True:
        event = await client.next_event(BODY_SECONDS)
        if not isinstance(event, h11.Data | h11.EndOfMessage):
            return
        try:
            with _server_errors(server):
                await server.send(event)
        except BadGatewayError:
            return  # its answer may be there already: too large, say
        if isinstance(event, h11.EndOfMessage):
            return


async def _answer(client: HttpStream, server: HttpStream) -> bool:
    """All of an answer; True when it is to speak another protocol."""
    while True:
        with _server_errors(server):
            event = await server.next_event(ANSWER_SECONDS)
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 100 and not client.http.they_are_waiting_for_100_continue:
                continue
            await client.send(
                h11.InformationalResponse(
                    status_code=event.status_code, reason=event.reason, headers=_end_to_end(event)
                )
            )
            if event.status_code == 101:
                return True
        elif isinstance(event, h11.Response):
            await client.send(
                h11.Response(status_code=event.status_code, reason=event.reason, headers=_end_to_end(event))
            )
        elif isinstance(event, h11.Data | h11.EndOfMessage):
            await client.send(event)
            if isinstance(event, h11.EndOfMessage):
                return False
        else:
            raise BadGatewayError(0, "the server ended the connection before its answer did")


def _next_cycle(stream: HttpStream) -> HttpStream | None:
    """The stream, ready for the next request; None where there can be none, and it is closed if it is the server's."""
    if stream.http.our_state is h11.DONE and stream.http.their_state is h11.DONE:
        stream.http.start_next_cycle()
        return stream
    if stream.http.our_role is h11.CLIENT:
        stream.close()
    return None


async def _copy_both_ways(client: HttpStream, server: HttpStream) -> None:
    """What both have agreed upon is theirs alone."""

    async def through(source: HttpStream, sink: HttpStream) -> None:
        data = source.http.trailing_data[0]
        while True:
            if data:
                await sink.write(bytes(data))
            data = await source.reader.read(CHUNK)
            if not data:
                break
        if sink.writer.can_write_eof():
            sink.writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(through(client, server))
        group.create_task(through(server, client))


@contextlib.contextmanager
def _server_errors(server: HttpStream) -> Iterator[None]:
    """Whatever goes wrong inside is the server's fault."""
    try:
        yield
    except h11.RemoteProtocolError as error:
        if server.reader.at_eof():
            raise BadGatewayError(0, "the server ended the connection before its answer did") from error
        raise BadGatewayError(0, f"the server does not speak HTTP/1.1 as it should: {error}") from error
    except TimeoutError as error:
        raise BadGatewayError(0, "the server does not answer") from error
    except BadGatewayError:
        raise
    except OSError as error:
        raise BadGatewayError(error.errno, f"the server: {error.strerror or error}") from error
