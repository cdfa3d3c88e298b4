"""Accepting connections from the overlay on an event loop."""

from __future__ import annotations

import asyncio
import errno
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ztclient.aio.dialling import connected_socket
from ztclient.overlay_socket import Connection, OverlayAddress, overlay_address

if TYPE_CHECKING:
    from ztclient.aio.channel import Control
    from ztclient.v1 import node_pb2 as pb

PREFETCH = 16
"""Connections fetched from the node before accept() asks for them."""
FETCHERS = 4
"""Connections that are fetched side by side; each takes a round trip to the node and one to a worker."""


class Listener:
    """A listener on the overlay, made by ``Node.listen``. An async context manager."""

    def __init__(self, control: Control, lease: Any, answer: pb.ListenResponse) -> None:
        self._control = control
        self._lease = lease
        self._id = answer.listener_id
        self._bound = overlay_address(answer.bound.ip, answer.bound.port)
        self._ready: asyncio.Queue[Connection] = asyncio.Queue(PREFETCH)
        loop = asyncio.get_running_loop()
        self._fetchers = [loop.create_task(self._fetch()) for _ in range(FETCHERS)]
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
        await asyncio.gather(*self._fetchers, return_exceptions=True)
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
        for fetcher in self._fetchers:
            fetcher.cancel()
        if not self._ended.done():
            if reason is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(reason)
                self._ended.exception()  # seen: it need not be asked for

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
                try:
                    await self._ready.put(connected)
                except BaseException:
                    connected.close()
                    raise
        except Exception as error:
            self._end(error)
