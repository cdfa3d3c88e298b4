"""HTTP/1.1 on one connection: h11 says what the bytes mean, this reads and writes them, with a limit to every wait."""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import ssl
from typing import Final, TypeAlias

import h11

HEAD_SECONDS: Final = 20.0
"""For the head of a request, from the beginning of the connection or the end of the one before."""
BODY_SECONDS: Final = 60.0
"""For the next bytes of a body; for a reader, to take the next CHUNK."""
ANSWER_SECONDS: Final = 300.0
"""For the next that a server says: some think long."""
LINGER_SECONDS: Final = 2.0
"""For a client to take an answer that came before it had said all."""
HANDSHAKE_SECONDS: Final = 10.0
MAX_HEAD: Final = 64 * 1024
CHUNK: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
"""A writer that had to wait goes on when no more is left; it waits from a CHUNK above that on."""

Role: TypeAlias = type[h11.CLIENT] | type[h11.SERVER]
"""Whose part is ours."""
Event: TypeAlias = (
    h11.Request
    | h11.InformationalResponse
    | h11.Response
    | h11.Data
    | h11.EndOfMessage
    | h11.ConnectionClosed
    | type[h11.PAUSED]
)
"""What the other side says. PAUSED: it may change the protocol, or waits for us to go on."""


class HttpStream:
    """One end of a connection. ``http``: h11's idea of where it stands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: Role) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)
        self.reader = reader
        self.writer = writer
        # By TLS it would be 512 KB, for each that does not read.
        writer.transport.set_write_buffer_limits(LOW_WATER + CHUNK, LOW_WATER)

    async def next_event(self, seconds: float) -> Event:
        """What comes next, at least every ``seconds`` something. Raises h11.RemoteProtocolError, TimeoutError,
        OSError."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value] # h11 has no type for all but NEED_DATA
            self.http.receive_data(await self.read(seconds))

    async def next_request(self, seconds: float) -> h11.Request | None:
        """The next request, whose head has ``seconds`` to come whole; None where there is none any more. Raises as
        ``next_event``."""
        async with asyncio.timeout(seconds):
            event = await self.next_event(seconds)
        if not isinstance(event, h11.Request):
            return None
        _check_framing(event)
        return event

    async def read(self, seconds: float) -> bytes:
        """The next bytes; none at the end of the stream. Raises TimeoutError, OSError."""
        async with asyncio.timeout(seconds):
            return await self.reader.read(CHUNK)

    async def send(self, event: h11.Event) -> None:
        """Say this. Raises h11.LocalProtocolError, TimeoutError, OSError."""
        if data := self.http.send(event):
            await self.write(data)

    async def write(self, data: bytes) -> None:
        """Raises TimeoutError, OSError."""
        self.writer.write(data)
        async with asyncio.timeout(BODY_SECONDS):
            await self.writer.drain()

    async def linger(self) -> None:
        """The last has been said: let it arrive before the connection goes, though the client may still be speaking."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if self.writer.can_write_eof():
                self.writer.write_eof()
            async with asyncio.timeout(LINGER_SECONDS):
                while await self.reader.read(CHUNK):
                    pass

    def close(self) -> None:
        """Give it up; a reset if not everything was sent and read."""
        self.writer.close()

    async def finish(self) -> None:
        """Close it when the last has been taken: who takes none holds it no longer than BODY_SECONDS."""
        self.writer.close()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self.writer.transport.abort()


async def open_stream(
    sock: socket.socket, role: Role, context: ssl.SSLContext | None = None, name: str = ""
) -> HttpStream:
    """A stream over a connected socket, which is taken over. ``context``: for TLS, as server or, with the server's
    ``name``, as client. Raises OSError (ssl.SSLError among them)."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK)
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        limit = HANDSHAKE_SECONDS if context is not None else None
        if role is h11.SERVER:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=context, ssl_handshake_timeout=limit
            )
        else:
            transport, _ = await loop.create_connection(
                lambda: protocol,
                sock=sock,
                ssl=context,
                server_hostname=name if context is not None else None,
                ssl_handshake_timeout=limit,
            )
    except BaseException:
        sock.close()
        raise
    return HttpStream(reader, asyncio.StreamWriter(transport, protocol, reader, loop), role)


async def answer(
    stream: HttpStream, status: int, reason: str, text: str, *fields: tuple[str, str], bare: bool = False
) -> None:
    """An answer of our own in one line of text; ``bare``: its head alone, as to HEAD. Raises as ``HttpStream.send``."""
    body = f"{text}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *fields]
    await stream.send(h11.Response(status_code=status, reason=reason, headers=headers))
    if not bare:
        await stream.send(h11.Data(data=body))
    await stream.send(h11.EndOfMessage())


async def refuse_garbage(client: HttpStream, error: h11.RemoteProtocolError) -> None:
    """Tell a client that is not speaking HTTP/1.1 as it should, unless an answer is under way."""
    await refuse(client, error.error_status_hint, "not HTTP/1.1 as it should be")


async def refuse(client: HttpStream, status: int, why: str) -> None:
    """An answer of our own that ends the connection, unless another one is under way. Raises as ``HttpStream.send``."""
    if client.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        await answer(client, status, http.HTTPStatus(status).phrase, f"ztnode: {why}", ("Connection", "close"))
        await client.linger()


def _check_framing(request: h11.Request) -> None:
    """Two lengths of one body are how a second request hides in it, for whoever behind us believes the other one
    (RFC 9112, section 6.3); a chunked body of HTTP/1.0 is the same to a server that knows no chunks (section 6.1).
    Raises h11.RemoteProtocolError."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version < b"1.1"):
        raise h11.RemoteProtocolError("a body that could be read in two ways", error_status_hint=400)
