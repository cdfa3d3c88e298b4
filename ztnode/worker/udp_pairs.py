"""A UDP socket of the overlay, relayed to a local client over a pair of Unix sockets that keep record boundaries.

Each record is one datagram: kind u8 (0), address length u8 (4 or 16), port u16 in network byte order, address, payload.
The address is the remote's: where it came from, or where it shall go. Kind 1 goes to the client alone and carries an
errno (u32, network byte order) in place of the payload: ICMP reported that for what was sent to this address. Kind 2
is the same with what the stack itself would not send to a group or broadcast address.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from itertools import groupby
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.worker.moderation import Moderation
from ztnode.worker.poller import ERROR, HANGUP, READ, WRITE, Poller
from ztnode.worker.tcp_pair import BUFFER_BYTES

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
BUSY: Final = 5000.0
"""Datagrams a second from which on a client is looked at once in a while (``worker.moderation``)."""
BUSY_WINDOW: Final = 0.005
"""Seconds over which they are counted."""
_HEADER: Final = struct.Struct("!BBH")
_ERRNO: Final = struct.Struct("!I")
_SHORT_HEAD: Final = _HEADER.size + 4
_LONG_HEAD: Final = _HEADER.size + 16
_SO_SNDBUFFORCE: Final = 32  # asm-generic/socket.h
# SEQPACKET tells when the client is gone, DGRAM does not; macOS has DGRAM alone.
_KIND: Final = socket.SOCK_DGRAM if sys.platform == "darwin" else socket.SOCK_SEQPACKET


class DatagramHost(Protocol):
    """What a relay asks of the loop that it lives on."""

    counters: dict[str, int]
    moderation: Moderation

    @property
    def poller(self) -> Poller: ...

    @property
    def congested(self) -> bool:
        """Whether the node does not keep up: whoever has more to send is to wait."""

    @property
    def now(self) -> float:
        """Monotonic seconds, of this round of the loop."""

    def expect_data(self) -> None:
        """There will be much."""


class DatagramRelay:
    """Both halves of one relay. It is an offer until its client has fetched it (``handoff_server.Offer``)."""

    def __init__(self, udp: UdpSocket, host: DatagramHost, buffer: int = BUFFER_BYTES) -> None:
        """``buffer``: bytes that may wait in the kernel each way; as much again for what it needs beside."""
        self._udp = udp
        self._host = host
        self._buffer = buffer
        self._sock: socket.socket | None = None
        self._mask = READ
        self._waiting: deque[bytes] = deque()
        """Records for the client."""
        self._refusals: deque[bytes] = deque(maxlen=MAX_REFUSALS)
        self._counted = 0
        self._counted_since = 0.0
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
        for end in (ours, client):
            _widen(end, self._buffer)
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
            self._host.moderation.remove(self._look)
            self._host.poller.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None

    # Overlay to client

    def on_ready(self) -> None:
        """The overlay socket changed: pass on what came."""
        if self._sock is None:
            return
        send = self._sock.send
        waiting = self._waiting
        while waiting or self._fill():
            try:
                send(waiting[0])
            except BlockingIOError:
                self._watch(self._mask | WRITE)
                return
            except OSError:
                self.expire()
                return
            waiting.popleft()
        self._watch(self._mask & ~WRITE)

    def _fill(self) -> bool:
        """Make the next records for the client; False when there is nothing."""
        waiting = self._waiting
        waiting.extend(self._refusals)
        self._refusals.clear()
        waiting.extend(
            _header(FAILURE, host, port) + _ERRNO.pack(error.errno or 0) for error, (host, port) in self._udp.errors()
        )
        last = head = b""
        last_port = -1
        taken = self._udp.take(BATCH)
        if len(taken) == BATCH:
            self._host.expect_data()
        for data, address, port in taken:
            if address != last or port != last_port:
                last, last_port = address, port
                head = _HEADER.pack(DATAGRAM, len(address), port) + address
            waiting.append(head + data)
        return bool(waiting)

    # Client to overlay

    def _on_client(self, mask: int) -> None:
        if mask & WRITE:
            self.on_ready()
        if mask & (HANGUP | ERROR):
            self._collect()
        elif mask & READ:
            self._look()

    def _look(self) -> None:
        """See what the client has sent, and whether to wait for it from now on or to come by."""
        host = self._host
        if host.congested:
            self._come_by(True)
            return
        taken = self._collect()
        if self._sock is None:
            return
        self._counted += taken
        elapsed = host.now - self._counted_since
        if elapsed >= BUSY_WINDOW:
            self._come_by(self._counted >= BUSY * elapsed)
            self._counted, self._counted_since = 0, host.now
        if taken == BATCH:
            host.moderation.hurry(host.now)

    def _come_by(self, comes_by: bool) -> None:
        if comes_by:
            self._host.expect_data()
            self._host.moderation.add(self._look, self._host.now)
            self._watch(self._mask & ~READ)
        else:
            self._host.moderation.remove(self._look)
            self._watch(self._mask | READ)

    def _watch(self, mask: int) -> None:
        if mask != self._mask and self._sock is not None:
            self._mask = mask
            self._host.poller.modify(self._sock.fileno(), mask)

    def _collect(self) -> int:
        """Send what the client has for the overlay, one batch at the most; how many records that were."""
        if self._sock is None:
            return 0
        receive = self._sock.recv
        records: list[bytes] = []
        gone = False
        try:
            while len(records) < BATCH:
                record = receive(MAX_DATAGRAM + 64)
                if not record:
                    gone = True
                    break
                records.append(record)
        except BlockingIOError:
            pass
        except OSError:
            gone = True
        for head, run in groupby(records, _head):
            self._send(head, [record[len(head) :] for record in run])
        if gone:
            self.expire()
        return len(records)

    def _send(self, head: bytes, payloads: list[bytes]) -> None:
        """Datagrams for one remote; an empty ``head``: what is no record."""
        counters = self._host.counters
        if not head:
            counters["udp_bad_record"] += len(payloads)
            return
        _, length, port = _HEADER.unpack_from(head)
        address = head[_HEADER.size :]
        with contextlib.suppress(OSError):
            if len(payloads) > 1 and self._udp.send_many(payloads, address, port, self._host.now):
                return
        for payload in payloads:
            try:
                self._udp.sendto_packed(payload, address, port, self._host.now)
            except OSError as error:
                counters["udp_unsendable"] += 1
                if error.errno in (errno.EACCES, errno.EPERM):
                    self._refusals.append(_HEADER.pack(REFUSED, length, port) + address + _ERRNO.pack(error.errno))
                    self.on_ready()


def _widen(end: socket.socket, size: int) -> None:
    """Let ``size`` bytes wait for the other end: of a millisecond's datagrams the kernel's default holds four, and the
    one process may have to wait longer than that for a core while the other sleeps because nothing moves."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # for root alone; others get what net.core.wmem_max allows
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)


def _head(record: bytes) -> bytes:
    """What stands before the payload of a client's record; empty for what is none."""
    if len(record) >= _SHORT_HEAD and record[0] == DATAGRAM:
        if record[1] == 4:
            return record[:_SHORT_HEAD]
        if record[1] == 16 and len(record) >= _LONG_HEAD:
            return record[:_LONG_HEAD]
    return b""


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
