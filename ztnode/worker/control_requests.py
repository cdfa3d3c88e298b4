"""What the node asks of a worker, one small class per kind of thing that is under way.

Each object that waits for the stack is the ``owner`` of what it waits for: the loop calls ``on_ready`` when it changed.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections import deque
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.wire.endpoint import Endpoint
from ztnode.worker import protocol
from ztnode.worker.adoption import adopt
from ztnode.worker.explain import explain
from ztnode.worker.splice import Splice, SpliceHost
from ztnode.worker.tcp_pair import PairStock, buffer_for
from ztnode.worker.udp_pairs import DatagramHost, DatagramRelay

if TYPE_CHECKING:
    from ztnode.netstack.stack import Stack
    from ztnode.netstack.tcp.connection import TcpConnection
    from ztnode.worker.handoff_server import HandoffServer

CONNECTIONS_AT_ONCE: Final = 256
"""In one list; ten thousand would hold up the loop, and a message has its bound."""
_UDP_REFUSALS: Final = {
    errno.EPERM: "the network carries no multicast: its controller has set the multicast limit to 0",
    errno.EACCES: "the network carries no broadcasts: its controller has them switched off",
    errno.ENOBUFS: "too many multicast groups are joined",
    errno.ENODEV: "this is no address of ours on the socket's networks",
    errno.EADDRINUSE: "this group is joined already",
    errno.EADDRNOTAVAIL: "this group is not joined, or this is no address of ours",
    errno.EINVAL: "this is no multicast group, or no such option",
}
MAX_REQUESTS: Final = 16384
"""Requests under way, listeners included."""


class PairHost(SpliceHost, Protocol):
    """What a connection that waits for its client asks of the loop."""

    @property
    def pairs(self) -> PairStock: ...


class RequestHost(PairHost, DatagramHost, Protocol):
    """What requests ask of the loop that they live on."""

    @property
    def stack(self) -> Stack: ...

    @property
    def handoff(self) -> HandoffServer: ...

    def send(self, message: protocol.ToNode) -> None:
        """Send to the node."""


class ParkedConnection:
    """An established connection that waits for its client to fetch it."""

    def __init__(self, host: PairHost, connection: TcpConnection) -> None:
        self._host = host
        self._connection = connection
        self._ours: socket.socket | None = None
        connection.owner = self

    def fetch(self) -> socket.socket:
        """The client's end of a pair. Raises OSError."""
        self._ours, client = self._host.pairs.take(self._host.now)
        return client

    def fetched(self) -> None:
        """Join the connection to our end. Raises OSError."""
        if self._ours is not None:
            Splice(self._connection, self._ours, self._host)

    def bring(self, descriptor: int, way_back: int | None) -> None:
        """Join the connection to a socket that its client brought or lends. Raises OSError."""
        if way_back is None:
            Splice(self._connection, adopt(descriptor, self._host.pairs.clients), self._host)
            return
        from ztnode.worker.request_splice import borrow  # regular expressions, for proxies alone

        borrow(self._connection, descriptor, way_back, self._host, self._host.pairs.clients)

    def expire(self) -> None:
        """Nobody came for it."""
        self._connection.owner = None
        self._connection.abort()
        if self._ours is not None:
            self._ours.close()

    def on_ready(self) -> None:
        """Whatever arrives waits in the connection, a reset included: the client is to see it."""


class _Dial:
    def __init__(self, requests: Requests, message: protocol.Dial, connection: TcpConnection) -> None:
        self._requests = requests
        self._message = message
        self._connection = connection
        connection.owner = self

    def on_ready(self) -> None:
        connection, message = self._connection, self._message
        if connection.error is not None:
            number = connection.error.errno or errno.EIO
            self._requests.done(message.id)
            self._requests.fail(message.id, number, explain(number, message.host, message.port, message.timeout))
        elif connection.established:
            self._requests.done(message.id)
            token = self._requests.park(message.id, connection)
            if token is not None:
                self._requests.host.send(protocol.Dialled(message.id, token, connection.local, connection.remote))

    def cancel(self) -> None:
        self._connection.owner = None
        self._connection.abort()


class Channel(Protocol):
    """How a client has a listener's connections brought: see ``ztnode.worker.accept_channel``."""

    @property
    def has_room(self) -> bool:
        """Whether ``bring`` may be called."""

    def bring(self, connection: TcpConnection) -> None:
        """Give the client a connection."""

    def flush(self) -> None:
        """All that there is for now has been brought."""

    def end(self) -> None:
        """Nothing comes any more, and the client is to know."""

    def close(self) -> None:
        """Be gone; connections stay where they are."""


class Listener:
    """One that the node asked for, until it cancels that."""

    def __init__(self, requests: Requests, message: protocol.Listen) -> None:
        """Raises OSError, ValueError."""
        self.channel: Channel | None = None
        """By which its client has the connections brought, instead of asking the node for each."""
        self._requests = requests
        self._message = message
        self._waiting: deque[int] = deque()
        self._listener = requests.host.stack.listen(
            message.host,
            message.port,
            backlog=message.backlog,
            port_index=message.index,
            congestion=message.congestion,
        )
        self._listener.owner = self

    @property
    def local(self) -> Endpoint:
        """What was bound."""
        return self._message.host or "", self._listener.port

    def accept(self, request: int) -> None:
        """Answer the node's request with the next connection."""
        self._waiting.append(request)
        self.on_ready()

    def forget(self, request: int) -> None:
        """It wants none any more."""
        self._waiting.remove(request)

    def next(self) -> TcpConnection | None:
        """The connection that waits longest."""
        connection = self._listener.accept()
        if connection is not None:
            connection.nodelay = self._message.nodelay
        return connection

    def on_ready(self) -> None:
        """Give out what waits, as far as somebody wants it."""
        if (channel := self.channel) is not None:
            while channel.has_room and (connection := self.next()) is not None:
                channel.bring(connection)
            channel.flush()
        while self._waiting and (connection := self.next()) is not None:
            request = self._waiting.popleft()
            self._requests.done(request)
            token = self._requests.park(request, connection)
            if token is not None:
                self._requests.host.send(protocol.Accepted(request, token, connection.local, connection.remote))
        if (error := self._listener.error) is not None:
            self._fail(error.errno or errno.EIO, "the network that the listener was bound to is gone")

    def cancel(self) -> None:
        """Listen no more."""
        self._listener.owner = None
        self._listener.close()
        self._fail(errno.EINVAL, "the listener was closed")
        self._requests.attended.pop(self._message.token, None)

    def _fail(self, number: int, reason: str) -> None:
        if self.channel is not None:
            self.channel.end()
        while self._waiting:
            request = self._waiting.popleft()
            self._requests.done(request)
            self._requests.fail(request, number, reason)


class _Accept:
    def __init__(self, listener: Listener, request: int) -> None:
        self._listener = listener
        self._request = request

    def cancel(self) -> None:
        self._listener.forget(self._request)


class _Ping:
    def __init__(self, requests: Requests, message: protocol.Ping) -> None:
        host = requests.host
        self._requests = requests
        self._message = message
        self.deadline = host.now + message.timeout
        self._socket = host.stack.ping(message.host, host.now, port_index=message.index)
        self._socket.owner = self
        self._socket.send(os.urandom(message.size), host.now)

    def on_ready(self) -> None:
        if self._socket.error is not None:
            self.fail(self._socket.error.errno or errno.EIO)
        elif replies := self._socket.replies():
            self._requests.done(self._message.id)
            self._socket.close()
            self._requests.host.send(protocol.Pong(self._message.id, replies[0].round_trip))

    def fail(self, number: int) -> None:
        message = self._message
        self._requests.done(message.id)
        self._socket.close()
        self._requests.fail(message.id, number, explain(number, message.host, None, message.timeout))

    def cancel(self) -> None:
        self._socket.owner = None
        self._socket.close()


class _FindNeighbour:
    """Asks the neighbour for an echo, which makes the stack look for its MAC; it need not answer that."""

    def __init__(self, requests: Requests, message: protocol.FindNeighbour) -> None:
        host = requests.host
        self._requests = requests
        self._message = message
        self.deadline = host.now + message.timeout
        self._flow = host.stack.find_flow(ip_address(message.host).packed, host.now, port_index=message.index)
        self._socket = host.stack.ping(message.host, host.now, port_index=message.index)
        self._socket.owner = self
        self.answered = False
        if not self._answer():
            self._socket.send(b"", host.now)

    def _answer(self) -> bool:
        """Whether the MAC is known; then it is told."""
        flow = self._flow
        if flow.loopback:
            address, mac = flow.remote, flow.port.mac
        elif flow.next_hop is not None and flow.neighbour is not None and any(flow.neighbour.mac):
            address, mac = flow.next_hop, flow.neighbour.mac
        else:
            return False
        message = self._message
        self.answered = True
        self._requests.done(message.id)
        self._socket.close()
        answer = protocol.NeighbourFound(
            message.id, flow.port_index, str(ip_address(address)), int.from_bytes(mac, "big")
        )
        self._requests.host.send(answer)
        return True

    def on_ready(self) -> None:
        if not self._answer() and self._socket.error is not None:
            self.fail(self._socket.error.errno or errno.EIO)

    def fail(self, number: int) -> None:
        message = self._message
        if number == errno.ETIMEDOUT and self._answer():
            return  # it has a MAC and lets pings pass by
        self._requests.done(message.id)
        self._socket.close()
        self._requests.fail(message.id, number, explain(number, message.host, None, message.timeout))

    def cancel(self) -> None:
        self._socket.owner = None
        self._socket.close()


class Requests:
    """The requests under way, by the node's id."""

    def __init__(self, host: RequestHost) -> None:
        self.host = host
        self.attended: dict[bytes, Listener] = {}
        """The listeners by what their clients know them by at the hand-off socket."""
        self._open: dict[int, _Dial | Listener | _Accept | _Ping | _FindNeighbour] = {}
        self.timed: set[_Ping | _FindNeighbour] = set()
        """Empty: there is no timer."""
        self._relays: dict[bytes, DatagramRelay] = {}

    def handle(
        self,
        message: protocol.Request,
    ) -> None:
        """Begin; the answer comes now or later."""
        try:
            if len(self._open) >= MAX_REQUESTS or message.id in self._open:
                raise OSError(errno.EAGAIN, "too many requests are under way")
            match message:
                case protocol.Dial():
                    self._dial(message)
                case protocol.Listen():
                    self._listen(message)
                case protocol.Accept():
                    self._accept(message)
                case protocol.OpenUdp():
                    self._open_udp(message)
                case protocol.ConfigureUdp():
                    self._configure_udp(message)
                case protocol.Ping():
                    self._ping(message)
                case protocol.FindNeighbour():
                    self._find_neighbour(message)
                case protocol.ListConnections():
                    self._list_connections(message)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            target = (message.host, getattr(message, "port", None)) if hasattr(message, "host") else ("", None)
            self.fail(message.id, number, explain(number, *target) if isinstance(error, OSError) else str(error))

    def cancel(self, request: int) -> None:
        """Forget a request, close a listener; one that is answered already is none."""
        found = self._open.pop(request, None)
        if found is not None:
            found.cancel()
        if isinstance(found, _Ping | _FindNeighbour):
            self.timed.discard(found)

    def _dial(self, message: protocol.Dial) -> None:
        stack, now = self.host.stack, self.host.now
        connection = stack.connect(
            message.host,
            message.port,
            now,
            port_index=message.index,
            timeout=message.timeout,
            congestion=message.congestion,
        )
        connection.nodelay = message.nodelay
        dial = self._open[message.id] = _Dial(self, message, connection)
        dial.on_ready()

    def _listen(self, message: protocol.Listen) -> None:
        listener = self._open[message.id] = self.attended[message.token] = Listener(self, message)
        self.host.send(protocol.Listening(message.id, listener.local))

    def _accept(self, message: protocol.Accept) -> None:
        listener = self._open.get(message.listener)
        if not isinstance(listener, Listener):
            raise ValueError("the listener is closed")
        self._open[message.id] = _Accept(listener, message.id)
        listener.accept(message.id)

    def _open_udp(self, message: protocol.OpenUdp) -> None:
        udp = self.host.stack.udp(message.host, message.port, port_index=message.index, reuse=message.reuse)
        relay = DatagramRelay(udp, self.host, buffer_for(len(self._relays)))
        token = self.host.handoff.offer(relay)
        self._relays[token] = relay
        relay.on_end = lambda: self._relays.pop(token, None)
        self.host.send(protocol.UdpOpened(message.id, token, udp.local))

    def _configure_udp(self, message: protocol.ConfigureUdp) -> None:
        relay = self._relays.get(message.token)
        if relay is None:
            self.fail(message.id, errno.EBADF, "no UDP socket has this token: it was closed")
            return
        try:
            relay.configure(message.option, message.address, message.source, message.value)
        except OSError as error:
            number = error.errno or errno.EINVAL
            self.fail(message.id, number, _UDP_REFUSALS.get(number, os.strerror(number)))
        else:
            self.host.send(protocol.UdpConfigured(message.id))

    def _ping(self, message: protocol.Ping) -> None:
        ping = self._open[message.id] = _Ping(self, message)
        self.timed.add(ping)

    def _find_neighbour(self, message: protocol.FindNeighbour) -> None:
        finding = _FindNeighbour(self, message)
        if not finding.answered:
            self._open[message.id] = finding
            self.timed.add(finding)

    def _list_connections(self, message: protocol.ListConnections) -> None:
        connections = self.host.stack.tcp.connections()
        last = message.first + CONNECTIONS_AT_ONCE
        texts = tuple(
            json.dumps({"index": each.port_index, "local": each.local, "remote": each.remote, **each.info()})
            for each in connections[message.first : last]
        )
        self.host.send(protocol.ConnectionList(message.id, texts, len(connections) > last))

    def close(self) -> None:
        """The worker ends: cancel everything."""
        for request in list(self._open):
            self.cancel(request)

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        return min(each.deadline for each in self.timed) if self.timed else None

    def handle_timer(self, now: float) -> None:
        """Those whose time is over."""
        for each in [each for each in self.timed if each.deadline <= now]:
            each.fail(errno.ETIMEDOUT)

    # For the requests themselves

    def done(self, request: int) -> None:
        """It is about to be answered."""
        found = self._open.pop(request, None)
        if isinstance(found, _Ping | _FindNeighbour):
            self.timed.discard(found)

    def fail(self, request: int, number: int, reason: str) -> None:
        """Answer that it failed."""
        self.host.send(protocol.Failed(request, number, reason))

    def park(self, request: int, connection: TcpConnection) -> bytes | None:
        """Offer an established connection; its token, or None after having answered that there is no room."""
        try:
            return self.host.handoff.offer(ParkedConnection(self.host, connection))
        except OSError as error:
            connection.abort()
            self.fail(request, errno.ENOBUFS, str(error))
            return None
