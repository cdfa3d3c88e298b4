"""A listener of the overlay that speaks HTTP or HTTPS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final, Protocol

import h11

from ztnode.forwarding.http_stream import HttpStream, open_stream
from ztnode.forwarding.local import Crowd
from ztnode.forwarding.overlay import Overlay
from ztnode.forwarding.reports import Report, Reports
from ztnode.forwarding.reverse_proxy import BadGatewayError
from ztnode.forwarding.shares import Shares
from ztnode.node.api import Handoff
from ztnode.wire.endpoint import Endpoint

CLIENTS: Final = 1024
"""Connections at a time; more wait to be accepted. Of one peer a quarter of them; more are reset."""


class Answers(Protocol):
    """Who answers what clients ask: ``files.Files``, ``reverse_proxy.ReverseProxy``."""

    async def serve(self, client: HttpStream, peer: str) -> None:
        """All requests of one connection, from the address ``peer``."""


async def converse(answers: Answers, sock: socket.socket, peer: str, context: ssl.SSLContext | None = None) -> None:
    """One connection, whose socket is taken over, to its end. What the client does wrong ends it without a word to
    anybody else. Raises BadGatewayError."""
    try:
        client = await open_stream(sock, h11.SERVER, context)
    except (OSError, TimeoutError):
        return
    try:
        await answers.serve(client, peer)
    except BadGatewayError:
        raise
    except (OSError, TimeoutError, h11.ProtocolError, ExceptionGroup):
        client.writer.transport.abort()
    finally:
        await client.finish()


class HttpService:
    """``open`` once, then ``run`` until cancelled; ``close`` in any case."""

    def __init__(
        self, overlay: Overlay, answers: Answers, report: Report, context: ssl.SSLContext | None = None
    ) -> None:
        """``report`` gets a line for a person when the server behind does not do its part, the same one not too often.
        ``context``: for HTTPS."""
        self._overlay = overlay
        self._answers = answers
        self._reports = Reports(report)
        self._shares = Shares(CLIENTS // 4)
        self._context = context
        self._listener: int | None = None

    async def open(self, host: str | None, port: int) -> Endpoint:
        """Listen on a managed address (None: on all); what was bound. Raises OSError."""
        self._listener, bound = await self._overlay.listen(host, port)
        return bound

    async def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            await self._overlay.close_listener(self._listener)
            self._listener = None

    async def run(self) -> None:
        """Until cancelled. Raises OSError when the listener ends."""
        listener = self._listener
        assert listener is not None
        async with Crowd(CLIENTS) as crowd:
            while True:
                await crowd.take(lambda: self._overlay.accept(listener), self._serve)

    async def _serve(self, handoff: Handoff) -> None:
        peer = handoff.remote[0]
        with contextlib.suppress(OSError), self._shares.one(peer) as room:
            if not room:
                await self._overlay.drop(handoff)
                return
            sock = await self._overlay.fetch(handoff)
            try:
                await converse(self._answers, sock, peer, self._context)
            except BadGatewayError as error:
                self._reports.tell(error.strerror or str(error))
            except asyncio.CancelledError:
                sock.close()
                raise
