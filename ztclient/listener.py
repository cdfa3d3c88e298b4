"""Listening sockets of the overlay: real ones, so that whatever takes a listening socket takes them.

The socket listens on loopback, on a port of its own. The stack worker connects a second socket to it for each
connection and joins that to the overlay's; a thread (``Feed``) keeps the worker supplied with such sockets
(``ztclient.accept_channel``), or, where the worker is out of reach, asks the node for each connection. So the kernel's
own accept() works, in this process, in forked ones, and in code that knows nothing of this package.

Nobody else may connect there. On Linux a filter on the listening socket drops, unseen, every SYN that does not come
from one source port, which a socket of ours holds for this user (SO_REUSEPORT: no other user can bind it on any
address); the connections differ in their source address, 127.77.0.0/16, whose last two bytes say in a table, shared
with forked processes, which ends a connection has on the overlay. Where there is no such filter, ``Listener.accept``
turns away what is not in the table.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import socket
import struct
import sys
import threading
import time
import weakref
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from ztclient import accept_channel, byte_relay, byte_stream, handoff
from ztclient.accept_channel import ENDS, ends
from ztclient.errors import from_rpc
from ztclient.overlay_socket import Connection, OverlayAddress, family_of, overlay_address

if TYPE_CHECKING:
    import grpc

    from ztclient.channel import Control
    from ztclient.v1 import node_pb2 as pb

LEAST_BACKLOG: Final = 128
"""Connections that may wait in the kernel; a small ``backlog`` would have them wait for a retransmitted SYN."""
ROOM_SECONDS: Final = 5.0
"""How long a connection that was fetched may wait for room among those."""
RETRY_SECONDS: Final = 0.1
WATCH_SECONDS: Final = 0.25
"""Between two looks whether somebody still has the socket open."""
BUFFER_BYTES: Final = 512 * 1024
"""As ``ztnode.worker.tcp_pair`` has it, and for its reasons."""

_FILTERED: Final = sys.platform == "linux"
_SO_ATTACH_FILTER: Final = 26
_ENTRIES: Final = 1 << 16
SOURCES: Final = 16
"""That the worker has ahead: so many connections come without a turn of our thread."""


class Origins:
    """Where the connections of this process's listeners come from: the source port, and a table of ends by source
    address. Forked processes read the same table."""

    def __init__(self) -> None:
        """Raises OSError where there is no port or descriptor left."""
        size = _ENTRIES * ENDS.size
        self.table = _memory(size)
        """The descriptor of that memory, for the worker; -1: it has none."""
        self._memory = mmap.mmap(self.table, size)
        self._numbers = itertools.count(1)
        self._guard = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.port = 0
        if _FILTERED:
            self._guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._guard.bind(("0.0.0.0", 0))
            self.port = int(self._guard.getsockname()[1])

    def source(self) -> tuple[int, socket.socket]:
        """A socket to connect from, at an origin that no other connection has, and that one's number. Raises
        OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if not _FILTERED:
                sock.bind(("127.0.0.1", 0))
                return int(sock.getsockname()[1]), sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            number = next(self._numbers) % _ENTRIES
            sock.bind((f"127.77.{number >> 8}.{number & 255}", self.port))
            return number, sock
        except BaseException:
            sock.close()
            raise

    def remember(self, number: int, listener: int, connection: pb.Connection) -> None:
        """Enter the ends of what will come from the source of that ``number`` to the ``listener`` on that port."""
        local, remote = connection.local, connection.remote
        packed = ip_address(local.ip).packed, ip_address(remote.ip).packed
        entry = ENDS.pack(listener, len(packed[0]), packed[0], local.port, packed[1], remote.port)
        at = number * ENDS.size
        self._memory[at : at + ENDS.size] = entry

    def look_up(self, address: Any, listener: int | None = None) -> tuple[OverlayAddress, OverlayAddress] | None:
        """Local and remote end of what came from ``address``, to the ``listener`` on that port; None for a stranger."""
        if not isinstance(address, tuple) or not isinstance(address[0], str):
            return None
        if _FILTERED and (address[1] != self.port or not address[0].startswith("127.77.")):
            return None
        at = self._number(address) * ENDS.size
        found = ends(self._memory[at : at + ENDS.size])
        if found is None or listener not in (None, found[0]):
            return None
        return found[1:]

    def filter(self) -> bytes:
        """Of packets to a listening socket: a SYN from our port, and whatever is no SYN."""
        return b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in (
                (0x30, 0, 0, 13),  # the TCP flags
                (0x45, 0, 2, 0x02),  # SYN?
                (0x28, 0, 0, 0),  # the source port
                (0x15, 0, 1, self.port),
                (0x06, 0, 0, 0xFFFFFFFF),
                (0x06, 0, 0, 0),
            )
        )

    @staticmethod
    def _number(address: Any) -> int:
        """The entry of an origin."""
        if not _FILTERED:
            return int(address[1])
        high, low = address[0].split(".")[2:]
        return int(high) << 8 | int(low)


class Listener(socket.socket):
    """A listening socket on the overlay, made by ``Node.listen``: a real one. ``accept`` gives connections that know
    their ends on the overlay; code that accepts without it sees an address of 127.77.0.0/16, for
    ``overlay_ends``. A forked process has it as any other socket, for as long as this one, which feeds it, lives."""

    def __init__(self, control: Control, request: pb.ListenRequest) -> None:
        """Raises OSError."""
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._waiting = 0
        self._origins = _origins()
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            if _FILTERED:
                _attach(self, self._origins.filter())
            super().bind(("127.0.0.1", 0))
            self._port = int(super().getsockname()[1])
            super().listen(max(request.backlog, LEAST_BACKLOG))
            self._feed = Feed(control, request, self._origins, self._port)
        except BaseException:
            super().close()
            raise
        weakref.finalize(self, self._feed.closed).atexit = False
        _listeners.add(self)

    def accept(self) -> tuple[Connection, OverlayAddress]:
        """The next connection, and its peer's address on the overlay.

        Raises TimeoutError after the time of ``settimeout``, OSError when the listener is closed or the node is gone.
        """
        return self.accept_from(self)

    def accept_from(self, listening: socket.socket) -> tuple[Connection, OverlayAddress]:
        """As ``accept``, by another object that has the same listening socket."""
        self._waiting += 1
        try:
            while True:
                descriptor, address = listening._accept()  # type: ignore[attr-defined] # as the standard library's own
                ends = self._origins.look_up(address, self._port)
                if ends is not None:
                    break
                os.close(descriptor)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EBADF):
                raise self._feed.error or OSError(errno.EBADF, "the listener is closed") from None
            raise
        finally:
            self._waiting -= 1
        connected = Connection(descriptor, *ends)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if socket.getdefaulttimeout() is None and listening.gettimeout():
            connected.setblocking(True)
        return connected, ends[1]

    @property
    def bound(self) -> OverlayAddress:
        """What was bound, also after ``detach``."""
        return self._feed.bound

    def closed(self) -> None:
        """Whoever has the descriptor since ``detach`` has closed it."""
        self._feed.closed()

    def getsockname(self) -> OverlayAddress:
        """What was bound: IP and port on the overlay."""
        super().getsockname()  # a closed one raises
        return self._feed.bound

    def dup(self) -> Any:
        """A plain socket for the same listener, as ``socket.fromfd`` gives."""
        return socket.fromfd(self.fileno(), socket.AF_INET, socket.SOCK_STREAM)

    def listen(self, backlog: int = 0, /) -> None:
        """It listens already; nothing happens."""

    def close(self) -> None:
        """Stop listening, once no other process or object has it either. Connections already accepted live on; those
        not yet accepted are reset."""
        if self.fileno() >= 0 and self._waiting and self._feed.ours:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
        super().close()
        self._feed.closed()


class Feed:
    """Brings the connections of one listener; lives in the process that made it, as long as any process has the
    listening socket."""

    def __init__(self, control: Control, request: pb.ListenRequest, origins: Origins, port: int) -> None:
        """``port``: where the listening socket is. Raises OSError."""
        self.error: Exception | None = None
        """Why nothing comes any more."""
        self._control = control
        self._origins = origins
        self._port = port
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._ended = False
        self._watched = False
        self._accepting: grpc.Future[pb.AcceptResponse] | None = None
        self._channel: socket.socket | None = None
        with control.translated():
            self._lease = control.stub.Listen(request, metadata=control.metadata)
            answer = next(self._lease)
        self._id = answer.listener_id
        self._worker = answer.handoff_path, answer.token
        self.bound = overlay_address(answer.bound.ip, answer.bound.port)
        self.family = family_of(answer.bound.ip)
        _feeds.add(self)
        threading.Thread(target=self._run, name="ztclient-listener", daemon=True).start()

    @property
    def ours(self) -> bool:
        """False in a process that was forked."""
        return os.getpid() == self._process

    def closed(self) -> None:
        """The listener was closed here; end when nobody has it any more."""
        if not self.ours or self._ended or self._watched:
            return
        if not self._is_open():
            self._end()
            return
        self._watched = True
        threading.Thread(target=self._watch, name="ztclient-listener-watch", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended and self._is_open():
            time.sleep(WATCH_SECONDS)
        self._end()

    def _is_open(self) -> bool:
        """Whether some process still has the listening socket: its filter drops our SYN then, and a port that nobody
        listens on refuses it."""
        if not _FILTERED:
            return False
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(("127.0.0.1", self._port))
            except BlockingIOError:
                return probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            except OSError:
                return False
            return True

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            if self._accepting is not None:
                self._accepting.cancel()
            if self._channel is not None:
                with contextlib.suppress(OSError):
                    self._channel.shutdown(socket.SHUT_RDWR)
        self._lease.cancel()
        _feeds.discard(self)

    def _run(self) -> None:
        import grpc

        try:
            if all(self._worker) and self._origins.table >= 0:
                self._attend(*self._worker)
            while self._bring_one():
                pass
        except grpc.FutureCancelledError:
            pass  # by _end()
        except grpc.RpcError as error:
            self.error = from_rpc(error, str(self._control.address))
        finally:
            self._end()
            self._hang_up()

    def _attend(self, path: str, token: bytes) -> None:
        """Have the worker bring the connections, and the one that takes its place, until they must be asked for."""
        message = accept_channel.request(token, accept_channel.SOURCES, self._port)
        patience = accept_channel.Patience(self._lease.is_active)
        while True:
            try:
                with accept_channel.attend(path, message, self._origins.table) as channel:
                    with self._lock:
                        if self._ended:
                            return
                        self._channel = channel
                    patience.succeeded()
                    if self._supply(channel):
                        return
            except OSError as error:
                if not patience.permits(error):
                    return
            time.sleep(accept_channel.RETRY_SECONDS)

    def _supply(self, channel: socket.socket) -> bool:
        """Keep the worker supplied until the listener has ended (True) or the worker is gone. Raises OSError."""
        missing = SOURCES
        while True:
            with contextlib.ExitStack() as sent:
                sources = self._sources(missing)
                for _, source in sources:
                    sent.enter_context(source)
                numbers = accept_channel.credit(*(number for number, _ in sources))
                socket.send_fds(channel, [numbers], [source.fileno() for _, source in sources])
            missing -= len(sources)
            if not missing:
                used = channel.recv(SOURCES)
                if accept_channel.DEAF in used:
                    self._end()
                if not used or accept_channel.ENDED in used or self._ended:
                    return bool(used) or self._ended
                if handoff.EXHAUSTED in used:
                    time.sleep(RETRY_SECONDS)
                missing = len(used)

    def _sources(self, most: int) -> list[tuple[int, socket.socket]]:
        """As many as there are descriptors for, but not without one."""
        sources = [self._source()]
        with contextlib.suppress(OSError):
            while len(sources) < most:
                sources.append(self._origins.source())
        return sources

    def _bring_one(self) -> bool:
        from ztclient.v1 import node_pb2 as pb

        # First, so that a process that is out of descriptors leaves the connections where they are.
        number, source = self._source()
        with source:
            # The window scale is agreed upon in the handshake: buffers come before it.
            source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._ended:
                    return False
                self._accepting = self._control.stub.Accept.future(
                    pb.AcceptRequest(listener_id=self._id), metadata=self._control.metadata
                )
            connection = self._accepting.result().connection
            try:
                self._origins.remember(number, self._port, connection)
                if not self._connect(source):
                    return False
                self._join_patiently(source, connection)
            except OSError:
                # Reset by its peer before it was fetched, as happens in a kernel's queue too.
                byte_relay.reset(source)
        return True

    def _source(self) -> tuple[int, socket.socket]:
        while True:
            try:
                return self._origins.source()
            except OSError:
                time.sleep(RETRY_SECONDS)

    def _connect(self, source: socket.socket) -> bool:
        """Connect to the listening socket; False when that is closed. Raises OSError where it has no room."""
        source.settimeout(ROOM_SECONDS)
        try:
            source.connect(("127.0.0.1", self._port))
        except ConnectionRefusedError:
            return False
        source.settimeout(None)
        return True

    def _join_patiently(self, source: socket.socket, connection: pb.Connection) -> None:
        deadline = time.monotonic() + ROOM_SECONDS
        while True:
            try:
                self._join(source, connection)
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or time.monotonic() >= deadline:
                    raise
            time.sleep(RETRY_SECONDS)

    def _join(self, source: socket.socket, connection: pb.Connection) -> None:
        """Have what ``source`` is one end of carry the bytes of ``connection``. Raises OSError."""
        from ztclient.v1 import node_pb2 as pb

        if connection.handoff_path:
            try:
                handed = handoff.join(connection.handoff_path, connection.token, source)
            except (FileNotFoundError, PermissionError):
                pass  # brought into a container without the worker's socket: see dialling
            else:
                if handed is not None:
                    byte_relay.start(source.dup(), handed)
                return
        byte_stream.join_stream(
            self._control, pb.StreamRequest(token=connection.token), source.dup(), handoff.CLAIM_TIMEOUT
        )

    def _hang_up(self) -> None:
        """Nothing will come: whoever waits for the listener, in any process, shall learn it. We have no descriptor of
        it; a socket that was made here is found by its name."""
        for listener in list(_listeners):
            if listener._port == self._port and listener.fileno() >= 0:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)


def overlay_ends(address: Any) -> tuple[OverlayAddress, OverlayAddress] | None:
    """Local and remote end on the overlay of a connection that a plain socket accepted from ``address``, in the process
    of the listener or one forked from it; None where it came from elsewhere."""
    return next((ends for origins in _all_origins if (ends := origins.look_up(address)) is not None), None)


_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
_feeds: set[Feed] = set()
_all_origins: list[Origins] = []
_own_origins: Origins | None = None
_lock = threading.Lock()


def _origins() -> Origins:
    global _own_origins
    with _lock:
        if _own_origins is None:
            _own_origins = Origins()
            _all_origins.append(_own_origins)
        return _own_origins


def _memory(size: int) -> int:
    """A descriptor of so much memory; -1 where the system has no such thing, or forbids it."""
    if not _FILTERED:
        return -1
    with contextlib.suppress(OSError):
        descriptor = os.memfd_create("ztclient-ends")
        os.ftruncate(descriptor, size)
        return descriptor
    return -1


def _attach(listener: socket.socket, program: bytes) -> None:
    """Raises OSError where the system takes no filter."""
    buffer = ctypes.create_string_buffer(program)
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    )


def _after_fork() -> None:
    """A child reads the tables of its parent and makes one of its own for its own listeners."""
    global _own_origins, _lock
    _lock = threading.Lock()
    _own_origins = None
    _feeds.clear()


@atexit.register
def _at_exit() -> None:
    """Forked processes that still wait for connections learn that none will come."""
    for feed in list(_feeds):
        feed._hang_up()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
