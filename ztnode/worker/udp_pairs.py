"""A UDP socket of the overlay, relayed to a local client over a pair of Unix sockets that keep record boundaries.

Each record is one datagram: kind u8 (0), address length u8 (4 or 16), port u16 in network byte order, address, payload.
The address is the remote's: where it came from, or where it shall go. Kind 1 goes to the client alone and carries an
errno (u32, network byte order) in place of the payload: ICMP reported that for what was sent to this address. Kind 2
is the same with what the stack itself would not send to a group or broadcast address.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.wire.endpoint import Endpoint
from ztnode.worker.poller import ERROR, HANGUP, READ, WRITE, Poller

if TYPE_CHECKING:
    from ztnode.netstack.udp import UdpSocket

DATAGRAM: Final = 0
FAILURE: Final = 1
REFUSED: Final = 2
MAX_DATAGRAM: Final = 65535
MAX_REFUSALS: Final = 16
"""That wait for a client; the oldest goes first."""
BATCH: Final = 64
"""Datagrams relayed from one client before others have their turn."""
_HEADER: Final = struct.Struct("!BBH")
_ERRNO: Final = struct.Struct("!I")
# SEQPACKET tells when the client is gone, DGRAM does not; macOS has DGRAM alone.
_KIND: Final = socket.SOCK_DGRAM if sys.platform == "darwin" else socket.SOCK_SEQPACKET


class DatagramHost(Protocol):
    """What a relay asks of the loop that it lives on."""

    counters: dict[str, int]

    @property
    def poller(self) -> Poller: ...

    @property
    def now(self) -> float:
        """Monotonic seconds, of this round of the loop."""


class DatagramRelay:
    """Both halves of one relay. It is an offer until its client has fetched it (``handoff_server.Offer``)."""

    def __init__(self, udp: UdpSocket, host: DatagramHost) -> None:
        self._udp = udp
        self._host = host
        self._sock: socket.socket | None = None
        self._blocked: bytes | None = None
        self._failures: deque[tuple[OSError, Endpoint]] = deque()
        self._refusals: deque[bytes] = deque(maxlen=MAX_REFUSALS)
        self.on_end: Callable[[], object] = lambda: None
        """Called when it is no more."""
        udp.owner = self

    def configure(self, option: str, address: str | None, source: str | None, value: int) -> None:
        """See ``protocol.ConfigureUdp``. Raises OSError, ValueError for text that is no address."""
        udp = self._udp
        match option:
            case "join" if address is not None:
                udp.join(address, source)
            case "leave" if address is not None:
                udp.leave(address, source)
            case "multicast_source":
                udp.send_groups_from(address)
            case "multicast_hops" if 0 <= value <= 255:
                udp.multicast_hops = value
            case "multicast_loop":
                udp.multicast_loop = bool(value)
            case "broadcast":
                udp.set_broadcast(bool(value))
            case _:
                raise OSError(errno.EINVAL, "no such option")

    def fetch(self) -> socket.socket:
        """The client's end. Raises OSError."""
        ours, client = socket.socketpair(socket.AF_UNIX, _KIND)
        ours.setblocking(False)
        self._sock = ours
        return client

    def fetched(self) -> None:
        """The client has its end. Raises OSError."""
        if self._sock is not None:
            self._host.poller.register(self._sock.fileno(), READ, self._on_client)
            self.on_ready()

    def bring(self, descriptor: int, way_back: int | None) -> None:
        """A client of datagrams brings nothing. Raises OSError."""
        for each in (descriptor, way_back):
            if each is not None:
                os.close(each)
        raise OSError(errno.EOPNOTSUPP, "a UDP socket is fetched, not brought")

    def expire(self) -> None:
        """Nobody came for it, or its client is gone."""
        self.on_end()
        self._udp.owner = None
        self._udp.close()
        if self._sock is not None:
            self._host.poller.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def on_ready(self) -> None:
        """The overlay socket changed: pass on what came."""
        while self._sock is not None and (record := self._blocked or self._next()) is not None:
            try:
                self._sock.send(record)
                blocked = None
            except BlockingIOError:
                blocked = record
            except OSError:
                self.expire()
                return
            if (blocked is None) != (self._blocked is None):
                self._host.poller.modify(self._sock.fileno(), READ if blocked is None else READ | WRITE)
            self._blocked = blocked
            if blocked is not None:
                return

    def _next(self) -> bytes | None:
        if self._refusals:
            return self._refusals.popleft()
        if not self._failures:
            self._failures.extend(self._udp.errors())
        if self._failures:
            error, (host, port) = self._failures.popleft()
            return _header(FAILURE, host, port) + _ERRNO.pack(error.errno or 0)
        received = self._udp.recvfrom_packed()
        if received is None:
            return None
        data, address, port = received
        return build_record(address, port, data)

    def _on_client(self, mask: int) -> None:
        if mask & WRITE:
            self.on_ready()
        if self._sock is None or not mask & (READ | HANGUP | ERROR):
            return
        for _ in range(BATCH):
            try:
                record = self._sock.recv(MAX_DATAGRAM + 64)
            except BlockingIOError:
                return
            except OSError:
                record = b""
            if not record:
                self.expire()
                return
            self._send(record)

    def _send(self, record: bytes) -> None:
        counters = self._host.counters
        if len(record) < _HEADER.size:
            counters["udp_bad_record"] += 1
            return
        kind, length, port = _HEADER.unpack_from(record)
        end = _HEADER.size + length
        if kind != DATAGRAM or length not in (4, 16) or len(record) < end:
            counters["udp_bad_record"] += 1
            return
        address = record[_HEADER.size : end]
        try:
            self._udp.sendto_packed(record[end:], address, port, self._host.now)
        except OSError as error:
            counters["udp_unsendable"] += 1
            if error.errno in (errno.EACCES, errno.EPERM):
                self._refusals.append(_HEADER.pack(REFUSED, length, port) + address + _ERRNO.pack(error.errno))
                self.on_ready()


def build_record(address: bytes, port: int, payload: bytes) -> bytes:
    """A record that a client sends: to the packed ``address``."""
    return _HEADER.pack(DATAGRAM, len(address), port) + address + payload


def parse_record(record: bytes) -> tuple[int, str, int, bytes]:
    """A record that a client receives: its kind, address and port, and the rest. Raises ValueError, struct.error."""
    kind, length, port = _HEADER.unpack_from(record)
    end = _HEADER.size + length
    return kind, str(ip_address(record[_HEADER.size : end])), port, record[end:]


def _header(kind: int, host: str, port: int) -> bytes:
    packed = ip_address(host).packed
    return _HEADER.pack(kind, len(packed), port) + packed
