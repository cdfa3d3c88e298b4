"""One overlay connection joined to one client socket, until both directions have ended.

What happens at one end happens at the other, in the order in which a kernel would show it:

====================================  ==================================================================
overlay end of stream                 shutdown(SHUT_WR) after everything before it was written
overlay reset, time-out, lost network everything that had arrived is delivered, then the client is reset
client's shutdown(SHUT_WR)            FIN after everything before it
client's reset, close with unread     abort: RST
client does not read                  nothing more is read from the overlay: its window closes
overlay's send buffer full            nothing more is read from the client: its send blocks
====================================  ==================================================================

A Unix socket that its client brought cannot carry a reset: there the end of stream stands for it.

Memory: at most one read of ``CHUNK`` bytes waits here for the client's socket; all else waits in the connection's
own bounded buffers or in the kernel's.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.worker.poller import ERROR, HANGUP, READ, WRITE
from ztnode.worker.tcp_pair import finish_on_close

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection
    from ztnode.wire.buffer import Buffer
    from ztnode.worker.poller import Poller

CHUNK: Final = 256 * 1024
"""Bytes moved by one system call, at most."""
FIRST_READ: Final = 16 * 1024
"""A read allocates what it asks for: start small, and double while the client fills it."""
PAUSE: Final = 16 * 1024
"""With less free than this in the send buffer the client is not read, so that a full buffer does not drip."""
RESUME: Final = 64 * 1024
"""Free send-buffer bytes at which reading goes on; every connection's send buffer is larger (``TcpConfig``)."""
IOV_MAX: Final = min(os.sysconf("SC_IOV_MAX"), 1024)
DRAIN_SECONDS: Final = 10.0
"""How long a client may read nothing of what came before a reset until it is reset regardless."""
DRAIN_POLL: Final = 0.02

_SO_NWRITE: Final = 0x1024

_HALF_CLOSED_IDLE: Final = 60
_HALF_CLOSED_INTERVAL: Final = 30
_HALF_CLOSED_PROBES: Final = 4


class SpliceHost(Protocol):
    """What a splice asks of the loop that it lives on."""

    @property
    def poller(self) -> Poller: ...

    @property
    def now(self) -> float:
        """Monotonic seconds, of this round of the loop."""

    def splice_started(self, splice: Splice) -> None:
        """It exists; called once."""

    def splice_ended(self, splice: Splice) -> None:
        """Both sides are done; called once."""

    def splice_draining(self, splice: Splice) -> None:
        """Call ``Splice.handle_timer`` every ``DRAIN_POLL`` seconds until it has ended."""


class Splice:
    """Owns ``sock`` (non-blocking, reset on close) and ``connection`` until both are done."""

    __slots__ = (
        "_client_done",
        "_deadline",
        "_draining",
        "_fd",
        "_host",
        "_mask",
        "_overlay_done",
        "_pending",
        "_read_size",
        "_sock",
        "_undelivered",
        "_watched",
        "connection",
    )

    def __init__(self, connection: TcpConnection, sock: socket.socket, host: SpliceHost) -> None:
        self.connection = connection
        self._sock = sock
        self._fd = sock.fileno()
        self._host = host
        self._pending: list[Buffer] = []
        self._read_size = FIRST_READ
        self._client_done = False
        self._overlay_done = False
        self._draining = False
        self._deadline = 0.0
        self._undelivered = -1
        self._mask = READ
        self._watched = True
        connection.owner = self
        host.poller.register(self._fd, READ, self.on_client)
        host.splice_started(self)
        self.on_ready()

    # Overlay to client

    def on_ready(self) -> None:
        """The overlay connection changed."""
        if self._fd < 0:
            return
        connection = self.connection
        if not self._deliver():
            return
        if connection.brief and self._mask & READ:
            return  # it has neither failed nor ended, and the client is read
        if connection.error is not None:
            if not self._draining:
                self._draining = True
                self._watch(self._mask & ~READ)
                self._host.splice_draining(self)
                self.handle_timer(self._host.now)
            return
        if connection.eof and not self._overlay_done and not self._pending:
            self._overlay_done = True
            self._overlay_ended()
            if self._fd < 0:
                return
        if not self._mask & READ and not self._client_done and self._has_room():
            self._watch(self._mask | READ)

    def _overlay_ended(self) -> None:
        """Everything before the end of the overlay's stream has been written."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._client_gone()
            return
        if self._client_done:
            self._finish()

    def _deliver(self) -> bool:
        """Write what there is; False when the splice has ended over it."""
        connection = self.connection
        sock = self._sock
        while views := self._pending or self._read():
            try:
                if len(views) == 1:  # an answer
                    sent = sock.send(views[0])
                    if sent == len(views[0]) < CHUNK and views is not self._pending:
                        break  # there was no more to be read
                else:
                    sent = sock.sendmsg(views[:IOV_MAX])
                left = _after(views, sent)
                blocked = False
            except BlockingIOError:
                left = views
                blocked = True
            except OSError:
                self._client_gone()
                return False
            if left or self._pending:
                # Copies: the views into the ring do not live as long as a client may sleep.
                self._pending = left if views is self._pending else [bytes(view) for view in left]
                connection.set_aside(sum(map(len, left)))
            if blocked:
                self._watch(self._mask | WRITE)
                return True
        if self._mask & WRITE:
            self._watch(self._mask & ~WRITE)
        return True

    def _has_room(self) -> bool:
        """Whether a client that was not read for a while is read again."""
        return self.connection.writable >= RESUME

    def _read(self) -> list[Buffer]:
        """What came next for the client."""
        return self.connection.read(CHUNK)

    # Client to overlay

    def on_client(self, mask: int) -> None:
        """The client's socket is ready."""
        # Mostly there is something to be read, and nothing else.
        if (mask != READ or not self._mask & READ) and not self._is_to_be_read(mask):
            return
        connection = self.connection
        size = asked = self._read_size
        if size > FIRST_READ or not connection.drained():  # otherwise there is room for what comes
            room = connection.writable
            if room < PAUSE:
                self._watch(self._mask & ~READ)
                return
            if room < size:
                asked = room
        try:
            data = self._sock.recv(asked)
        except BlockingIOError:
            return
        except OSError:
            self._client_gone()
            return
        try:
            if data:
                self._pass_on(data)
            else:
                connection.shutdown()
        except OSError:
            # The connection failed in this very round; ready() will say so, and the client be reset.
            self._watch(self._mask & ~READ)
            return
        if not data:
            self._client_done = True
            if self._overlay_done:
                self._finish()
                return
            self._watch(self._mask & ~READ)
            self._probe_half_closed()
        elif len(data) == size:
            if size < CHUNK:
                self._read_size = size * 2
        elif size > FIRST_READ and len(data) < size >> 2:
            self._read_size = size >> 1

    def _is_to_be_read(self, mask: int) -> bool:
        """What is ready beside reading comes first."""
        if mask & ERROR:
            self._client_gone()
            return False
        if mask & WRITE:
            self.on_ready()
            if self._fd < 0:
                return False
        if self._mask & READ:
            return True
        if mask & HANGUP:
            # Both directions are shut and there is no room for what the client sent last. The descriptor would be
            # reported for ever; _watch() comes back to it.
            self._host.poller.unregister(self._fd)
            self._watched = False
        return False

    def _pass_on(self, data: bytes) -> None:
        """Send what the client wrote. Raises OSError."""
        self.connection.write(data)

    def _probe_half_closed(self) -> None:
        """A client that closed altogether looks like one that half-closed until something is sent to it. Probes of
        its kernel tell, so that a silent peer does not keep such a connection for ever."""
        sock = self._sock
        if sock.family == socket.AF_UNIX:
            return  # its end is reported without being asked for
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform != "darwin":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _HALF_CLOSED_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _HALF_CLOSED_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _HALF_CLOSED_PROBES)

    # The end

    def handle_timer(self, now: float) -> None:
        """Of a failed connection: reset the client once it has received what had arrived, or has stopped reading."""
        if self._fd < 0:
            return
        undelivered = _unacknowledged(self._sock) + sum(map(len, self._pending)) + self.connection.readable
        if not undelivered or (undelivered == self._undelivered and now >= self._deadline):
            self._end()
        elif undelivered != self._undelivered:
            self._undelivered = undelivered
            self._deadline = now + DRAIN_SECONDS

    def reset(self) -> None:
        """End both sides with a reset."""
        self._client_gone()

    def _client_gone(self) -> None:
        """The client was reset, or closed without reading."""
        if self._fd >= 0:
            self.connection.abort()
            self._end()

    def _finish(self) -> None:
        """Both directions have ended in good order; what is still under way is up to the kernel and the stack."""
        finish_on_close(self._sock)
        self.connection.close()
        self._end()

    def _end(self) -> None:
        self._host.poller.unregister(self._fd)
        self._fd = -1
        self._sock.close()
        self._pending = []
        self.connection.owner = None
        self._host.splice_ended(self)

    def _watch(self, mask: int) -> None:
        if not self._watched:
            self._watched = True
            self._host.poller.register(self._fd, mask, self.on_client)
        elif mask != self._mask:
            self._host.poller.modify(self._fd, mask)
        self._mask = mask


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes written that the client's kernel has not taken yet; closing with a reset would lose them."""
    if sys.platform == "darwin":
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _after(views: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of ``views`` after the first ``sent`` bytes."""
    for position, view in enumerate(views):
        if sent < len(view):
            return [memoryview(view)[sent:], *views[position + 1 :]] if sent else views[position:]
        sent -= len(view)
    return []
