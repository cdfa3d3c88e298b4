"""The Unix socket where local clients fetch what they dialled, accepted or opened.

A client connects, sends the 16-byte token that the node gave it, and receives one byte (zero) with one descriptor
attached (SCM_RIGHTS); then the worker closes. A token that is unknown, used or expired gets nothing but the close.

A client that has a connected socket already, such as one that a port forward accepted, attaches its descriptor to the
token instead of asking for one: the worker joins that socket to the connection, and says so by a byte (one).

A proxy's client may be lent instead: a second descriptor is the way back (``ztnode.worker.loan``).

A client that chose the token itself may come while what it stands for is still being made: it sends ``WAIT`` and
the token, and receives its descriptor as soon as there is one, or the close as soon as it is certain that there will be
none. Until the node has said that the token is expected it has as long as any client that is about to send its token.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from ztnode.worker.poller import READ, Poller
from ztnode.worker.protocol import TOKEN_BYTES

OFFER_SECONDS: Final = 10.0
"""How long an offer waits for its client."""
CLIENT_SECONDS: Final = 5.0
"""How long a client may take to send its token."""
MAX_CLIENTS: Final = 128
"""Clients that may be about to send their token; more wait in the kernel's backlog."""
MAX_OFFERS: Final = 16384
WAIT: Final = bytes(TOKEN_BYTES)
"""Before a token: wait for what it stands for. No token by itself."""
EXHAUSTED: Final = b"\2"
"""The answer, in place of a descriptor, of a worker that has none left."""
JOINED: Final = b"\1"
"""The answer to a client that brought a socket."""
TELL_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.2
"""After the system had no descriptor for one more client."""

_UCRED: Final = struct.Struct("=iII")


class Offer(Protocol):
    """Something that waits to be fetched by a client."""

    def fetch(self) -> socket.socket:
        """The client's end; the caller closes it after sending. Raises OSError."""

    def fetched(self) -> None:
        """The client has its end: begin. Raises OSError."""

    def bring(self, descriptor: int, way_back: int | None) -> None:
        """Begin with a socket that the client brought, or, with a ``way_back``, lends; both descriptors are the offer's
        now, whatever happens. Raises OSError for what is no socket of the right kind."""

    def expire(self) -> None:
        """Nobody came, or the client went away before it had its end."""


class HandoffServer:
    """Offers by token. Everything happens on the worker's loop."""

    def __init__(
        self, path: str, poller: Poller, clock: Callable[[], float], trouble: Callable[[str], None] = lambda _line: None
    ) -> None:
        """``trouble`` is told what a person should know. Raises OSError when ``path`` cannot be bound; what was there
        before is replaced."""
        self.counters = {"handoffs": 0, "handoff_refused": 0, "handoff_failed": 0, "handoff_expired": 0}
        self._path = path
        self._poller = poller
        self._clock = clock
        self._trouble = trouble
        self._tell_at = float("-inf")
        self._spare = _placeholder()
        # Every entry lives equally long, so both tables are in the order in which their entries expire.
        self._offers: dict[bytes, tuple[float, Offer]] = {}
        self._clients: dict[socket.socket, tuple[float, bytearray]] = {}
        self._brought: dict[socket.socket, list[int]] = {}
        # Tokens that clients chose for connections that are still being made, and the clients that wait for one.
        self._expected: set[bytes] = set()
        self._waiting: dict[bytes, socket.socket] = {}
        self._listener = _bind_private(path)
        self._accepting = False
        self._retry_at: float | None = None
        self._resume()

    def expect(self, token: bytes) -> None:
        """Something is being made for the client that chose ``token``; ``offer`` or ``dismiss`` ends it. Raises
        ValueError for a token that is none or is in use."""
        if len(token) != TOKEN_BYTES or token == WAIT:
            raise ValueError("a connection's token is 16 random bytes")
        if token in self._expected or token in self._offers:
            raise ValueError("another connection has this token: choose random ones")
        self._expected.add(token)
        if (client := self._waiting.get(token)) is not None:
            del self._clients[client]  # it may wait as long as the dial takes
            self._resume()

    def dismiss(self, token: bytes) -> None:
        """Nothing will come of what was expected under ``token``."""
        self._expected.discard(token)
        if (client := self._waiting.pop(token, None)) is not None:
            self._drop(client)

    def offer(self, offer: Offer, expected: bytes | None = None) -> bytes:
        """The token that fetches ``offer`` once, within ``OFFER_SECONDS``: the ``expected`` one, whose client gets it
        at once if it waits, or a new one. Raises OSError."""
        if len(self._offers) >= MAX_OFFERS:
            raise OSError("too many connections wait to be fetched")
        token = expected or secrets.token_bytes(TOKEN_BYTES)
        self._expected.discard(token)
        if (client := self._waiting.pop(token, None)) is not None:
            self._serve(client, offer)
            self._drop(client)
        else:
            self._offers[token] = (self._clock() + OFFER_SECONDS, offer)
        return token

    def renew(self, token: bytes) -> None:
        """Let an offer wait for ``OFFER_SECONDS`` from now on; nothing happens when it is gone already."""
        found = self._offers.pop(token, None)
        if found is not None:
            self._offers[token] = (self._clock() + OFFER_SECONDS, found[1])

    def withdraw(self, token: bytes) -> None:
        """Nobody will come for an offer."""
        found = self._offers.pop(token, None)
        if found is not None:
            found[1].expire()

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        due = [next(iter(table.values()))[0] for table in (self._offers, self._clients) if table]
        if self._retry_at is not None:
            due.append(self._retry_at)
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """Expire offers and slow clients."""
        if self._retry_at is not None and self._retry_at <= now:
            self._resume()
        while self._offers:
            token, (deadline, offer) = next(iter(self._offers.items()))
            if deadline > now:
                break
            del self._offers[token]
            self.counters["handoff_expired"] += 1
            offer.expire()
        while self._clients:
            client, (deadline, received) = next(iter(self._clients.items()))
            if deadline > now:
                break
            self.counters["handoff_refused"] += 1
            self._waiting.pop(bytes(received[len(WAIT) :]), None)
            self._drop(client)

    def close(self) -> None:
        """Remove the socket; what nobody fetched expires."""
        self._poller.unregister(self._listener.fileno())
        self._listener.close()
        for client in {*self._clients, *self._waiting.values()}:
            self._drop(client)
        self._waiting.clear()
        for _, offer in self._offers.values():
            offer.expire()
        self._offers.clear()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - pathlib costs the worker start-up time

    def _on_connect(self, _mask: int) -> None:
        for _ in range(16):
            if len(self._clients) >= MAX_CLIENTS:
                self._pause()  # until a client has gone
                return
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if self._is_exhausted(error):
                    self._send_one_away()
                self._pause()
                self._retry_at = self._clock() + RETRY_SECONDS
                return
            client.setblocking(False)
            if not _may_fetch(client):
                self.counters["handoff_refused"] += 1
                client.close()
                continue
            self._clients[client] = (self._clock() + CLIENT_SECONDS, bytearray())
            # Most clients have sent their token by now: nothing to wait for.
            if not self._read_token(client):
                self._poller.register(client.fileno(), READ, partial(self._on_token, client))

    def _is_exhausted(self, error: OSError) -> bool:
        """Whether it is descriptors that are missing, which is said once a minute."""
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return False
        now = self._clock()
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            self._trouble(
                "no file descriptors are left, so that clients get no connections; raise the limit (ulimit -n, "
                "LimitNOFILE=)"
            )
        return True

    def _send_one_away(self) -> None:
        """By the descriptor that is kept for it: whoever is next would wait for ever, and learn nothing."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            client, _ = self._listener.accept()
            with client:
                client.setblocking(False)
                client.send(EXHAUSTED)
        except OSError:
            pass
        self._spare = _placeholder()

    def _pause(self) -> None:
        """Who cannot be accepted now must not be reported, level-triggered as it is, again and again."""
        self._poller.unregister(self._listener.fileno())
        self._accepting = False

    def _resume(self) -> None:
        self._retry_at = None
        if not self._accepting and self._listener.fileno() >= 0:
            self._accepting = True
            self._poller.register(self._listener.fileno(), READ, self._on_connect)

    def _on_token(self, client: socket.socket, _mask: int) -> None:
        self._read_token(client)

    def _read_token(self, client: socket.socket) -> bool:
        """Whether all of it has come; then the client is served, sent away, or waits."""
        _, received = self._clients[client]
        try:
            data, descriptors, _flags, _ = socket.recv_fds(client, len(WAIT) + TOKEN_BYTES - len(received), 2)
        except BlockingIOError:
            return False
        except OSError:
            data, descriptors = b"", []
        received += data
        if descriptors:
            self._keep(client, descriptors)
        start = len(WAIT) if received.startswith(WAIT) else 0
        token = bytes(received[start : start + TOKEN_BYTES])
        if data and len(token) < TOKEN_BYTES:
            return False
        _, offer = self._offers.pop(token, (0.0, None))
        if offer is not None:
            self._serve(client, offer)
        elif start and data and token not in self._waiting:
            self._wait(client, token)
            return True
        else:
            self.counters["handoff_refused"] += 1
        self._drop(client)
        return True

    def _wait(self, client: socket.socket, token: bytes) -> None:
        self._waiting[token] = client
        if token in self._expected:
            del self._clients[client]
            self._resume()
        # A waiting client sends nothing more: whatever the poller reports now means that it has gone.
        self._poller.unregister(client.fileno())
        self._poller.register(client.fileno(), READ, lambda _mask: self._leave(token))

    def _leave(self, token: bytes) -> None:
        self._drop(self._waiting.pop(token))

    def _keep(self, client: socket.socket, descriptors: list[int]) -> None:
        """Of what a client sends at several times the last counts."""
        self._forget(client)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._brought[client] = descriptors

    def _forget(self, client: socket.socket) -> None:
        for descriptor in self._brought.pop(client, ()):
            os.close(descriptor)

    def _serve(self, client: socket.socket, offer: Offer) -> None:
        brought = self._brought.pop(client, None)
        try:
            if brought is not None:
                offer.bring(brought[0], brought[1] if len(brought) > 1 else None)
                with contextlib.suppress(OSError):  # who does not wait to hear it has gone, and left us its socket
                    client.send(JOINED)
            else:
                with offer.fetch() as end:
                    # Send before anything else: the client can go on while we do the rest.
                    socket.send_fds(client, [b"\0"], [end.fileno()])
                offer.fetched()
            self.counters["handoffs"] += 1
        except OSError as error:
            # The client went away in the middle, or the system is out of descriptors or ports: what cannot be fetched
            # now must not linger.
            self.counters["handoff_failed"] += 1
            if self._is_exhausted(error):
                with contextlib.suppress(OSError):
                    client.send(EXHAUSTED)
            offer.expire()

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        self._forget(client)
        self._poller.unregister(client.fileno())
        client.close()
        self._resume()


def _placeholder() -> int:
    """A descriptor to give up when there are no others; -1 where there is none even now."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _bind_private(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        # The umask makes the socket private from the first moment. It holds for every thread, but no other makes files.
        umask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _may_fetch(client: socket.socket) -> bool:
    """The node's own user, or root, who may do everything anyway. Systems that cannot tell who it is enforce the
    mode of the socket file."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, uid, _ = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid in (os.getuid(), 0)
