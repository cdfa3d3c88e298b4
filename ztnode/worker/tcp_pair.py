"""A pair of connected TCP sockets over loopback.

Why not a Unix socket pair: only TCP carries a reset. A TCP socket that is closed with SO_LINGER 0 gives the other end
ECONNRESET, after what it had received; a Unix socket that is closed gives a clean end of stream.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

BUFFER_BYTES: Final = 512 * 1024
"""SO_SNDBUF and SO_RCVBUF of both ends. The kernel gives no memory before bytes are queued, so idle connections cost
nothing. The sizes are set because the kernel's own tuning would let one stalled client hold 30 MB; half a megabyte is
about what the loopback moves while the other process waits for its turn on a busy core."""
LEAST_BUFFER: Final = 32 * 1024
ALL_BUFFERS: Final = 32 << 20
"""What the buffers of all clients are to have together, as far as LEAST_BUFFER allows: the kernel's memory for TCP is
the whole machine's (``net.ipv4.tcp_mem``, about 6 % of it), and a thousand clients that never read used it up with half
a megabyte each: nobody could write anything any more."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""A struct linger for SO_LINGER."""
_FINISH_ON_CLOSE: Final = struct.pack("ii", 0, 0)
REFILL_SECONDS: Final = 0.005
MOST_AHEAD: Final = 8
"""Pairs made at once when clients come faster than that."""
_STRANGERS: Final = 64
_SECONDS: Final = 1.0


def buffer_for(clients: int) -> int:
    """Bytes for the buffers of one more client beside so many."""
    return max(LEAST_BUFFER, min(BUFFER_BYTES, ALL_BUFFERS // (clients + 1)))


def make_pair(buffer: int = BUFFER_BYTES) -> tuple[socket.socket, socket.socket]:
    """(ours, the client's): ours does not block and resets the client when it is closed, even by the death of this
    process, until ``finish_on_close``. Raises OSError where the system has no descriptors or ports left.
    """
    return make_pairs(buffer, 1)[0]


def make_pairs(buffer: int, count: int) -> list[tuple[socket.socket, socket.socket]]:
    """So many of them, or as many as the system has descriptors for. Raises OSError where that is none."""
    pairs: list[tuple[socket.socket, socket.socket]] = []
    # A listener for the microseconds that it takes gives other users of the machine no port to fill up.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # Accepted sockets inherit all of it: so thousands of closed pairs in TIME-WAIT do not use up the port range.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reset_on_close(listener)
        # The window scale is agreed upon in the handshake: buffers come before it.
        set_buffers(listener, buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)
        listener.settimeout(_SECONDS)
        try:
            for _ in range(count):
                pairs.append(_pair_at(listener, buffer))
        except OSError:
            if not pairs:
                raise
    return pairs


def _pair_at(listener: socket.socket, buffer: int) -> tuple[socket.socket, socket.socket]:
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        set_buffers(client, buffer)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(_SECONDS)
        client.connect(listener.getsockname())
        client.settimeout(None)
        ours = _accept_own(listener, client)
    except BaseException:
        client.close()
        raise
    ours.setblocking(False)
    return ours, client


class PairStock:
    """Keeps one pair made ahead: the two dozen system calls are over before a client waits for them. When many clients
    come at once it makes several with what can be had once for all."""

    def __init__(self) -> None:
        self._spares: list[tuple[socket.socket, socket.socket]] = []
        self._missed = 0
        self.clients = 0
        """How many there are: the more, the smaller their buffers."""
        self.due = 0.0
        """When to call ``refill``, in monotonic seconds; 0: need not be."""
        self.refill()

    def take(self, now: float) -> tuple[socket.socket, socket.socket]:
        """As ``make_pair``."""
        # Later, not now: the client that was just woken may share a processor with us, and should run first.
        self.due = now + REFILL_SECONDS
        if not self._spares:
            self._missed += 1
            self._spares = make_pairs(buffer_for(self.clients), min(self._missed, MOST_AHEAD))
        return self._spares.pop()

    def refill(self) -> None:
        """Make the next pair. Where it cannot be made, ``take`` will say so."""
        self.due = 0.0
        self._missed = 0
        if not self._spares:
            with contextlib.suppress(OSError):
                self._spares = make_pairs(buffer_for(self.clients), 1)

    def close(self) -> None:
        """Give up what is made ahead."""
        while self._spares:
            for end in self._spares.pop():
                end.close()


def reset_on_close(sock: socket.socket) -> None:
    """Make close() of our end a reset, even by the death of this process, until ``finish_on_close``."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def finish_on_close(sock: socket.socket) -> None:
    """Make close() of our end an orderly end of stream."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FINISH_ON_CLOSE)


def set_buffers(sock: socket.socket, size: int) -> None:
    """Give a socket buffers of so many bytes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _accept_own(listener: socket.socket, client: socket.socket) -> socket.socket:
    """Whoever else connected to the port in the meantime is sent away."""
    own = client.getsockname()
    for _ in range(_STRANGERS):
        accepted, peer = listener.accept()
        if peer == own:
            return accepted
        accepted.close()
    raise ConnectionAbortedError("other programs connect to the worker's loopback port")
