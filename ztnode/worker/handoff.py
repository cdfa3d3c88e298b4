"""The Unix socket where local clients fetch what they dialled, accepted or opened.

A client connects, sends the 16-byte token that the node gave it, and receives one byte (zero) with one descriptor
attached (SCM_RIGHTS); then the worker closes. A token that is unknown, used or expired gets nothing but the close.
"""

from __future__ import annotations

import contextlib
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
RETRY_SECONDS: Final = 0.2
"""After the system had no descriptor for one more client."""

_UCRED: Final = struct.Struct("=iII")


class Offer(Protocol):
    """Something that waits to be fetched by a client."""

    def fetch(self) -> socket.socket:
        """The client's end; the caller closes it after sending. Raises OSError."""

    def fetched(self) -> None:
        """The client has its end: begin. Raises OSError."""

    def expire(self) -> None:
        """Nobody came, or the client went away before it had its end."""


class HandoffServer:
    """Offers by token. Everything happens on the worker's loop."""

    def __init__(self, path: str, poller: Poller, clock: Callable[[], float]) -> None:
        """Raises OSError when ``path`` cannot be bound; what was there before is replaced."""
        self.counters = {"handoffs": 0, "handoff_refused": 0, "handoff_failed": 0, "handoff_expired": 0}
        self._path = path
        self._poller = poller
        self._clock = clock
        # Both in the order of their expiry, because every entry lives equally long.
        self._offers: dict[bytes, tuple[float, Offer]] = {}
        self._clients: dict[socket.socket, tuple[float, bytearray]] = {}
        self._listener = _bind_private(path)
        self._accepting = False
        self._retry_at: float | None = None
        self._resume()

    def offer(self, offer: Offer) -> str:
        """The token, in hexadecimal, that fetches ``offer`` once, within :data:`OFFER_SECONDS`. Raises OSError."""
        if len(self._offers) >= MAX_OFFERS:
            raise OSError("too many connections wait to be fetched")
        token = secrets.token_bytes(TOKEN_BYTES)
        self._offers[token] = (self._clock() + OFFER_SECONDS, offer)
        return token.hex()

    def renew(self, token: str) -> None:
        """Let an offer wait for :data:`OFFER_SECONDS` from now on; nothing happens when it is gone already."""
        found = self._offers.pop(bytes.fromhex(token), None)
        if found is not None:
            self._offers[bytes.fromhex(token)] = (self._clock() + OFFER_SECONDS, found[1])

    def withdraw(self, token: str) -> None:
        """Nobody will come for an offer."""
        found = self._offers.pop(bytes.fromhex(token), None)
        if found is not None:
            found[1].expire()

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due."""
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
            client, (deadline, _) = next(iter(self._clients.items()))
            if deadline > now:
                break
            self.counters["handoff_refused"] += 1
            self._drop(client)

    def close(self) -> None:
        """Remove the socket; what nobody fetched expires."""
        self._poller.unregister(self._listener.fileno())
        self._listener.close()
        for client in list(self._clients):
            self._drop(client)
        for _, offer in self._offers.values():
            offer.expire()
        self._offers.clear()
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
            except OSError:
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
            self._on_token(client, READ)
            if client in self._clients:
                self._poller.register(client.fileno(), READ, partial(self._on_token, client))

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
        _, received = self._clients[client]
        try:
            data = client.recv(TOKEN_BYTES - len(received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        received += data
        if data and len(received) < TOKEN_BYTES:
            return
        _, offer = self._offers.pop(bytes(received), (0.0, None))
        if offer is None:
            self.counters["handoff_refused"] += 1
        else:
            self._give(client, offer)
        self._drop(client)

    def _give(self, client: socket.socket, offer: Offer) -> None:
        try:
            with offer.fetch() as end:
                # First of all: the client runs on while we do the rest.
                socket.send_fds(client, [b"\0"], [end.fileno()])
            offer.fetched()
            self.counters["handoffs"] += 1
        except OSError:
            # The client went away in the middle, or the system is out of descriptors or ports: what cannot be fetched
            # now must not linger.
            self.counters["handoff_failed"] += 1
            offer.expire()

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        self._poller.unregister(client.fileno())
        client.close()
        self._resume()


def _bind_private(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        # The mode must be right from the first moment. No other thread of the worker makes files.
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
