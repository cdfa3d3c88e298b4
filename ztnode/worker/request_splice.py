"""A proxy's client that asks in absolute form, spliced to the server that it asks.

As any splice, but what the client sends is read as requests, each made ready for the server (``ztnode.proxy.http``).
At the first that is for somebody else reading stops, and once the answers to those before it have been delivered the
client's socket goes back to the proxy (``ztnode.worker.loan``). What a server says beyond its answers
(``ztnode.proxy.answers``) ends the connection: the client would take it for the answer of whom it asks next.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Final

from ztnode.proxy.answers import MAX_OWED, AnswerStream
from ztnode.proxy.http import AnotherTarget, BadRequest, RequestStream
from ztnode.worker.adoption import adopt, let_go
from ztnode.worker.loan import MAX_MESSAGE, Return, build_return, parse_loan, split
from ztnode.worker.poller import READ
from ztnode.worker.splice import CHUNK, FIRST_READ, Splice, SpliceHost
from ztnode.worker.tcp_pair import finish_on_close

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection
    from ztnode.wire.buffer import Buffer

LEAVE_SECONDS: Final = 30.0
"""How long a server may take to answer a client that has sent it nonsense, before the proxy says that it is."""


def borrow(connection: TcpConnection, descriptor: int, way_back: int, host: SpliceHost, clients: int) -> None:
    """Splice a connection and a lent socket, one of ``clients``; both descriptors are closed in time, whatever
    happens. Raises OSError for what is no loan."""
    with contextlib.ExitStack() as undo:
        undo.callback(let_go, way_back)
        sock = adopt(descriptor, clients)
        undo.callback(sock.close)
        channel = socket.socket(fileno=way_back)
        undo.callback(channel.detach)
        channel.setblocking(False)
        try:
            RequestSplice(connection, sock, channel, host)
        except (ValueError, RecursionError) as error:
            raise OSError(errno.EPROTO, "not a loan") from error
        undo.pop_all()


class RequestSplice(Splice):
    """Owns ``channel`` too, the worker's end of the pair, in which a ``Loan`` waits. Raises ValueError, OSError when it
    does not; then ``sock`` and ``channel`` are still the caller's."""

    __slots__ = ("_answers", "_channel", "_leaving", "_moved", "_requests", "_target", "_unasked")

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
        self._answers = AnswerStream()
        self._unasked = False
        """Whether the server has said more than it was asked."""
        self._leaving: Return | None = None
        self._moved = True
        self._channel: socket.socket | None = channel
        host.poller.register(channel.fileno(), READ, self._on_channel)
        super().__init__(connection, sock, host)
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the connection has failed, and on_ready says so
                self._pass_on(loan.data)

    def _read(self) -> list[Buffer]:
        if self._unasked:
            return []
        views = self.connection.read(CHUNK)
        for position, view in enumerate(views):
            size = self._answers.measure(view)
            if size < len(view):
                self._unasked = True
                return [*views[:position], view[:size]]
        return views

    def _deliver(self) -> bool:
        if self._pending or self.connection.readable:
            self._moved = True
        if not super()._deliver():
            return False
        return (self._leaving is None and not self._unasked) or not self._settle()

    def _settle(self) -> bool:
        """Whether this splice has ended, as what was to be delivered has been."""
        if self._pending:
            return False
        if self._leaving is not None and not self._leaving.last and not self._answers.owed:
            self._give_back(self._leaving)
        elif self._unasked:
            self._finish()
        return self._fd < 0

    def _has_room(self) -> bool:
        return self._leaving is None and self._answers.owed <= MAX_OWED and super()._has_room()

    def _pass_on(self, data: bytes) -> None:
        self._moved = True
        requests = self._requests
        if data == requests.repeatable:
            self._answers.expect(requests.repeated)
            self.connection.write(requests.repeated)
        else:
            self._pass_on_requests(data)
        if self._answers.owed > MAX_OWED and self._fd >= 0:
            self._watch(self._mask & ~READ)  # until some of them have come

    def _pass_on_requests(self, data: bytes) -> None:
        try:
            for request, piece in self._requests.receive(data, self._target):
                if request is not None:
                    self._answers.expect(piece)
                    if self._requests.raw:
                        self._answers.expect_anything()
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
        if given_back.last:
            self.connection.shutdown()
            self._deadline = self._host.now + LEAVE_SECONDS
            self._host.splice_draining(self)
        else:
            self._settle()

    def _overlay_ended(self) -> None:
        if self._leaving is None:
            super()._overlay_ended()
        elif self._leaving.last and not self._answers.under_way:
            self._give_back(self._leaving)
        else:
            self._finish()  # half an answer, or one that only the end of the connection ends

    def handle_timer(self, now: float) -> None:
        """See Splice; and of a server that does not end."""
        if self._leaving is None or self._draining:
            super().handle_timer(now)
        elif now >= self._deadline and self._fd >= 0:
            if self._answers.under_way or self._pending:
                self._finish()
            else:
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
