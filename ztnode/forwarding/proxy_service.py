"""A proxy for local programs: SOCKS5, SOCKS4a and HTTP on one port, onto the overlay.

The handshake is read here and peeked at, so that what a client sends beyond its request is still in its socket when the
stack worker gets that: the bytes of a CONNECT pass through the worker alone. A client that asks in absolute form, whose
next request may be for another host, is lent to the worker until it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
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
from ztnode.proxy.answers import AnswerStream
from ztnode.proxy.http import AnotherTarget, BadRequest, RequestStream, check_authorization, parse_head, target_of
from ztnode.proxy.request import CheckPassword
from ztnode.worker.loan import ARE_THEY_THERE, Loan, Return, build_loan, channel, parse_return, split

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
                await _Fetching(self, self._overlay, client, handshake).run()
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

    @property
    def check_password(self) -> CheckPassword | None:
        """For each request in absolute form: a connection may be shared by several users' requests."""
        return self._check_password


class _Fetching:
    """One client that asks in absolute form, as long as its connection stands: one server after the other."""

    def __init__(self, service: ProxyService, overlay: Overlay, client: socket.socket, handshake: ProxyServer) -> None:
        self._service = service
        self._overlay = overlay
        self._client = client
        self._handshake = handshake

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            data = self._handshake.rest
            while data:
                head = parse_head(data)
                if head is None:
                    break
                credentials = check_authorization(head, self._service.check_password)
                request = target_of(head)
                loan = Loan(request.host, request.port, credentials, data)
                passed_on = await self._lend(loan, None)
                data = await self._reach(loan) if passed_on is None else passed_on
        except BadRequest as error:
            await loop.sock_sendall(self._client, error.answer)
        except _Unreached as error:
            self._handshake.failed(error.failure)
            await loop.sock_sendall(self._client, self._handshake.to_send())
        except TimeoutError:
            pass
        except OSError:
            reset_on_close(self._client)
        finally:
            self._client.close()

    async def _reach(self, loan: Loan) -> bytes:
        """As ``_lend``, to whatever way there is."""
        try:
            reached = await self._service.reach(loan.host, loan.port)
        except OSError as error:
            raise _Unreached(_failure(error)) from None
        if isinstance(reached, socket.socket):
            return await self._copy(loan, reached)
        data = await self._lend(loan, reached)
        return await self._copy(loan, await self._overlay.fetch(reached)) if data is None else data

    async def _lend(self, loan: Loan, handoff: Handoff | None) -> bytes | None:
        """The client's socket to the worker, and what the client asks of somebody else once it is back; nothing when
        its connection has ended, and None when the worker has not taken it. Without a ``handoff`` the worker is asked
        to dial. Raises OSError."""
        ours, way_back = channel()
        with ours:
            with way_back:
                ours.send(build_loan(loan))
                if handoff is None:
                    lent = await self._overlay.dial_and_lend(loan.host, loan.port, DIAL_SECONDS, self._client, way_back)
                else:
                    lent = await self._overlay.lend(handoff, self._client, way_back)
            if not lent:
                return None
            returned = await _returned(ours)
        if returned is None:
            return b""
        self._client, given_back = returned
        if given_back.last:
            await asyncio.get_running_loop().sock_sendall(self._client, given_back.data)
            return b""
        return given_back.data

    async def _copy(self, loan: Loan, server: socket.socket) -> bytes:
        """As ``_lend``, where the bytes have to pass through this process."""
        with server:
            return await _Copying(self._service.check_password, self._client, server).run(loan)


class _Copying:
    """Requests to a server, and its answers, passed on from here. Raises BadRequest, TimeoutError and OSError."""

    def __init__(self, check_password: CheckPassword | None, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._requests = RequestStream(check_password)
        self._answers = AnswerStream()
        self._leaving = False
        self._answering = asyncio.create_task(self._pass_answers())
        self._waiter = ReadWaiter(client)
        self._answering.add_done_callback(lambda _: self._waiter.wake())
        self._idle: asyncio.TimerHandle | None = None
        self._since = 0.0
        """When the client last asked or was sent something."""

    async def run(self, loan: Loan) -> bytes:
        """What comes for another server, or nothing."""
        self._touch()
        self._check_idle()
        data = loan.data
        try:
            while data:
                for request, piece in self._requests.receive(data, (loan.host, loan.port)):
                    if request is not None:
                        self._answers.expect(piece)
                        if self._requests.raw:
                            self._answers.expect_anything()
                    await _send(self._server, piece)
                data = await self._next()
            if not self._answering.done():
                self._server.shutdown(socket.SHUT_WR)
            await self._answered()
        except AnotherTarget:
            self._leaving = True
            if self._answers.owed:
                await self._answered()
            # What is owed still, nobody can tell from the answer of whom the client asks next.
            return b"" if self._answers.owed else self._requests.rest or b""
        finally:
            if self._idle is not None:
                self._idle.cancel()
            self._waiter.close()
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)
        return b""

    async def _answered(self) -> None:
        """Until the answers have ended. Raises TimeoutError, OSError."""
        await asyncio.wait([self._answering])
        if self._answering.cancelled():
            raise TimeoutError
        self._answering.result()

    async def _pass_answers(self) -> None:
        """Until the server ends, or says more than it was asked, or the client wants another and has its answers."""
        with contextlib.closing(ReadWaiter(self._server)) as waiter:
            while not self._leaving or self._answers.owed:
                await waiter.wait()
                with contextlib.suppress(BlockingIOError):
                    data = self._server.recv(CHUNK)
                    size = self._answers.measure(data)
                    await _send(self._client, data[:size])
                    self._touch()
                    if not data or size < len(data):
                        return

    async def _next(self) -> bytes:
        """What the client sends next; nothing when the server ended its side: there is nobody to ask any more, and an
        answer may end by just that."""
        while not self._answering.done():
            # No task for each request: whichever comes first wakes us.
            await self._waiter.wait()
            if self._answering.done():
                break
            with contextlib.suppress(BlockingIOError):
                data = self._client.recv(CHUNK)
                self._touch()
                return data
        return b""

    def _touch(self) -> None:
        self._since = asyncio.get_running_loop().time()

    def _check_idle(self) -> None:
        loop = asyncio.get_running_loop()
        end = self._since + IDLE_SECONDS
        if end <= loop.time():
            self._answering.cancel()
            end = loop.time() + IDLE_SECONDS
        self._idle = loop.call_at(end, self._check_idle)


class _Unreached(Exception):
    def __init__(self, failure: Refusal) -> None:
        super().__init__(failure.value)
        self.failure = failure


async def _returned(ours: socket.socket) -> tuple[socket.socket, Return] | None:
    """A lent socket and what came with it, when it comes back; None when its connection has ended. Meanwhile the worker
    is asked whether anything moves."""
    received = bytearray()
    client: socket.socket | None = None
    try:
        while (message := split(received)) is None:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await readable(ours)
            except TimeoutError:
                ours.send(ARE_THEY_THERE)
                continue
            data, descriptors, _flags, _ = socket.recv_fds(ours, CHUNK, 1)
            received += data
            if descriptors:
                client = socket.socket(fileno=descriptors[0])
            if not data:
                return None
        if client is None:
            return None
        given_back = parse_return(message)
        client.set_inheritable(False)
        client.setblocking(False)
        kept, client = client, None
        return kept, given_back
    except (ConnectionError, ValueError):
        return None  # the worker is gone, and the client's connection with it
    finally:
        if client is not None:
            client.close()


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Until the end of ``source``, which is not passed on. Raises OSError."""
    with contextlib.closing(ReadWaiter(source)) as waiter:
        while True:
            # Always a turn of the loop: two that are never dry would keep everybody else from theirs.
            await waiter.wait()
            with contextlib.suppress(BlockingIOError):
                data = source.recv(CHUNK)
                if not data:
                    return
                await _send(sink, data)


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
