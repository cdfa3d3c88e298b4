"""Accepting connections from the overlay, with the manners of a listening socket."""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from ztclient.dialling import connected_socket
from ztclient.errors import from_rpc
from ztclient.loopback import socket_pair

if TYPE_CHECKING:
    import grpc

    from ztclient.channel import Control
    from ztclient.v1 import node_pb2 as pb

PREFETCH = 16
"""Connections fetched from the node before accept() asks for them."""

_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""poll(2) takes descriptors of any size and needs none of its own; Windows has select alone."""


class Listener:
    """A listening socket on the overlay: ``accept``, ``getsockname``, ``settimeout``, ``close``, and a ``fileno`` that
    select and socketserver can wait on. A thread fetches connections, so that waiting for one can be given up at any
    time without losing it."""

    def __init__(self, control: Control, ip: str, port: int, *, backlog: int, nwid: str | None, delay: bool) -> None:
        """Use ``Node.listen``."""
        from ztclient.v1 import node_pb2 as pb

        self._control = control
        self._timeout: float | None = None
        self._ready: deque[tuple[socket.socket, tuple[str, int]]] = deque()
        self._room = threading.Semaphore(PREFETCH)
        self._error: Exception | None = None
        self._closed = False
        self._accepting: grpc.Future[pb.AcceptResponse] | None = None
        self._lock = threading.Lock()
        with control.translated():
            self._lease = control.stub.Listen(
                pb.ListenRequest(ip=ip, port=port, network_id=nwid or "", backlog=backlog, delay=delay),
                metadata=control.metadata,
            )
            answer = next(self._lease)
        self._id = answer.listener_id
        self._bound = (answer.bound.ip, answer.bound.port)
        # One byte in the pair for each connection in _ready.
        self._readable, self._signal = socket.socketpair() if hasattr(socket, "AF_UNIX") else socket_pair()
        self._readable.setblocking(False)
        threading.Thread(target=self._fetch, name="ztclient-listener", daemon=True).start()

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection: a connected socket (blocking) and the peer's overlay address.

        Raises TimeoutError after the time of ``settimeout``, OSError when the listener is closed or the node is gone.
        """
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                if self._readable.recv(1):
                    self._room.release()
                    return self._ready.popleft()
                raise self._error or OSError(errno.EBADF, "the listener is closed")
            except BlockingIOError:
                pass
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, "no connection waits")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            with _Selector() as selector:
                selector.register(self._readable, selectors.EVENT_READ)
                selector.select(left)

    def getsockname(self) -> tuple[str, int]:
        """What was bound: IP and port on the overlay."""
        return self._bound

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that accept() waits; None: for ever, 0: not at all."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """What ``settimeout`` set."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self.settimeout(None if flag else 0.0)

    def fileno(self) -> int:
        """A descriptor that is readable while a connection waits, or once closed. Only to wait on."""
        return self._readable.fileno()

    def close(self) -> None:
        """Stop listening. Connections already accepted live on; those not yet accepted are reset."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._accepting is not None:
                self._accepting.cancel()
        self._lease.cancel()
        self._room.release()  # wakes the thread, should it wait for room
        self._signal.close()
        while self._ready:
            self._ready.popleft()[0].close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self) -> None:
        import grpc

        try:
            while self._fetch_one():
                pass
        except grpc.FutureCancelledError:
            pass  # by close()
        except grpc.RpcError as error:
            self._error = from_rpc(error, str(self._control.address))
        finally:
            self._lease.cancel()
            self._signal.close()

    def _fetch_one(self) -> bool:
        from ztclient.v1 import node_pb2 as pb

        self._room.acquire()
        with self._lock:
            if self._closed:
                return False
            self._accepting = self._control.stub.Accept.future(
                pb.AcceptRequest(listener_id=self._id), metadata=self._control.metadata
            )
        connection = self._accepting.result().connection
        try:
            connected = connected_socket(self._control, connection)
        except OSError:
            # Reset by its peer before it was fetched, as happens in a kernel's queue too; there is nothing to accept.
            self._room.release()
            return True
        with self._lock:
            if self._closed:
                connected.close()
                return False
            self._ready.append((connected, (connection.remote.ip, connection.remote.port)))
            self._signal.send(b"\0")
        return True
