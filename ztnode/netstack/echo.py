"""Asking others for an echo: what ``ping`` does (RFC 792, RFC 4443 section 4)."""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from typing import Final

from ztnode.netstack.ephemeral import choose_port
from ztnode.netstack.flow import Flow
from ztnode.netstack.host import Host
from ztnode.os_error import os_error
from ztnode.wire import checksum, icmp, icmpv6, ipv4

MAX_OUTSTANDING: Final = 256
"""Requests whose answer is still awaited; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class EchoReply:
    """One answer."""

    sequence: int
    payload: bytes
    hop_limit: int
    """Left over when it arrived."""
    round_trip: float
    """Seconds."""


class EchoSocket:
    """Sends echo requests to one address and collects the answers."""

    def __init__(self, layer: EchoLayer, flow: Flow, identifier: int) -> None:
        self._layer = layer
        self.flow = flow
        self.identifier = identifier
        self._sequence = 0
        self._sent: dict[int, float] = {}
        self._replies: deque[EchoReply] = deque(maxlen=MAX_OUTSTANDING)
        self.error: OSError | None = None
        """The last ICMP error, or EHOSTUNREACH when the next hop does not answer."""
        self.owner: object = None
        """Opaque to the stack."""

    def send(self, payload: bytes, now: float) -> int:
        """Send one request; returns its sequence number. Raises OSError (EMSGSIZE)."""
        if len(payload) > 65000:
            raise os_error(errno.EMSGSIZE)
        self._sequence = self._sequence + 1 & 0xFFFF
        while len(self._sent) >= MAX_OUTSTANDING:
            del self._sent[next(iter(self._sent))]
        self._sent[self._sequence] = now
        self._layer.request(self, self._sequence, payload)
        return self._sequence

    def replies(self) -> list[EchoReply]:
        """What came since the last call."""
        taken = list(self._replies)
        self._replies.clear()
        return taken

    def close(self) -> None:
        """Wait for nothing more."""
        self._layer.forget(self)

    def answered(self, sequence: int, payload: bytes, hop_limit: int, now: float) -> bool:
        """A reply came; False when nobody asked, or for the second time."""
        sent = self._sent.pop(sequence, None)
        if sent is None:
            return False
        self._replies.append(EchoReply(sequence, payload, hop_limit, now - sent))
        return True


class EchoLayer:
    """All echo sockets, by (port index, remote address, identifier)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sockets: dict[int, EchoSocket] = {}
        self.changed: dict[EchoSocket, None] = {}
        """What ``ready`` will give."""

    def open(self, flow: Flow) -> EchoSocket:
        """A socket with an unpredictable identifier. Raises OSError (EADDRINUSE) when all 65,536 are taken."""
        identifier = choose_port(self._host.random, (0, 0xFFFF), self._sockets)
        if identifier is None:
            raise os_error(errno.EADDRINUSE)
        socket = self._sockets[identifier] = EchoSocket(self, flow, identifier)
        return socket

    def forget(self, socket: EchoSocket) -> None:
        """The socket was closed."""
        if self._sockets.get(socket.identifier) is socket:
            del self._sockets[socket.identifier]

    def request(self, socket: EchoSocket, sequence: int, payload: bytes) -> None:
        """Build and send."""
        flow = socket.flow
        if len(flow.remote) == 4:
            message = icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, socket.identifier, sequence, payload))
            self._host.output.send(flow, ipv4.PROTOCOL_ICMP, message)
        else:
            word = socket.identifier << 16 | sequence
            pseudo = checksum.pseudo_sum(flow.local, flow.remote, icmpv6.PROTOCOL)
            message = icmpv6.build(icmpv6.Icmpv6(icmpv6.ECHO_REQUEST, 0, word, payload), pseudo)
            self._host.output.send(flow, icmpv6.PROTOCOL, message)

    def reply(
        self, port_index: int, source: bytes, identifier: int, sequence: int, payload: memoryview, hop_limit: int
    ) -> bool:
        """An echo reply arrived. False when nobody asked."""
        socket = self._find(port_index, source, identifier)
        if socket is None or not socket.answered(sequence, bytes(payload), hop_limit, self._host.clock.now):
            return False
        self.changed[socket] = None
        return True

    def icmp_error(self, port_index: int, remote: bytes, identifier: int, number: int | None) -> bool:
        """ICMP is about a request of ours; see ``UdpLayer.icmp_error``."""
        socket = self._find(port_index, remote, identifier)
        if socket is None:
            return False
        if number is not None:
            socket.error = os_error(number)
            self.changed[socket] = None
        return True

    def ready(self) -> list[EchoSocket]:
        """Those of which something changed since the last call."""
        changed = list(self.changed)
        self.changed.clear()
        return changed

    def _find(self, port_index: int, remote: bytes, identifier: int) -> EchoSocket | None:
        socket = self._sockets.get(identifier)
        if socket is None or socket.flow.remote != remote or socket.flow.port_index != port_index:
            return None
        return socket
