"""The few HTTP requests that logging in takes: a browser that comes back, a token that is handed in.

Bounded for strangers: so many connections, a share of them for each address, one request on each, a short time and a
small body. Where there is no room, the connection that has waited longest without a request gives way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    import h11

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds for a request to come."""
MAX_CONNECTIONS: Final = 64
ADDRESS_SHARE: Final = 16
"""Of these for one address (IPv6: one /64). Loopback may have all: all members come from there by a proxy for TLS."""
MAX_BODY: Final = 65536
MAX_FIELDS: Final = 64


@dataclass(frozen=True, slots=True)
class Request:
    """``fields``: those of the query of a GET, of the form of a POST."""

    method: str
    path: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """``content_type``: of ``body``, which is sent as UTF-8."""

    status: int
    content_type: str
    body: str


class _Place:
    """What one connection takes up."""

    __slots__ = ("asked", "origin")

    def __init__(self, origin: bytes) -> None:
        self.origin = origin
        self.asked = False
        """Whether its request has come, whole."""


_LOOPBACK: Final = b"loopback"


def _origin(peername: Any) -> bytes:
    """Who counts as one: an IPv4 address, the 64 bits that one IPv6 host has, this host."""
    if not peername:  # gone already
        return b""
    address = ipaddress.ip_address(peername[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return _LOOPBACK if address.is_loopback else address.packed[:8]


class SmallWebServer:
    """Calls ``answer`` with each request."""

    def __init__(self, answer: Callable[[Request], Awaitable[Answer]]) -> None:
        self._answer = answer
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], _Place] = {}
        """The oldest first."""

    @property
    def port(self) -> int | None:
        """Where it listens; None: nowhere."""
        return int(self._servers[0].sockets[0].getsockname()[1]) if self._servers else None

    async def open(self, hosts: Sequence[str], port: int) -> None:
        """Listen. Raises OSError where the first of ``hosts`` cannot be listened on; others may not exist here."""
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                listener = socket.create_server((host, self.port or port), family=family)
            except OSError:
                if not self._servers:
                    raise
                continue
            self._servers.append(await asyncio.start_server(self._connected, sock=listener, limit=MAX_BODY))

    async def close(self) -> None:
        """Listen no more. Whoever is being answered gets the answer."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    def abort(self) -> None:
        """Break off what is under way, too."""
        for task in self._connections:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        place = _Place(_origin(writer.get_extra_info("peername")))
        try:
            if self._make_room(place.origin):
                self._connections[task] = place
                await self._converse(reader, writer, place)
        except (TimeoutError, OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.pop(task, None)
            writer.close()

    def _make_room(self, origin: bytes) -> bool:
        """Whether one more from there may come; another one may have to go."""
        rivals = list(self._connections.items())
        if len(rivals) < MAX_CONNECTIONS:
            rivals = [each for each in rivals if each[1].origin == origin]
            if origin == _LOOPBACK or len(rivals) < ADDRESS_SHARE:
                return True
        for task, place in rivals:
            if not place.asked:
                del self._connections[task]
                task.cancel()
                return True
        return False

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: _Place) -> None:
        import h11

        connection = h11.Connection(h11.SERVER)
        answer = await self._answered(connection, reader, place)
        if answer is None:
            return
        body = answer.body.encode()
        headers = [
            ("Content-Type", f"{answer.content_type}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),  # the address of the page holds the code
            ("Connection", "close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):
            for event in (
                h11.Response(status_code=answer.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                writer.write(connection.send(event) or b"")
        async with asyncio.timeout(PATIENCE):
            await writer.drain()

    async def _answered(self, connection: h11.Connection, reader: asyncio.StreamReader, place: _Place) -> Answer | None:
        """The answer to one request; None where there was none."""
        import h11

        try:
            async with asyncio.timeout(PATIENCE):
                request = await _receive(connection, reader)
        except h11.RemoteProtocolError as error:
            return Answer(error.error_status_hint, "text/plain", "this is no request that can be answered here\n")
        if request is None:
            return None
        place.asked = True
        try:
            return await self._answer(request)
        except Exception as error:  # or it would be a traceback, and the client hung up at without a word
            reason = " ".join(str(error).split())[:200]
            log.error("%s %.80r is not answered: %s: %s", request.method, request.path, type(error).__name__, reason)
            return Answer(500, "text/plain", "this went wrong here; the node's log has why\n")


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """One request; None where the client said nothing. Raises h11.RemoteProtocolError, OSError."""
    import h11

    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_BODY))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        elif head is not None and isinstance(event, h11.EndOfMessage):
            return _parse(head, body)
        else:
            return None


def _parse(head: h11.Request, body: bytes) -> Request:
    import h11

    try:
        target = urlsplit(head.target.decode("ascii"))
        text = body.decode("ascii") if head.method == b"POST" else target.query
        fields = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise h11.RemoteProtocolError("the request cannot be read") from None
    return Request(head.method.decode("ascii"), target.path, fields)
