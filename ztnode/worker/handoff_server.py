"""The Unix socket where local clients fetch what they dialled, accepted or opened.

A client connects, sends the 16-byte token that the node gave it, and receives one byte (zero) with one descriptor
attached (SCM_RIGHTS); then the worker closes. A token that is unknown, used or expired gets nothing but the close.

A client that has a connected socket already, such as one that a port forward accepted, attaches its descriptor to the
token instead of asking for one: the worker joins that socket to the connection, and says so by a byte (one).

A proxy's client may be lent instead: a second descriptor is the way back (``ztnode.worker.loan``).

A client whose listener's token is known here may attend to the listener (``ztnode.worker.accept_channel``): it sends
``ATTEND`` and a request, and its channel stays.

A client may ask for a connection itself: it sends ``ASK`` and a request (``ztnode.worker.direct_dials``), and receives
its descriptor, the byte before it followed by our address and port as text, or the close when nothing comes of it. A
descriptor that it attaches is joined to the connection, as with a token. Where it has its answer it may ask again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

from ztnode.worker.adoption import let_go
from ztnode.worker.poller import READ, Poller
from ztnode.worker.protocol import TOKEN_BYTES

OFFER_SECONDS: Final = 10.0
"""How long an offer waits for its client."""
CLIENT_SECONDS: Final = 5.0
"""How long a client may take to send its token."""
MAX_CLIENTS: Final = 128
"""Clients that may be about to send their token; more wait in the kernel's backlog."""
MAX_OFFERS: Final = 16384
ASK: Final = b"\xff" * TOKEN_BYTES
"""Before a request for a connection. No token."""
ATTEND: Final = b"\xfe" * TOKEN_BYTES
"""Before a request to attend to a listener. No token."""
ATTENDANCE: Final = struct.Struct("!16sBH")
"""The listener's token, how its connections are wanted, a port of 127.0.0.1: see ``ztnode.worker.accept_channel``."""
REQUEST: Final = struct.Struct("!BB16sHQI16s")
"""Length of the address (4 or 16), 1 if small writes may wait, the address, the port, the network's id (0: whichever
has a route), milliseconds until it is given up, the name of the congestion control (zeros: the node's)."""
MAX_ASKED: Final = 1024
"""Connections under way that clients asked for; who is beyond it asks the node."""
MAX_IDLE: Final = 256
"""Clients that have their answer and may ask again; who is beyond it goes, the oldest first."""
EXHAUSTED: Final = b"\2"
"""The answer, in place of a descriptor, of a worker that has none left."""
JOINED: Final = b"\1"
"""The answer to a client that brought a socket."""
TELL_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.2
"""After the system had no descriptor for one more client."""

_ASKED: Final = len(ASK) + REQUEST.size
_RIGHTS: Final = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_DESCRIPTOR: Final = struct.Struct("i")
_ROOM: Final = socket.CMSG_SPACE(2 * _DESCRIPTOR.size)
"""For two descriptors."""
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


class Asked(Protocol):
    """A connection that is being made for a client that waits here: there is no answer yet."""

    def cancel(self) -> None:
        """Its client is gone."""


Answer: TypeAlias = Callable[["Offer | None", bytes], None]
"""Called with what came of a request, and what its client is to know beside it."""


class HandoffServer:
    """Offers by token. Everything happens on the worker's loop."""

    def __init__(
        self,
        path: str,
        poller: Poller,
        clock: Callable[[], float],
        trouble: Callable[[str], None] = lambda _line: None,
        ask: Callable[[bytes, Answer], Asked] | None = None,
        attend: Callable[[bytes, socket.socket, Sequence[int]], None] | None = None,
    ) -> None:
        """``trouble`` is told what a person should know. ``ask`` makes a connection that a client asks for; raises
        OSError, ValueError. ``attend`` takes over a client, and the descriptors that it brought, by its request; raises
        OSError, ValueError where it does not. Raises OSError when ``path`` cannot be bound; what was there before is
        replaced."""
        self.counters = {"handoffs": 0, "handoff_refused": 0, "handoff_failed": 0, "handoff_expired": 0}
        self._ask = ask
        self._attend = attend
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
        self._asked: dict[socket.socket, Asked] = {}
        self._idle: dict[socket.socket, None] = {}
        self._listener = _bind_private(path)
        self._accepting = False
        self._retry_at: float | None = None
        self.timed: Final = True
        """There may be timers: ``next_timer`` knows."""
        self._resume()

    def offer(self, offer: Offer) -> bytes:
        """A token that fetches ``offer`` once, within ``OFFER_SECONDS``. Raises OSError."""
        if len(self._offers) >= MAX_OFFERS:
            raise OSError("too many connections wait to be fetched")
        token = secrets.token_bytes(TOKEN_BYTES)
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
        if not self._offers and not self._clients:  # the worker asks in each of its rounds
            return self._retry_at
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
        for client in [*self._clients, *self._idle]:
            self._drop(client)
        for client in [*self._asked]:
            self._on_asking(client, 0)
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
                if self.is_exhausted(error):
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

    def is_exhausted(self, error: OSError) -> bool:
        """Whether it is descriptors that are missing, which a person is told once a minute."""
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
        whole = len(ASK) + REQUEST.size
        try:
            data, descriptors = _received(client, whole - len(received))
        except BlockingIOError:
            return False
        except OSError:
            data, descriptors = b"", []
        received += data
        if descriptors:
            self._keep(client, descriptors)
        asks, attends = received.startswith(ASK), received.startswith(ATTEND)
        if data and len(received) < (whole if asks else len(ATTEND) + ATTENDANCE.size if attends else TOKEN_BYTES):
            return False
        if asks:
            return self._begin(client, bytes(received[len(ASK) :]))
        if attends:
            self._hand_on(client, bytes(received[len(ATTEND) :]))
            return True
        _, offer = self._offers.pop(bytes(received[:TOKEN_BYTES]), (0.0, None))
        if offer is not None:
            self._serve(client, offer)
        else:
            self.counters["handoff_refused"] += 1
        self._drop(client)
        return True

    def _begin(self, client: socket.socket, request: bytes) -> bool:
        """Have a connection made for a client; True."""
        if self._ask is not None and len(request) == REQUEST.size and len(self._asked) < MAX_ASKED:
            try:
                self._asked[client] = self._ask(request, partial(self._answer, client))
                if self._clients.pop(client, None) is not None:  # it may wait as long as the dial takes
                    self._resume()
                    self._poller.unregister(client.fileno())
                    self._poller.register(client.fileno(), READ, partial(self._on_asking, client))
                return True
            except (OSError, ValueError):
                pass
        self.counters["handoff_refused"] += 1
        self._drop(client)
        return True

    def _on_asking(self, client: socket.socket, _mask: int) -> None:
        """A client that has asked says more: while it waits that means that it has gone."""
        if client in self._asked:
            self._asked.pop(client).cancel()
            self._drop(client)
            return
        try:
            data, descriptors = _received(client, _ASKED)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if descriptors:
            self._keep(client, descriptors)
        del self._idle[client]
        if data.startswith(ASK):
            self._begin(client, data[len(ASK) :])
        else:
            self._drop(client)

    def _hand_on(self, client: socket.socket, request: bytes) -> None:
        """Let a client attend to its listener."""
        self._poller.unregister(client.fileno())
        if self._attend is not None and len(request) == ATTENDANCE.size:
            with contextlib.suppress(OSError, ValueError):
                self._attend(request, client, self._brought.get(client, ()))
                self._brought.pop(client, None)
                del self._clients[client]
                self._resume()
                return
        self.counters["handoff_refused"] += 1
        self._drop(client)

    def _answer(self, client: socket.socket, offer: Offer | None, word: bytes) -> None:
        del self._asked[client]
        if offer is None or not self._serve(client, offer, word):
            self._drop(client)
            return
        self._idle[client] = None
        if len(self._idle) > MAX_IDLE:
            self._drop(next(iter(self._idle)))

    def _keep(self, client: socket.socket, descriptors: list[int]) -> None:
        """Of what a client sends at several times the last counts."""
        self._forget(client)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._brought[client] = descriptors

    def _forget(self, client: socket.socket) -> None:
        for descriptor in self._brought.pop(client, ()):
            let_go(descriptor)

    def _serve(self, client: socket.socket, offer: Offer, word: bytes = b"") -> bool:
        """Whether the client has it."""
        brought = self._brought.pop(client, None)
        try:
            if brought is not None:
                offer.bring(brought[0], brought[1] if len(brought) > 1 else None)
                with contextlib.suppress(OSError):  # who does not wait to hear it has gone, and left us its socket
                    client.send(JOINED)
            else:
                with offer.fetch() as end:
                    # Send before anything else: the client can go on while we do the rest.
                    client.sendmsg((b"\0" + word,), ((*_RIGHTS, _DESCRIPTOR.pack(end.fileno())),))
                offer.fetched()
            self.counters["handoffs"] += 1
            return True
        except OSError as error:
            # The client went away in the middle, or the system is out of descriptors or ports: what cannot be fetched
            # now must not linger.
            self.counters["handoff_failed"] += 1
            if self.is_exhausted(error):
                with contextlib.suppress(OSError):
                    client.send(EXHAUSTED)
            offer.expire()
            return False

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        self._idle.pop(client, None)
        self._forget(client)
        self._poller.unregister(client.fileno())
        client.close()
        self._resume()


def _received(client: socket.socket, limit: int) -> tuple[bytes, list[int]]:
    """What a client sent, up to ``limit`` bytes, and the descriptors that came along. Raises OSError."""
    data, ancillary, _flags, _address = client.recvmsg(limit, _ROOM)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == _RIGHTS:
            whole = len(content) // _DESCRIPTOR.size * _DESCRIPTOR.size
            descriptors += [number for (number,) in _DESCRIPTOR.iter_unpack(content[:whole])]
    return data, descriptors


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
