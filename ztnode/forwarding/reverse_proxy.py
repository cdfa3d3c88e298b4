"""Requests of the overlay for one HTTP server behind us, each with a word on who asks.

Every request is read and written anew by h11, so that no second one can hide in its body, and no client can say of
itself where it comes from. Once the server has agreed to a WebSocket its bytes are let through; to no other protocol,
for in some (HTTP/2, by h2c) each request would speak for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import h11

from ztclient.forms import format_host_port
from ztnode.forwarding.http_stream import (
    ANSWER_SECONDS,
    BODY_SECONDS,
    CHUNK,
    HEAD_SECONDS,
    HttpStream,
    answer,
    open_stream,
    refuse,
    refuse_garbage,
)
from ztnode.forwarding.local import connect
from ztnode.forwarding.mapping import LocalAddress, UnixAddress

_HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"te",
        b"upgrade",
        b"http2-settings",
    )
)
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"host"))
"""Where a message ends and whom it is for is nothing that a client's Connection can take away."""
_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_DECODINGS: Final = 3
"""How many times over an escape may be escaped: some servers undo more than one."""

Headers: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind. ``prefix``: of each path there. ``tls``: its name, where it is spoken to by TLS."""

    address: LocalAddress
    prefix: str = ""
    tls: str | None = None


class BadGatewayError(OSError):
    """The server behind did not do its part."""


@dataclass(frozen=True, slots=True)
class _RefusedError(Exception):
    """A request that is not for the server behind."""

    status: int
    why: str


class ReverseProxy:
    """Carries the requests of any number of connections, each with the peer's address in X-Forwarded-For: what a client
    says of that itself, there, in any X-Forwarded-*, in Forwarded and in X-Real-IP, goes, for a server would believe
    it. ``scheme``: what the clients' side speaks, told as X-Forwarded-Proto; None: not told."""

    def __init__(self, upstream: Upstream, scheme: str | None = None) -> None:
        self._upstream = upstream
        self._scheme = scheme
        self._context = None if upstream.tls is None else ssl.create_default_context()
        where = upstream.address
        name = "localhost" if isinstance(where, UnixAddress) else format_host_port(where.host, where.port)
        self._host = name.encode("ascii", "replace")

    async def serve(self, client: HttpStream, peer: str) -> None:
        """All that one client, at the address ``peer``, asks. Raises BadGatewayError, after the client was told;
        OSError, TimeoutError, h11.ProtocolError: the client's doing."""
        server: HttpStream | None = None
        try:
            while (request := await client.next_request(HEAD_SECONDS)) is not None:
                asked = self._asked(request, peer)
                if server is not None and server.reader.at_eof():
                    server.close()
                    server = None
                if server is None:
                    server = await self._connect()
                switched = await self._exchange(client, server, asked)
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
        except _RefusedError as error:
            await refuse(client, error.status, error.why)
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

    async def _exchange(self, client: HttpStream, server: HttpStream, request: h11.Request) -> bool:
        """One request and its answer; True when the two have agreed to speak something else now."""
        with _server_errors(server):
            await server.send(request)
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

    def _asked(self, request: h11.Request, peer: str) -> h11.Request:
        """A client's request as the server gets it. Raises _RefusedError."""
        if request.method == b"CONNECT":
            raise _RefusedError(501, "no tunnels here")
        authority, target = _parted(request)
        if self._upstream.prefix and target != b"*":
            if _climbs(target):
                raise _RefusedError(400, "a path with .. in it")
            target = self._upstream.prefix.encode("ascii") + target
        headers = self._headers(request, authority, peer)
        try:
            return h11.Request(method=request.method, target=target, headers=headers)
        except h11.LocalProtocolError:
            raise _RefusedError(400, "a request that cannot be passed on") from None

    def _headers(self, request: h11.Request, authority: bytes | None, peer: str) -> Headers:
        headers = [field for field in _end_to_end(request) if not _says_who_asks(field[0])]
        asked = next((value for name, value in headers if name.lower() == b"host"), self._host)
        host = asked if authority is None else authority
        told = [(b"X-Forwarded-For", peer.encode())]
        if self._scheme is not None:
            told += [(b"X-Forwarded-Proto", self._scheme.encode()), (b"X-Forwarded-Host", host)]
        if self._upstream.tls is not None:  # which of its names is asked, it learns by this alone
            host = self._upstream.tls.encode()
        return [(b"Host", host), *(field for field in headers if field[0].lower() != b"host"), *told]


def _parted(request: h11.Request) -> tuple[bytes | None, bytes]:
    """Host and path of a request target in absolute form, whose host goes before the field Host (RFC 9112, section
    3.2.2); of one in origin form no host. Raises _RefusedError for any other."""
    target: bytes = request.target
    if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
        return None, target
    scheme, separator, rest = target.partition(b"://")
    authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    if not separator or scheme.lower() not in (b"http", b"https") or not _AUTHORITY.fullmatch(authority):
        raise _RefusedError(400, "no path of this server")
    path = rest[len(authority) :]
    if not path and request.method == b"OPTIONS":
        return authority, b"*"
    return authority, path if path.startswith(b"/") else b"/" + path


def _climbs(target: bytes) -> bool:
    """Whether a path leaves a folder by ``..``, in any way that servers read: escaped, with a backslash, with a
    parameter (``..;x``)."""
    path = target.partition(b"?")[0]
    for _ in range(_DECODINGS):
        if any(segment.partition(b";")[0] == b".." for segment in re.split(rb"[/\\]", path)):
            return True
        path = urllib.parse.unquote_to_bytes(path)
    return any(segment.partition(b";")[0] == b".." for segment in re.split(rb"[/\\]", path))


def _plain(name: bytes) -> bytes:
    """A field's name as CGI and its heirs take it, to whom a hyphen, an underscore and a point are one."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


def _says_who_asks(name: bytes) -> bool:
    plain = _plain(name)
    return plain.startswith(b"x-forwarded-") or plain in (b"forwarded", b"x-real-ip")


def _end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> Headers:
    """The fields that are not for the next hop alone (RFC 9110, section 7.6.1), and of upgrades that to a WebSocket;
    h11 sees to those of the framing."""
    fields = list(message.headers.raw_items())
    named = set(_tokens(fields, b"connection"))
    dropped = (_HOP_BY_HOP | named) - _FRAMING
    kept = [field for field in fields if field[0].lower() not in dropped and _is_itself(field[0])]
    if b"upgrade" in named and b"websocket" in _tokens(fields, b"upgrade") and message.http_version >= b"1.1":
        kept += [(b"Upgrade", b"websocket"), (b"Connection", b"upgrade")]
    return kept


def _tokens(fields: Headers, wanted: bytes) -> list[bytes]:
    return [token.strip().lower() for name, value in fields if name.lower() == wanted for token in value.split(b",")]


def _is_itself(name: bytes) -> bool:
    """Not what a server behind could take for one of the framing or of the hop, as Content_Length."""
    plain = _plain(name)
    return plain == name.lower() or plain not in _FRAMING | _HOP_BY_HOP


async def _ask(client: HttpStream, server: HttpStream) -> None:
    """The body of a request, to its end."""
    while True:
        event = await client.next_event(BODY_SECONDS)
        if not isinstance(event, h11.Data | h11.EndOfMessage):
            return
        try:
            with _server_errors(server):
                # Its trailer fields stay here: among them could be those that the head was not allowed.
                await server.send(event if isinstance(event, h11.Data) else h11.EndOfMessage())
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
            if event.status_code == 101 and b"websocket" not in _tokens(list(event.headers.raw_items()), b"upgrade"):
                raise BadGatewayError(0, "the server switched to a protocol that it was not asked for")
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
