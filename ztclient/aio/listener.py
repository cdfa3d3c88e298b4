"""Accepting connections from the overlay on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ztclient import accept_channel
from ztclient.aio.accept_channel import attend
from ztclient.aio.dialling import connected_socket
from ztclient.aio.handoff import readable
from ztclient.overlay_socket import Connection, OverlayAddress, overlay_address

if TYPE_CHECKING:
    from ztclient.aio.channel import Control
    from ztclient.v1 import node_pb2 as pb

PREFETCH = 16
"""Connections that are here before accept() asks for them."""
RETRY_SECONDS = 0.1
"""After a connection that was lost for want of a descriptor."""
FETCHERS = 4
"""Connections that are fetched side by side; each takes a round trip to the node and one to a worker."""


class Listener:
    """A listener on the overlay, made by ``Node.listen``. An async context manager."""

    def __init__(self, control: Control, lease: Any, answer: pb.ListenResponse) -> None:
        self._control = control
        self._lease = lease
        self._id = answer.listener_id
        self._bound = overlay_address(answer.bound.ip, answer.bound.port)
        self._worker = answer.handoff_path, answer.token
        self._channel: socket.socket | None = None
        """On which the worker brings connections."""
        self._ready: asyncio.Queue[Connection] = asyncio.Queue(PREFETCH)
        loop = asyncio.get_running_loop()
        self._bringing = loop.create_task(self._bring())
        self._ended: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def open(cls, control: Control, request: pb.ListenRequest) -> Self:
        """Listen. Raises OSError."""
        import grpc

        lease: Any = control.stub.Listen(request, metadata=control.metadata)
        try:
            with control.translated():
                answer = await lease.read()
            if answer is grpc.aio.EOF:
                raise ConnectionResetError(errno.ECONNRESET, "the node ended the call")
        except BaseException:
            lease.cancel()
            raise
        return cls(control, lease, answer)

    def getsockname(self) -> OverlayAddress:
        """What was bound, on the overlay."""
        return self._bound

    async def accept(self) -> tuple[Connection, OverlayAddress]:
        """The next connection, which does not block, and its peer's address on the overlay. Cancelling loses none.

        Raises OSError when the listener is closed or the node is gone.
        """
        if self._ready.empty():
            getting = asyncio.ensure_future(self._ready.get())
            try:
                await asyncio.wait((getting, self._ended), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                if not getting.cancel():
                    self._give_back(getting.result())
                raise
            if getting.done():
                connected = getting.result()
            else:
                getting.cancel()
                self._ended.result()
                raise OSError(errno.EBADF, "the listener is closed")
        else:
            connected = self._ready.get_nowait()
        if self._channel is not None:
            with contextlib.suppress(OSError):  # whoever takes the worker's place is told
                self._channel.send(accept_channel.credit(0))
        return connected, connected._remote

    def _give_back(self, connected: Connection) -> None:
        """What came at the moment of a cancellation goes to whoever accepts next."""
        try:
            self._ready.put_nowait(connected)
        except asyncio.QueueFull:
            connected.close()

    async def close(self) -> None:
        """Stop listening. Connections already accepted live on; those not yet accepted are reset."""
        self._end(None)
        await asyncio.gather(self._bringing, return_exceptions=True)
        while not self._ready.empty():
            self._ready.get_nowait().close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _end(self, reason: Exception | None) -> None:
        self._lease.cancel()
        self._bringing.cancel()
        if not self._ended.done():
            if reason is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(reason)
                self._ended.exception()  # seen: it need not be asked for

    async def _bring(self) -> None:
        try:
            if self._worker[0]:
                await self._attend(*self._worker)
            await asyncio.gather(*(self._fetch() for _ in range(FETCHERS)))
        except Exception as error:
            self._end(error)

    async def _put(self, connected: Connection) -> None:
        """Have a connection wait for ``accept``."""
        try:
            await self._ready.put(connected)
        except BaseException:
            connected.close()
            raise

    async def _attend(self, path: str, token: bytes) -> None:
        """Have the worker bring connections, and the one that takes its place, until they must be asked for."""
        message = accept_channel.request(token, accept_channel.DESCRIPTORS)
        patience = accept_channel.Patience(lambda: not self._lease.done())
        while True:
            try:
                with await attend(path, message) as self._channel:
                    patience.succeeded()
                    if await self._receive(self._channel):
                        return
            except OSError as error:
                if not patience.permits(error):
                    return
            finally:
                self._channel = None
            await asyncio.sleep(accept_channel.RETRY_SECONDS)

    async def _receive(self, channel: socket.socket) -> bool:
        """Take what comes, until nothing will (True) or the worker is gone. Raises OSError."""
        channel.send(accept_channel.credit(*[0] * (PREFETCH - self._ready.qsize())))
        while True:
            await readable(channel)
            record, descriptors, _flags, _ = socket.recv_fds(channel, 1 + accept_channel.ENDS.size, 1)
            if not record.startswith(accept_channel.OPEN):
                return record.startswith(accept_channel.ENDED)
            if not descriptors:  # there is no room for one more in this process
                await asyncio.sleep(RETRY_SECONDS)
                channel.send(accept_channel.credit(0))
                continue
            os.set_inheritable(descriptors[0], False)
            ends = accept_channel.ends(record[1:])
            if ends is None:
                os.close(descriptors[0])
                return False
            connected = Connection(descriptors[0], *ends[1:])
            connected.setblocking(False)
            await self._put(connected)

    async def _fetch(self) -> None:
        from ztclient.v1 import node_pb2 as pb

        request = pb.AcceptRequest(listener_id=self._id)
        try:
            while True:
                answer = await self._control.call(self._control.stub.Accept, request, None)
                try:
                    connected = await connected_socket(self._control, answer.connection)
                except ConnectionError:
                    continue  # reset by its peer before it was fetched, as happens in a kernel's queue too
                await self._put(connected)
        except Exception as error:
            self._end(error)
