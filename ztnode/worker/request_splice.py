"""A proxy's client that asks in absolute form, spliced to the server that it asks.

As any splice, but what the client sends is read as requests, each made ready for the server (``ztnode.proxy.http``).
At the first that is for somebody else reading stops, the server learns that nothing more comes, and once it has
said all that it has to say the client's socket goes back to the proxy (``ztnode.worker.loan``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Final

from ztnode.proxy.http import AnotherTarget, BadRequest, RequestStream
from ztnode.worker.adoption import adopt
from ztnode.worker.loan import MAX_MESSAGE, Return, build_return, parse_loan, split
from ztnode.worker.poller import READ
from ztnode.worker.splice import FIRST_READ, Splice, SpliceHost
from ztnode.worker.tcp_pair import finish_on_close

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

LEAVE_SECONDS: Final = 30.0
"""How long a server may take to end its side after the client has turned to another."""


def borrow(connection: TcpConnection, descriptor: int, way_back: int, host: SpliceHost, clients: int) -> None:
    """Splice a connection and a lent socket, one of ``clients``; both descriptors are closed in time, whatever
    happens. Raises OSError for what is no loan."""
    try:
        sock = adopt(descriptor, clients)
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            channel = socket.socket(fileno=os.dup(way_back))
            undo.callback(channel.close)
            channel.setblocking(False)
            RequestSplice(connection, sock, channel, host)
            undo.pop_all()
    except (ValueError, RecursionError) as error:
        raise OSError(errno.EPROTO, "not a loan") from error
    finally:
        os.close(way_back)


class RequestSplice(Splice):
    """Owns ``channel`` too, the worker's end of the pair, in which a ``Loan`` waits. Raises ValueError, OSError when it
    does not; then ``sock`` and ``channel`` are still the caller's."""

    __slots__ = ("_channel", "_leaving", "_moved", "_requests", "_target")

    def __init__(
        self, connection: TcpConnection, sock: socket.socket, channel: socket.socket, host: SpliceHost
    ) -> None:
        message = split(channel.recv(MAX_MESSAGE + 4))
        if message is None:
            raise ValueError("half a loan")
        loan = parse_loan(message)
        self._target = loan.host, loan.port
        credentials = loan.credentials
        self._requests = RequestStream(None if credentials is None else lambda *shown: shown == credentials)
        self._leaving: Return | None = None
        self._moved = True
        self._channel: socket.socket | None = channel
        host.poller.register(channel.fileno(), READ, self._on_channel)
        super().__init__(connection, sock, host)
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the connection has failed, and on_ready says so
                self._pass_on(loan.data)

    def _deliver(self) -> bool:
        self._moved = True
        return super()._deliver()

    def _pass_on(self, data: bytes) -> None:
        self._moved = True
        try:
            for _request, piece in self._requests.receive(data, self._target):
                self.connection.write(piece)
        except AnotherTarget:
            self._leave(Return(False, self._requests.rest or b""))
        except BadRequest as error:
            # What begins a request the proxy can judge for itself: it may know other passwords than this client's.
            rest = self._requests.rest
            self._leave(Return(True, error.answer) if rest is None else Return(False, rest))
        if self._requests.rest is not None:
            # A request is short, and what is read beyond the last one for this server has to fit into a message.
            self._read_size = FIRST_READ

    def _leave(self, given_back: Return) -> None:
        if self._overlay_done:
            self._finish()  # the client has been told that its connection ends here
            return
        self._leaving = given_back
        self._watch(self._mask & ~READ)
        self.connection.shutdown()
        self._deadline = self._host.now + LEAVE_SECONDS
        self._host.splice_draining(self)

    def _overlay_ended(self) -> None:
        if self._leaving is None:
            super()._overlay_ended()
        else:
            self._give_back(self._leaving)

    def handle_timer(self, now: float) -> None:
        """See Splice; and of a server that does not end."""
        if self._leaving is None or self._draining:
            super().handle_timer(now)
        elif now >= self._deadline:
            self._give_back(self._leaving)

    def _give_back(self, given_back: Return) -> None:
        finish_on_close(self._sock)
        if self._channel is not None:
            message = build_return(given_back)
            with contextlib.suppress(OSError):  # the proxy has gone
                sent = socket.send_fds(self._channel, [message], [self._fd])
                self._channel.send(message[sent:])
        self.connection.close()
        self._end()

    def _on_channel(self, _mask: int) -> None:
        assert self._channel is not None
        try:
            asked = self._channel.recv(16)
        except BlockingIOError:
            return
        except OSError:
            asked = b""
        if not asked:
            self._close_channel()
        elif self._moved:
            self._moved = False
        else:
            self._finish()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._host.poller.unregister(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _end(self) -> None:
        self._close_channel()
        super()._end()
