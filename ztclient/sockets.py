"""Sockets of the overlay with the manners of the standard library's, from creation on.

A ``socket`` begins as a socket of the kernel, with a descriptor of its own. What ``connect``, ``bind`` and ``listen``
make on the overlay takes the place of that under the same number (dup2), so that whoever has the number has the
connection.

A connect that must not block is one end of a TCP pair whose send buffer is full: it becomes writable, as a connected
socket does, when the node has the connection and a thread has emptied the other end, which the stack worker then joins
to it. Where there is none the other end is closed, and SO_ERROR says why.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket as standard
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ztclient import byte_relay, byte_stream, handoff, udp_options
from ztclient.datagrams import DatagramSocket
from ztclient.default_timeout import DEFAULT_TIMEOUT
from ztclient.forms import is_numeric
from ztclient.listener import BUFFER_BYTES, Listener
from ztclient.loopback import socket_pair
from ztclient.node import Node
from ztclient.overlay_socket import Connection, OverlayAddress, overlay_address
from ztclient.reach import dial_request

if TYPE_CHECKING:
    from ztclient.destination import Destination

_FILLER = bytes(1 << 16)
_NODELAY = (standard.IPPROTO_TCP, standard.TCP_NODELAY)
_CONGESTION = (standard.IPPROTO_TCP, getattr(standard, "TCP_CONGESTION", 13))
_CONGESTION_BYTES = 16
"""Of a name, as Linux has it (TCP_CA_NAME_MAX)."""
_INTERNET = (standard.AF_INET, standard.AF_INET6)


def default_node() -> Node:
    """The node of sockets that are not told another: found as ztclient.discovery says."""
    return Node()


class socket(standard.socket):
    """As ``socket.socket``; of the Internet families it is on the overlay. ``node``: the class attribute that gives the
    node."""

    node = staticmethod(default_node)

    def __new__(cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> socket:  # noqa: ARG004
        """UDP has a class of its own."""
        datagrams = type != -1 and type & 0xF == standard.SOCK_DGRAM
        kind = cls._of_datagrams() if datagrams and _internet(family) and fileno is None else cls
        return super().__new__(kind)

    @classmethod
    def _of_datagrams(cls) -> type[socket]:
        """The class of this class's UDP sockets."""
        return UdpSocket if cls is socket else cls

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        super().__init__(family, type, proto, fileno)
        self._overlay = fileno is None and _internet(self.family)
        self._local: OverlayAddress | None = None
        self._remote: OverlayAddress | None = None
        self._listener: Listener | None = None
        self._pending: _Pending | None = None
        self._delay = False
        self._congestion = ""

    # Connections

    def connect(self, address: Any, /) -> None:
        """Connect. Raises what the standard one raises; BlockingIOError (EINPROGRESS) where it must not block."""
        if not self._on_overlay(address):
            super().connect(address)
            return
        if self._pending is not None:
            number = self._pending.poll()
            raise OSError(number, os.strerror(number))
        if self._remote is not None:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        ip, port = _one_address(self.node, address[0], self.family), int(address[1])
        node, timeout = self.node(), self.gettimeout()
        nwid = None if self._local is None else node.network_of((self._local[0], 0))
        if timeout == 0:
            self._begin(node, ip, port, nwid)
            raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
        plain = node.dial(ip, port, timeout, nwid=nwid, delay=self._delay, congestion=self._congestion)
        self._become(plain)
        self._remote = overlay_address(ip, port)

    def connect_ex(self, address: Any, /) -> int:
        """As ``connect``: the errno, 0 when connected."""
        try:
            self.connect(address)
        except standard.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _begin(self, node: Node, ip: str, port: int, nwid: str | None) -> None:
        request = dial_request(ip, port, None, nwid, delay=self._delay, congestion=self._congestion)
        near, far = socket_pair(BUFFER_BYTES)
        near.setblocking(False)
        filled = _fill(near, far)
        self._become(near)
        self._remote = overlay_address(ip, port)
        self._pending = _Pending(node, *request, far, filled)

    def setsockopt(self, *arguments: Any) -> None:
        """As the standard one. Before the socket is connected or listens, TCP_CONGESTION ("cubic", "newreno", "bbr")
        and TCP_NODELAY are the overlay connection's; the first raises OSError (EISCONN) later, the second is then of
        the way to the node alone."""
        option = arguments[:2]
        unused = self._overlay and self._remote is None and self._listener is None
        if option == _CONGESTION and self._overlay:
            if not unused:
                raise OSError(errno.EISCONN, "the overlay's congestion control is chosen before connect or listen")
            name = arguments[2]
            self._congestion = (bytes(name).rstrip(b"\0").decode("ascii", "replace") if name else "").strip()
            return
        if option == _NODELAY and unused:
            self._delay = not udp_options.integer(arguments[2])
        super().setsockopt(*arguments)

    def getsockopt(self, level: int, optname: int, *buflen: int) -> Any:
        """As the standard one; SO_ERROR of a connect that must not block is what the overlay said."""
        if level == standard.SOL_SOCKET and optname == standard.SO_ERROR and self._pending is not None:
            if (number := self._pending.taken()) is not None:
                self._local, self._pending = self._pending.local, None
                if number:
                    self._remote = None
                return number
            return 0
        if (level, optname) == _CONGESTION and self._overlay:
            return self._congestion.encode().ljust(_CONGESTION_BYTES, b"\0")[: buflen[0] if buflen else None]
        return super().getsockopt(level, optname, *buflen)

    # Listeners

    def bind(self, address: Any, /) -> None:
        """Bind to a managed address (empty: all of them). Raises OSError (EADDRINUSE, EADDRNOTAVAIL...)."""
        if not self._binds_on_overlay(address):
            super().bind(address)
            return
        if self._local is not None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        host = address[0] if address[0] not in ("", "0.0.0.0", "::") else ""
        self._local = overlay_address(
            _one_address(self.node, host, self.family) if host else _any(self.family), int(address[1])
        )
        if self._local[1]:
            self._listen(128)

    def listen(self, backlog: int = 128, /) -> None:
        """Accept connections."""
        if not self._overlay or self._local is None:
            super().listen(backlog)
        else:
            self._listen(backlog)

    def _listen(self, backlog: int) -> None:
        assert self._local is not None
        if self._listener is None:
            ip, port = self._local[0], self._local[1]
            try:
                listener = self.node().listen(
                    "" if ip in ("0.0.0.0", "::") else ip,
                    port,
                    backlog=backlog,
                    delay=self._delay,
                    congestion=self._congestion,
                )
            except OSError:
                self._local = None
                raise
            timeout = self.gettimeout()
            os.dup2(listener.fileno(), self.fileno(), inheritable=False)
            os.close(listener.detach())
            self.settimeout(timeout)
            self._listener = listener
            self._local = overlay_address(ip, listener.bound[1])

    def accept(self) -> tuple[standard.socket, Any]:
        """The next connection, and its peer's address."""
        if self._listener is None:
            return super().accept()
        connected, address = self._listener.accept_from(self)
        return connected, address

    # Both

    def getsockname(self) -> Any:
        """This end's address on the overlay."""
        if self._local is not None and not self._local[1] and self._listener is None and self._remote is None:
            self._listen(128)  # a port is wanted
        name = super().getsockname()
        return self._local or (name if self._remote is None else _end(self))

    def getpeername(self) -> Any:
        """The peer's address on the overlay."""
        name = super().getpeername()
        return self._remote or name

    def close(self) -> None:
        """As the standard one."""
        super().close()
        if self._listener is not None and self.fileno() < 0:
            self._listener.closed()

    def dup(self) -> Any:
        """Another object for the same socket."""
        copied = self.__class__(self.family, self.type, self.proto, fileno=standard.dup(self.fileno()))
        copied.__dict__.update(self.__dict__)
        copied.settimeout(self.gettimeout())
        return copied

    def _become(self, made: standard.socket) -> None:
        """Take over what ``made`` is, under our own number, with the options that were set."""
        timeout = self.gettimeout()
        keep = super().getsockopt(standard.SOL_SOCKET, standard.SO_KEEPALIVE)
        os.dup2(made.fileno(), self.fileno(), inheritable=self.get_inheritable())
        if isinstance(made, Connection):
            self._local = made.getsockname()
        made.close()
        if keep:
            self.setsockopt(standard.SOL_SOCKET, standard.SO_KEEPALIVE, keep)
        self.settimeout(timeout)

    def _on_overlay(self, _address: Any) -> bool:
        """Whether a connection to that address is the overlay's."""
        return self._overlay

    def _binds_on_overlay(self, _address: Any) -> bool:
        """Whether that address is bound on the overlay."""
        return self._overlay


_REUSE = {
    (standard.SOL_SOCKET, getattr(standard, name))
    for name in ("SO_REUSEADDR", "SO_REUSEPORT")
    if hasattr(standard, name)
}


class UdpSocket(DatagramSocket, socket):
    """UDP: opened when it is first used."""

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        socket.__init__(self, family, type, proto, fileno)
        self._bound = overlay_address(_any(self.family), 0)
        self._peer = None
        self._open = False
        self._token = b""
        self._options = {}
        self._control = lambda: self.node().control
        self._reuse = False
        self._wanted: list[tuple[tuple[int, int], Any]] = []

    def bind(self, address: Any, /) -> None:
        """Bind to a managed address (empty: all of them). Raises OSError."""
        if self._open:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        host = address[0] if address[0] not in ("", "0.0.0.0", "::") else ""
        ip = _one_address(self.node, host, self.family) if host else ""
        made = self.node().open_udp(ip, int(address[1]), reuse=self._reuse)
        bound, self._token = made.getsockname(), made._token
        self._become(made)
        self._open = True
        self._bound = overlay_address(bound[0] if host else _any(self.family), bound[1])
        wanted, self._wanted = self._wanted, []
        for option, value in wanted:
            self._configure(option, value)

    def setsockopt(self, *arguments: Any) -> None:
        """As the standard one; of a socket that is not bound yet, what the node refuses is raised by ``bind``, or by
        what is sent first."""
        if arguments[:2] in _REUSE:
            self._reuse = self._reuse or bool(udp_options.integer(arguments[2]))
        super().setsockopt(*arguments)

    def _configure(self, option: tuple[int, int], value: Any) -> None:
        if self._open:
            super()._configure(option, value)
        else:
            self._wanted.append((option, value))

    def connect(self, address: Any, /) -> None:
        """Speak to one remote only."""
        self._ensure()
        super().connect((_one_address(self.node, address[0], self.family), address[1]))

    def _send(self, data: Any, ip: str, port: int, flags: int = 0) -> int:
        self._ensure()
        return super()._send(data, ip, port, flags)

    def dup(self) -> Any:
        """Another object for the same socket."""
        return socket.dup(self)

    def close(self) -> None:
        """As the standard one."""
        standard.socket.close(self)

    def _ensure(self) -> None:
        if not self._open:
            UdpSocket.bind(self, ("", 0))


class _Pending:
    """A connect under way that must not block."""

    def __init__(self, node: Node, to: Destination, patience: float, far: standard.socket, filled: int) -> None:
        self._far = far
        self._filled = filled
        self._result: int | None = None
        self.local: OverlayAddress | None = None
        """This end, once connected; None where that is not known."""
        threading.Thread(target=self._dial, args=(node, to, patience), name="ztclient-connect", daemon=True).start()

    def poll(self) -> int:
        """What a second connect gets."""
        return errno.EALREADY if self._result is None else self._result or errno.EISCONN

    def taken(self) -> int | None:
        """The result, if there is one."""
        return self._result

    def _dial(self, node: Node, to: Destination, patience: float) -> None:
        from ztclient.v1 import node_pb2 as pb

        try:
            control = node.control
            if control.address.scheme != "unix":
                self._drained(
                    lambda: byte_stream.join_stream(control, pb.StreamRequest(dial=to.message()), self._far, patience)
                )
                return
            connection = control.call(control.stub.Dial, to.message(), patience).connection
            self.local = overlay_address(connection.local.ip, connection.local.port)

            def join() -> None:
                handed = handoff.join(connection.handoff_path, connection.token, self._far)
                if handed is not None:
                    byte_relay.start(self._far.dup(), handed)
                self._far.close()

            self._drained(join)
        except OSError as error:
            self._result = error.errno or errno.EIO
            byte_relay.reset(self._far)
        except Exception:
            self._result = errno.EIO
            byte_relay.reset(self._far)

    def _drained(self, join: Any) -> None:
        """Take the filler out, then hand the far end on; the near end becomes writable in between."""
        left = self._filled
        # All but the last of it, so that nobody sees a connection that does not stand yet.
        while left > 1:
            left -= len(self._far.recv(min(left - 1, 1 << 18)))
        self._result = 0
        self._far.recv(1)
        join()


def _fill(near: standard.socket, far: standard.socket) -> int:
    """Send until there is no room in ``near``, and will be none; the number of bytes."""
    filled = 0
    while True:
        try:
            while True:
                filled += near.send(_FILLER)
        except BlockingIOError:
            pass
        if hasattr(standard, "TCP_QUICKACK"):  # an acknowledgement that is delayed would make room later
            far.setsockopt(standard.IPPROTO_TCP, standard.TCP_QUICKACK, 1)
        if not _writable(near):
            return filled


def _writable(sock: standard.socket) -> bool:
    # poll(2) takes descriptors of any size; Windows has select alone.
    with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        return bool(selector.select(0))


def create_connection(
    address: tuple[str | None, int],
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
) -> socket:
    """As ``socket.create_connection``, over the overlay."""
    host, port = address
    failures: list[Exception] = []
    for family, kind, proto, _, target in getaddrinfo(host, port, 0, standard.SOCK_STREAM):
        connected = socket(family, kind, proto)
        try:
            if timeout is not DEFAULT_TIMEOUT:
                connected.settimeout(timeout)
            if source_address:
                connected.bind(source_address)
            connected.connect(target)
            return connected
        except OSError as error:
            failures.append(error)
            connected.close()
    if all_errors:
        raise ExceptionGroup("create_connection failed", failures)
    raise failures[0]


def create_server(
    address: tuple[str, int],
    *,
    family: int = standard.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,  # noqa: ARG001 (the original takes it; a listener on all addresses has both families)
) -> socket:
    """As ``socket.create_server``, over the overlay. Raises ValueError for ``reuse_port``, which there is not."""
    if reuse_port:
        raise ValueError("SO_REUSEPORT not supported on the overlay")
    listening = socket(family, standard.SOCK_STREAM)
    try:
        listening.bind(address)
        listening.listen(128 if backlog is None else backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[Any, Any, int, str, Any]]:
    """As ``socket.getaddrinfo``, of numeric addresses and names of the overlay: the host's resolver is never asked."""
    return addresses_of(default_node, host, port, family, type, proto, flags)


def addresses_of(
    node: Callable[[], Node], host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[Any, Any, int, str, Any]]:
    """As ``getaddrinfo``, with the names that ``node()`` knows."""
    numeric = flags | standard.AI_NUMERICHOST
    name = named(host, flags)
    if name is None:
        return standard.getaddrinfo(host, port, family, type, proto, numeric)
    return [
        entry
        for ip in node().resolve(name, family)
        for entry in standard.getaddrinfo(ip, port, family, type, proto, numeric & ~standard.AI_CANONNAME)
    ]


def named(host: Any, flags: int = 0) -> str | None:
    """The host name that getaddrinfo is asked for; None where there is nothing to be asked."""
    text = host.decode("idna") if isinstance(host, bytes) else host
    if not isinstance(text, str) or not text or flags & standard.AI_NUMERICHOST:
        return None
    return None if is_numeric(text.partition("%")[0]) else text


def if_nameindex() -> list[tuple[int, str]]:
    """As ``socket.if_nameindex``, of the node's networks: the index is what IPV6_JOIN_GROUP takes, the name is ``zt``
    and the network id."""
    return [(udp_options.interface_index(each.nwid), f"zt{each.nwid}") for each in default_node().networks()]


def gethostbyname(hostname: str) -> str:
    """As ``socket.gethostbyname``, over the overlay."""
    return _one_address(default_node, hostname, standard.AF_INET)


def _one_address(node: Callable[[], Node], host: Any, family: int) -> str:
    return str(addresses_of(node, host, None, family, standard.SOCK_STREAM)[0][4][0])


def _internet(family: int) -> bool:
    return family in _INTERNET or family == -1


def _any(family: int) -> str:
    return "::" if family == standard.AF_INET6 else "0.0.0.0"


def _end(connected: socket) -> OverlayAddress:
    """The local end of what was dialled without being told its own."""
    return overlay_address(_any(connected.family), 0)


__all__ = ["create_connection", "create_server", "getaddrinfo", "gethostbyname", "if_nameindex", "socket"]
