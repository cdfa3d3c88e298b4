"""What a listener brings its client by the worker's hand-off socket, without the node.

``ListenResponse.handoff_path`` in ``node.proto`` has the bytes. A client that knows its listener's token attends to the
listener: its channel stays open, and on it the client says for how many connections it has room, and the worker which
ones there are. What the client has no room for stays in the listener's own queue, as a backlog does; so nothing here
waits for a client, and nothing is lost where one goes away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.wire.endpoint import ip_bytes
from ztnode.worker.adoption import let_go
from ztnode.worker.control_requests import PairHost, ParkedConnection
from ztnode.worker.handoff_server import ATTENDANCE, EXHAUSTED
from ztnode.worker.poller import READ, WRITE
from ztnode.worker.splice import Splice
from ztnode.worker.tcp_pair import buffer_for, reset_on_close, set_buffers

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection
    from ztnode.worker.control_requests import Listener
    from ztnode.worker.handoff_server import HandoffServer
    from ztnode.worker.poller import Poller

SOURCES: Final = 0
"""How a client wants its connections. It sends sockets, bound and not connected, each with its number; the worker
writes a connection's ends into the client's table, connects such a socket to the client's own listening one, and joins
it to the connection."""
DESCRIPTORS: Final = 1
"""Its ends, with the descriptor of one end of a TCP pair."""
TOKENS: Final = 2
"""Its ends, with a token for the hand-off socket."""
ENDS: Final = struct.Struct("!HB16sH16sH")
"""The port from above, length of the addresses (4 or 16), address and port of our end, of the peer's."""
CREDIT: Final = struct.Struct("!H")
"""Room for one more connection: the number of its source; of the other kinds it means nothing."""
MAX_CREDITS: Final = 64
"""What a client may have outstanding: each may be a descriptor of ours."""
OPEN: Final = b"\0"
"""The answer to who attends; then before each connection's ends. Of sources: one has been used."""
ENDED: Final = b"\1"
"""Nothing will come any more; the node knows why."""
DEAF: Final = b"\3"
"""Of sources: nobody listens at the client's port."""

_READ_BYTES: Final = MAX_CREDITS * CREDIT.size
_F_GET_SEALS: Final = 1034


class AcceptHost(PairHost, Protocol):
    """What a channel asks of the loop that it lives on."""

    @property
    def handoff(self) -> HandoffServer: ...


def attend(
    host: AcceptHost, listener: Listener | None, request: bytes, sock: socket.socket, brought: Sequence[int]
) -> None:
    """Let ``sock``, which does not block, bring the connections of a listener, in place of the channel that did so
    before. ``brought``: for sources the descriptor of the table of ends. Raises OSError, ValueError: then all
    descriptors are the caller's still."""
    _, kind, port = ATTENDANCE.unpack(request)
    if listener is None or kind not in _KINDS or len(brought) != (kind == SOURCES):
        raise ValueError("there is no such listener, or it is not to be had so")
    if kind == SOURCES:
        fcntl.fcntl(brought[0], _F_GET_SEALS)  # memory, and no file that one may wait for
    sock.send(OPEN)
    former = listener.channel
    listener.channel = None
    if former is not None:
        former.close()
    listener.channel = _KINDS[kind](host, listener, sock, port, brought)


class AcceptChannel:
    """The way to one client, which may take ``credits`` connections."""

    def __init__(
        self, host: AcceptHost, listener: Listener, sock: socket.socket, port: int, brought: Sequence[int]
    ) -> None:
        self.credits = 0
        self._host = host
        self._listener = listener
        self._sock = sock
        self._port = port
        self._table = brought[0] if brought else -1
        host.poller.register(sock.fileno(), READ, self._on_credit)

    @property
    def has_room(self) -> bool:
        """See Channel."""
        return self.credits > 0

    def bring(self, connection: TcpConnection) -> None:
        """See Channel."""
        try:
            self._give(connection, self._ends(connection))
        except OSError as error:
            # Descriptors are missing, or the client does not read: as in a kernel's queue whose owner goes away.
            self._host.handoff.is_exhausted(error)
            connection.owner = None
            connection.abort()

    def flush(self) -> None:
        """See Channel."""

    def end(self) -> None:
        """See Channel."""
        if self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._sock.send(ENDED)
        self.close()

    def close(self) -> None:
        """See Channel."""
        if self._sock.fileno() < 0:
            return
        self._host.poller.unregister(self._sock.fileno())
        self._sock.close()
        if self._table >= 0:
            os.close(self._table)
        self.credits = 0
        if self._listener.channel is self:
            self._listener.channel = None

    def _on_credit(self, _mask: int) -> None:
        try:
            data, descriptors, _flags, _ = socket.recv_fds(self._sock, _READ_BYTES, MAX_CREDITS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        try:
            # A stream hands out what came with descriptors as it was sent, so numbers are whole here.
            if not data or len(data) % CREDIT.size or self.credits + len(data) // CREDIT.size > MAX_CREDITS:
                raise ValueError("no credits")
            self._credit([number for (number,) in CREDIT.iter_unpack(data)], descriptors)
        except (OSError, ValueError):
            for descriptor in descriptors:
                let_go(descriptor)
            self.close()
            return
        self._listener.on_ready()

    def _credit(self, numbers: list[int], descriptors: list[int]) -> None:
        """Room for so many more. Raises ValueError, OSError; ``descriptors`` has what was not taken over."""
        if descriptors:
            raise ValueError("nothing was to be brought")
        self.credits += len(numbers)

    def _give(self, connection: TcpConnection, ends: bytes) -> None:
        """Raises OSError where it is not the client's."""
        raise NotImplementedError

    def _send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Who leaves so much unread that there is no room is no client. Raises OSError."""
        try:
            socket.send_fds(self._sock, [data], descriptors)
        except OSError:
            self.close()
            raise

    def _ends(self, connection: TcpConnection) -> bytes:
        (ip, port), (peer, peer_port) = connection.local, connection.remote
        packed = ip_bytes(ip)
        return ENDS.pack(self._port, len(packed), packed, port, ip_bytes(peer), peer_port)


class _Descriptors(AcceptChannel):
    def _give(self, connection: TcpConnection, ends: bytes) -> None:
        ours, client = self._host.pairs.take(self._host.now)
        with client:
            try:
                self._send(OPEN + ends, [client.fileno()])
            except BaseException:
                ours.close()
                raise
        self.credits -= 1
        self._host.handoff.counters["handoffs"] += 1
        Splice(connection, ours, self._host)


class _Tokens(AcceptChannel):
    def _give(self, connection: TcpConnection, ends: bytes) -> None:
        token = self._host.handoff.offer(ParkedConnection(self._host, connection))
        try:
            self._send(OPEN + ends + token)
        except OSError:
            self._host.handoff.withdraw(token)
            raise
        self.credits -= 1


class _Sources(AcceptChannel):
    def __init__(
        self, host: AcceptHost, listener: Listener, sock: socket.socket, port: int, brought: Sequence[int]
    ) -> None:
        super().__init__(host, listener, sock, port, brought)
        self._sources: deque[tuple[int, socket.socket]] = deque()
        self._used = 0
        self._connecting: _Connecting | None = None

    @property
    def has_room(self) -> bool:
        """See AcceptChannel."""
        return self.credits > 0 and self._connecting is None

    def close(self) -> None:
        """See AcceptChannel."""
        super().close()
        while self._sources:
            self._sources.pop()[1].close()
        if self._connecting is not None:
            self._connecting.give_up()

    def flush(self) -> None:
        """Tell how many were used, once it is half of them: the client need not wake up for each."""
        if self._used and self._used >= self.credits:
            used, self._used = self._used, 0
            with contextlib.suppress(OSError):
                self._send(OPEN * used)

    def _credit(self, numbers: list[int], descriptors: list[int]) -> None:
        lost = len(numbers) - len(descriptors)
        if lost < 0:
            raise ValueError("each socket has a number")
        buffer = buffer_for(self._host.pairs.clients)
        for number in numbers[: len(descriptors)]:
            self._sources.append((number, _source(descriptors[0], buffer)))
            del descriptors[0]
            self.credits += 1
        if lost:  # this process has no room for their descriptors
            self._host.handoff.is_exhausted(OSError(errno.EMFILE, ""))
            self._send(EXHAUSTED * lost)

    def _give(self, connection: TcpConnection, ends: bytes) -> None:
        number, source = self._sources.popleft()
        self.credits = len(self._sources)
        self._used += 1
        try:
            os.pwrite(self._table, ends, number * ENDS.size)
        except OSError:
            source.close()
            self.close()
            raise
        error = self._connect(source)
        if error == errno.EALREADY:
            self._connecting = _Connecting(self, self._host.poller, connection, source)
        else:
            self._connected(connection, source, error)

    def _connect(self, source: socket.socket) -> int:
        """0, EALREADY while it takes, or why not."""
        where = "127.0.0.1", self._port
        error = source.connect_ex(where)
        if error == errno.EINPROGRESS:  # on loopback it is over by now, and the second call says so
            error = source.connect_ex(where)
        return error

    def _connected(self, connection: TcpConnection, source: socket.socket, error: int) -> None:
        if not error:
            self._host.handoff.counters["handoffs"] += 1
            Splice(connection, source, self._host)
            return
        source.close()
        if error == errno.EADDRNOTAVAIL and self._sources:
            # The ends of an earlier connection stay known to the kernel for a minute, and 65,536 numbers come round.
            self.bring(connection)
            return
        connection.owner = None
        connection.abort()
        if error == errno.ECONNREFUSED:
            with contextlib.suppress(OSError):
                self._send(DEAF)
            self.close()

    def goes_on(self, connecting: _Connecting) -> None:
        """What was being connected is."""
        error = self._connect(connecting.source)
        if error != errno.EALREADY:
            self._connecting = None
            connecting.let_go()
            self._connected(connecting.connection, connecting.source, error)
            self._listener.on_ready()

    def gave_up(self) -> None:
        """What was being connected will not be."""
        self._connecting = None


class _Connecting:
    """A connection for which the client's listening socket has no room yet; those behind it wait."""

    def __init__(self, channel: _Sources, poller: Poller, connection: TcpConnection, source: socket.socket) -> None:
        self.connection = connection
        self.source = source
        self._channel = channel
        self._poller = poller
        connection.owner = self
        poller.register(source.fileno(), WRITE, lambda _mask: channel.goes_on(self))

    def let_go(self) -> None:
        self._poller.unregister(self.source.fileno())

    def give_up(self) -> None:
        self._channel.gave_up()
        self.let_go()
        self.source.close()
        self.connection.owner = None
        self.connection.abort()

    def on_ready(self) -> None:
        """Whatever arrives waits in the connection, a reset included: the client is to see it."""


def _source(descriptor: int, buffer: int) -> socket.socket:
    """A socket that is not connected yet, set as the worker's end of a pair is. Raises OSError, ValueError: then
    ``descriptor`` is the caller's."""
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    try:
        if sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM:
            raise ValueError("a TCP socket was expected")
        sock.setblocking(False)
        reset_on_close(sock)
        # The window scale is agreed upon in the handshake: buffers come before it.
        set_buffers(sock, buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.detach()
        raise
    return sock


_KINDS: Final = {SOURCES: _Sources, DESCRIPTORS: _Descriptors, TOKENS: _Tokens}
