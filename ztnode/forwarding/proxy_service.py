"""A proxy for local programs: SOCKS5, SOCKS4a and HTTP on one port, onto the overlay.

The handshake is read here and peeked at, so that what a client sends beyond its request is still in its socket when the
stack worker gets that: the bytes of a CONNECT pass through the worker alone. Requests in absolute form are read one by
one, for the next may be for another host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Final

from ztclient.aio.handoff import readable
from ztclient.forms import is_numeric
from ztclient.loopback import reset_on_close, tuned
from ztnode.forwarding.association import associate
from ztnode.forwarding.local import Crowd, connect, next_connection
from ztnode.forwarding.mapping import TcpAddress
from ztnode.forwarding.overlay import Overlay
from ztnode.forwarding.read_waiter import ReadWaiter
from ztnode.node.api import Handoff
from ztnode.proxy import Command, ProxyServer, Refusal, Request
from ztnode.proxy.http import BadRequest, RequestStream
from ztnode.proxy.request import CheckPassword

CLIENTS: Final = 2048
"""Clients whose bytes, or whose handshake, this process has to do with; more wait in the kernel's queue."""
HANDSHAKE_SECONDS: Final = 10.0
DIAL_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 300.0
"""A client that fetches, and neither asks nor reads anything for so long, is let go."""
CHUNK: Final = 64 * 1024
_NOT_OURS: Final = (errno.ENETUNREACH, errno.ENETDOWN)
"""What the node says of an address that no managed route leads to."""


class ProxyService:
    """Serves the clients of one listening socket."""

    def __init__(
        self,
        overlay: Overlay,
        *,
        check_password: CheckPassword | None = None,
        direct: bool = False,
    ) -> None:
        """``direct``: targets that no managed route leads to are dialled by the host instead of being refused, names
        among them, except those of the overlay."""
        self._overlay = overlay
        self._check_password = check_password
        self._direct = direct

    async def run(self, listener: socket.socket) -> None:
        """Until cancelled."""
        async with Crowd(CLIENTS) as crowd:
            while True:
                await crowd.take(lambda: next_connection(listener), self._serve)

    async def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            handshake = await self._handshake(client)
            if handshake is None or (request := handshake.request) is None:
                return
            if request.command is Command.FETCH:
                await _Fetching(self, client, handshake).run()
            elif request.command is Command.CONNECT:
                await self._connect(client, handshake, request)
            else:
                await self._associate(client, handshake, request)

    async def _handshake(self, client: socket.socket) -> ProxyServer | None:
        """What the client asks for; None when it asked for nothing, and was told so where that is possible."""
        loop = asyncio.get_running_loop()
        tuned(client).setblocking(False)
        handshake = ProxyServer(self._check_password)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                while handshake.request is None:
                    await readable(client)
                    seen = client.recv(CHUNK, socket.MSG_PEEK)
                    handshake.receive(seen)
                    request = handshake.request
                    taken = len(seen)
                    if request is not None and request.command is not Command.FETCH:
                        # What belongs to the target stays where it is: the worker reads it from there.
                        taken -= len(handshake.rest)
                    client.recv(taken)
                    await loop.sock_sendall(client, handshake.to_send())
                    if handshake.closed:
                        return None
                return handshake
        return None

    async def _connect(self, client: socket.socket, handshake: ProxyServer, request: Request) -> None:
        loop = asyncio.get_running_loop()
        try:
            reached = await self.reach(request.host, request.port)
        except OSError as error:
            await _refuse(client, handshake, _failure(error))
            return
        if isinstance(reached, Handoff):
            handshake.succeeded(*reached.local)
            try:
                await loop.sock_sendall(client, handshake.to_send())
            except OSError:
                await self._overlay.drop(reached)
                raise
            await self._overlay.join(reached, client)
            return
        with reached:
            handshake.succeeded(*reached.getsockname()[:2])
            await loop.sock_sendall(client, handshake.to_send())
            await _copy_both_ways(client, reached)

    async def _associate(self, client: socket.socket, handshake: ProxyServer, request: Request) -> None:
        try:
            association, bound = await associate(self._overlay, client, request.port)
        except OSError as error:
            unsupported = error.errno == errno.EOPNOTSUPP
            await _refuse(client, handshake, Refusal.UNSUPPORTED_COMMAND if unsupported else _failure(error))
            return
        handshake.succeeded(*bound)
        client.send(handshake.to_send())
        await association.run(client)

    async def reach(self, host: str, port: int) -> Handoff | socket.socket:
        """A connection of the overlay, or one that the host dialled. Raises OSError."""
        if is_numeric(host):
            try:
                return await self._overlay.dial(host, port, DIAL_SECONDS)
            except OSError as error:
                if error.errno not in _NOT_OURS or not self._direct:
                    raise
            return await connect(TcpAddress(host, port), DIAL_SECONDS)
        try:
            if not await self._overlay.is_foreign(host):
                return await self._overlay.dial(host, port, DIAL_SECONDS)
        except ValueError as error:
            raise OSError(errno.EHOSTUNREACH, str(error)) from None
        if not self._direct:
            raise OSError(errno.EACCES, f"{host} is no name of the overlay, and --direct was not given")
        return await connect(TcpAddress(host, port), DIAL_SECONDS)

    async def fetch(self, host: str, port: int) -> socket.socket:
        """A socket of ours for ``reach``, non-blocking. Raises OSError."""
        reached = await self.reach(host, port)
        return await self._overlay.fetch(reached) if isinstance(reached, Handoff) else reached

    @property
    def check_password(self) -> CheckPassword | None:
        """For each request in absolute form: a connection may be shared by several users' requests."""
        return self._check_password


class _Fetching:
    """One client that asks in absolute form, as long as its connection stands."""

    def __init__(self, service: ProxyService, client: socket.socket, handshake: ProxyServer) -> None:
        self._service = service
        self._client = client
        self._handshake = handshake
        self._requests = RequestStream(service.check_password)
        self._target: tuple[str, int] | None = None
        self._upstream: socket.socket | None = None
        self._answers: asyncio.Task[None] | None = None
        self._waiter = ReadWaiter(client)
        self._idle: asyncio.TimerHandle | None = None
        self._since = 0.0
        """When it last asked or was sent something."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._touch()
        self._check_idle()
        try:
            data = self._handshake.rest
            while data:
                for request, piece in self._requests.receive(data):
                    if request is not None and (request.host, request.port) != self._target:
                        await self._switch(request.host, request.port)
                    assert self._upstream is not None
                    await _send(self._upstream, piece)
                data = await self._next()
            if self._upstream is not None and self._answers is not None:
                self._upstream.shutdown(socket.SHUT_WR)
                await self._answers
        except BadRequest as error:
            await loop.sock_sendall(self._client, error.answer)
        except _Unreached as error:
            self._handshake.failed(error.failure)
            await loop.sock_sendall(self._client, self._handshake.to_send())
        except (TimeoutError, _Answered):
            pass
        except OSError:
            reset_on_close(self._client)
        finally:
            if self._idle is not None:
                self._idle.cancel()
            self._waiter.close()
            await self._leave()

    async def _next(self) -> bytes:
        """What the client sends next. Raises _Answered when the server ended its side: there is nobody to ask any
        more, and an answer may end by just that; TimeoutError."""
        while True:
            # No task for each request: whichever comes first wakes us.
            if self._answers is None or not self._answers.done():
                await self._waiter.wait()
            if self._answers is not None and self._answers.done():
                self._answers.result()
                raise _Answered
            with contextlib.suppress(BlockingIOError):
                data = self._client.recv(CHUNK)
                self._touch()
                return data

    def _touch(self) -> None:
        self._since = asyncio.get_running_loop().time()

    def _check_idle(self) -> None:
        loop = asyncio.get_running_loop()
        end = self._since + IDLE_SECONDS
        if end <= loop.time():
            self._waiter.fail(TimeoutError())
            end = loop.time() + IDLE_SECONDS
        self._idle = loop.call_at(end, self._check_idle)

    async def _switch(self, host: str, port: int) -> None:
        """To the server of the next request, once the one before has said all that it has to say."""
        if self._upstream is not None and self._answers is not None:
            self._upstream.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DIAL_SECONDS):
                    await asyncio.shield(self._answers)
        await self._leave()
        try:
            self._upstream = await self._service.fetch(host, port)
        except OSError as error:
            raise _Unreached(_failure(error)) from None
        self._target = host, port
        self._answers = asyncio.create_task(_copy(self._upstream, self._client, self._touch))
        self._answers.add_done_callback(lambda _: self._waiter.wake())

    async def _leave(self) -> None:
        if self._answers is not None:
            self._answers.cancel()
            await asyncio.gather(self._answers, return_exceptions=True)
            self._answers = None
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        self._target = None


class _Answered(Exception):
    """The server closed its side after its answers."""


class _Unreached(Exception):
    def __init__(self, failure: Refusal) -> None:
        super().__init__(failure.value)
        self.failure = failure


async def _copy(source: socket.socket, sink: socket.socket, moved: Callable[[], None] = lambda: None) -> None:
    """Until the end of ``source``, which is not passed on; ``moved`` is called for what was. Raises OSError."""
    with contextlib.closing(ReadWaiter(source)) as waiter:
        while True:
            # Always a turn of the loop: two that are never dry would keep everybody else from theirs.
            await waiter.wait()
            with contextlib.suppress(BlockingIOError):
                data = source.recv(CHUNK)
                if not data:
                    return
                await _send(sink, data)
                moved()


async def _send(sink: socket.socket, data: bytes) -> None:
    """All of ``data``, mostly at once. Raises TimeoutError, OSError."""
    try:
        sent = sink.send(data)
    except BlockingIOError:
        sent = 0
    if sent < len(data):
        async with asyncio.timeout(IDLE_SECONDS):
            await asyncio.get_running_loop().sock_sendall(sink, memoryview(data)[sent:])


async def _copy_both_ways(one: socket.socket, other: socket.socket) -> None:
    """Until both directions have ended; a failure of either resets both."""

    async def through(source: socket.socket, sink: socket.socket) -> None:
        await _copy(source, sink)
        sink.shutdown(socket.SHUT_WR)

    tasks = [asyncio.create_task(through(one, other)), asyncio.create_task(through(other, one))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except BaseException:
        for each in (one, other):
            reset_on_close(each)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refuse(client: socket.socket, handshake: ProxyServer, failure: Refusal) -> None:
    handshake.failed(failure)
    await asyncio.get_running_loop().sock_sendall(client, handshake.to_send())


def _failure(error: OSError) -> Refusal:
    return Refusal.NOT_ALLOWED if error.errno in _NOT_OURS else Refusal.from_error(error)
