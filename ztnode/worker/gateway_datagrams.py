"""Datagrams and pings through the gateway: a connected socket of the host for each flow, until it has been idle."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from ztnode.netstack.transit import EchoFlow, UdpFlow
from ztnode.worker.poller import ERROR, READ, Poller

if TYPE_CHECKING:
    from ztnode.netstack.stack import Stack

UDP_IDLE: Final = 60.0
"""Seconds without a datagram either way."""
DNS_IDLE: Final = 10.0
"""A question and its answer are all that there is to such a flow, and there are many."""
ECHO_IDLE: Final = 10.0
DNS_PORT: Final = 53
UDP_FLOWS: Final = 1024
ECHO_FLOWS: Final = 128
"""At a time, whatever the gateway as a whole may have: each holds what the kernel queues for it."""
BATCH: Final = 64
"""Datagrams of one flow before others have their turn."""
MAX_DATAGRAM: Final = 65535

_LINUX: Final = sys.platform == "linux"
_RECVERR: Final = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR of Linux: without them only a closed port is told, not a host that nobody finds."""
_ERROR_QUEUE: Final = 0x2000
"""MSG_ERRQUEUE of Linux."""
_ERRNO: Final = struct.Struct("=I")
"""What a struct sock_extended_err begins with."""
_ECHO: Final = struct.Struct("!BBHHH")
_REQUEST, _REQUEST_V6 = 8, 128
_REPLY, _REPLY_V6 = 0, 129

Key = TypeVar("Key", bound=UdpFlow | EchoFlow)


class FlowHost(Protocol):
    """What flows ask of the gateway."""

    @property
    def stack(self) -> Stack: ...

    @property
    def poller(self) -> Poller: ...

    @property
    def now(self) -> float: ...

    @property
    def congested(self) -> bool: ...

    @property
    def full(self) -> bool: ...

    def make_room(self) -> bool:
        """Give up an idle flow; False where there is none."""

    def count(self, what: str) -> None:
        """One more of it."""


class _Flow(Generic[Key]):
    """One of them. ``expires``: monotonic seconds."""

    __slots__ = ("expires", "key", "sock")

    def __init__(self, key: Key, sock: socket.socket, expires: float) -> None:
        self.key = key
        self.sock = sock
        self.expires = expires


class _Flows(ABC, Generic[Key]):
    """Flows of one kind, by their key; of those that may idle equally long, the one idle longest comes first."""

    def __init__(self, host: FlowHost, limit: int, idle: Callable[[Key], float]) -> None:
        """``idle``: seconds that a flow may idle."""
        self._host = host
        self._limit = limit
        self._idle = idle
        self._flows: dict[float, dict[Key, _Flow[Key]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._flows.values()))

    @abstractmethod
    def _open(self, key: Key) -> socket.socket:
        """A socket of the host, not connected. Raises OSError."""

    @abstractmethod
    def _answer(self, key: Key, data: bytes) -> None:
        """The target said this."""

    def _pass(self, key: Key, data: bytes, port: int) -> None:
        """Send ``data`` to the target, by a new socket if need be."""
        flow = self._find(key, port)
        if flow is None:
            return
        try:
            try:
                flow.sock.send(data)
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                    raise
                # What became of one before, perhaps; this one has not been sent yet.
                if not _LINUX:  # there the queue of errors tells
                    self._host.stack.report(key, error.errno, self._host.now)
                flow.sock.send(data)
        except BlockingIOError:
            self._host.count("gateway_dropped")
        except OSError as error:
            self._host.count("gateway_refused")
            self._host.stack.report(key, error.errno or errno.EIO, self._host.now)

    def _find(self, key: Key, port: int) -> _Flow[Key] | None:
        idle = self._idle(key)
        flows = self._flows.setdefault(idle, {})
        flow = flows.pop(key, None)
        host = self._host
        if flow is None:
            if len(self) >= self._limit:
                host.count("gateway_full")
                self.drop_oldest()
            elif host.full and not host.make_room():
                host.count("gateway_dropped")
                return None
            flow = self._connect(key, port)
            if flow is None:
                return None
        flow.expires = host.now + idle
        flows[key] = flow
        return flow

    def _connect(self, key: Key, port: int) -> _Flow[Key] | None:
        host = self._host
        try:
            sock = self._open(key)
        except PermissionError as error:  # pings, where the kernel has no sockets for them
            host.count("gateway_refused")
            host.stack.report(key, error.errno or errno.EACCES, host.now)
            return None
        except OSError:
            host.count("gateway_no_descriptor")
            return None
        try:
            sock.setblocking(False)
            if _LINUX:
                sock.setsockopt(*_RECVERR[sock.family], 1)
            sock.connect((socket.inet_ntop(sock.family, key.destination), port))
        except OSError as error:
            sock.close()
            host.count("gateway_refused")
            host.stack.report(key, error.errno or errno.EIO, host.now)
            return None
        flow = _Flow(key, sock, host.now)
        host.poller.register(sock.fileno(), READ, lambda mask: self._on_socket(flow, mask))
        return flow

    def _on_socket(self, flow: _Flow[Key], mask: int) -> None:
        host = self._host
        if mask & ERROR and _LINUX:
            self._take_errors(flow)
        for _ in range(BATCH):
            try:
                data = flow.sock.recv(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:  # ICMP has reported something
                if not _LINUX:
                    host.stack.report(flow.key, error.errno or errno.EIO, host.now)
                continue
            if host.congested:
                host.count("gateway_dropped")
            else:
                self._answer(flow.key, data)
        idle = self._idle(flow.key)
        flow.expires = host.now + idle
        self._flows[idle][flow.key] = self._flows[idle].pop(flow.key)

    def _take_errors(self, flow: _Flow[Key]) -> None:
        """Pass on what ICMP, or the host's own kernel, said of what was sent."""
        host = self._host
        for _ in range(BATCH):
            try:
                _, ancillary, _, _ = flow.sock.recvmsg(0, 512, _ERROR_QUEUE)
            except OSError:
                return
            for _, _, data in ancillary:
                number = _ERRNO.unpack_from(data)[0] if len(data) >= _ERRNO.size else 0
                if number and number != errno.EMSGSIZE:  # the kernel cuts the next one
                    host.stack.report(flow.key, number, host.now)

    # Their end

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        return min((next(iter(flows.values())).expires for flows in self._flows.values() if flows), default=None)

    def handle_timer(self, now: float) -> None:
        """End those that have been idle long enough."""
        for flows in self._flows.values():
            while flows and (flow := next(iter(flows.values()))).expires <= now:
                self._end(flow)

    def drop_oldest(self) -> bool:
        """End the one whose time would be over first; False where there is none."""
        first = [next(iter(flows.values())) for flows in self._flows.values() if flows]
        if not first:
            return False
        self._end(min(first, key=lambda flow: flow.expires))
        return True

    def keep(self, leads: Callable[[int, bytes], bool]) -> None:
        """End those to whose target there is no way through us any more."""
        for flow in self._all():
            if not leads(flow.key.port_index, flow.key.destination):
                self._end(flow)

    def close(self) -> None:
        """End all."""
        for flow in self._all():
            self._end(flow)

    def _all(self) -> list[_Flow[Key]]:
        return [flow for flows in self._flows.values() for flow in flows.values()]

    def _end(self, flow: _Flow[Key]) -> None:
        del self._flows[self._idle(flow.key)][flow.key]
        self._host.poller.unregister(flow.sock.fileno())
        flow.sock.close()


class Datagrams(_Flows[UdpFlow]):
    """UDP (RFC 4787: a flow for each pair of ends, known by both)."""

    def __init__(self, host: FlowHost) -> None:
        super().__init__(host, UDP_FLOWS, lambda key: DNS_IDLE if key.destination_port == DNS_PORT else UDP_IDLE)

    def send(self, flow: UdpFlow, data: bytes) -> None:
        """A member sends this."""
        if flow.destination_port:
            self._pass(flow, data, flow.destination_port)

    def _open(self, key: UdpFlow) -> socket.socket:
        return socket.socket(socket.AF_INET if len(key.destination) == 4 else socket.AF_INET6, socket.SOCK_DGRAM)

    def _answer(self, key: UdpFlow, data: bytes) -> None:
        self._host.stack.answer_datagram(key, data, self._host.now)


class Echoes(_Flows[EchoFlow]):
    """Pings, by the kernel's unprivileged sockets for them, which put in an identifier of their own and a checksum."""

    def __init__(self, host: FlowHost) -> None:
        super().__init__(host, ECHO_FLOWS, lambda _key: ECHO_IDLE)

    def send(self, flow: EchoFlow, sequence: int, body: bytes) -> None:
        """A member pings."""
        kind = _REQUEST if len(flow.destination) == 4 else _REQUEST_V6
        self._pass(flow, _ECHO.pack(kind, 0, 0, 0, sequence) + body, 0)

    def _open(self, key: EchoFlow) -> socket.socket:
        return open_echo(4 if len(key.destination) == 4 else 6)

    def _answer(self, key: EchoFlow, data: bytes) -> None:
        if sys.platform == "darwin" and len(key.destination) == 4:
            data = data[(data[0] & 15) << 2 :]  # comes with its IP header there
        if len(data) < _ECHO.size:
            return
        kind, code, _, _, sequence = _ECHO.unpack_from(data)
        if kind == (_REPLY if len(key.destination) == 4 else _REPLY_V6) and not code:
            self._host.stack.answer_echo(key, sequence, data[_ECHO.size :], self._host.now)


def open_echo(version: int) -> socket.socket:
    """A socket for pings that needs no rights. Raises PermissionError where the kernel has none for us."""
    if version == 4:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
