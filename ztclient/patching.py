"""``with ztclient.patch():`` unchanged Python code reaches the overlay; all other addresses as before."""

from __future__ import annotations

import errno
import functools
import ipaddress
import socket as standard
import threading
import time
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from ztclient import sockets, udp_options
from ztclient.errors import ForeignNameError
from ztclient.node import Node

ROUTES_SECONDS: Final = 2.0
"""For how long the node's routes are believed."""

_HOST: Final = standard.socket
_UNTIL_OVERLAY: Final = (
    *("connect_ex", "send", "sendall", "recv", "recvfrom", "recv_into", "recvfrom_into"),
    *("getsockname", "getpeername", "getsockopt"),
)
"""Methods of a UDP socket whose meaning is the host's until it is the overlay's."""

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Routes:
    """What the joined networks of a node lead to. A default route is a reason to take a connection from the host only
    where the node follows it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._lock = threading.Lock()
        self._until = 0.0
        self._targets: list[_Network] = []
        self._own: set[str] = set()

    def leads_to(self, address: Any) -> bool:
        """Whether a socket's address lies on the overlay. Raises OSError when the node does not answer."""
        ip = _numeric(address)
        if ip is None or ip.is_loopback or ip.is_unspecified:
            return False
        self._refresh()
        return any(ip.version == target.version and ip in target for target in self._targets)

    def are_own(self, address: Any) -> bool:
        """Whether it is a managed address of the node. Raises OSError when the node does not answer."""
        ip = _numeric(address)
        if ip is None or ip.is_loopback or ip.is_unspecified:
            return False
        self._refresh()
        return str(ip) in self._own

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() < self._until:
                return
            networks = self.node.networks()
            targets: set[_Network] = set()
            for network in networks:
                led = [ipaddress.ip_network(route.target, strict=False) for route in network.routes]
                targets.update(target for target in led if target.prefixlen or network.allow_default)
                targets.update(ipaddress.ip_network(address, strict=False) for address in network.addresses)
            self._targets = list(targets)
            self._own = {address.partition("/")[0] for network in networks for address in network.addresses}
            self._until = time.monotonic() + ROUTES_SECONDS


class patch:
    """While it is entered, ``socket.socket`` makes TCP connections to addresses of the node's managed routes over the
    overlay, and listens there on the node's managed addresses; every other address is the host's, as before. Code that
    makes its sockets in Python is covered, on asyncio's own loop too, which is not held up; code that makes them in C,
    such as uvloop and grpc, is not: see ``ztclient.aio``. A UDP socket is the overlay's from the moment on when it is
    bound to a managed address of the node, joins a multicast group by one, or, not being bound, sends to an address of
    a managed route; being the host's already it refuses such an address (EOPNOTSUPP).

    ``node``: a Node or its address; left out, it is found. A context manager, for the whole process; ``start`` does it
    for good.
    """

    def __init__(self, node: Node | str | None = None) -> None:
        self._node = node
        self._original: Any = None

    def start(self) -> None:
        """Until ``stop``. Raises NodeUnavailableError where no node is found, RuntimeError when patched already."""
        if self._original is not None or issubclass(standard.socket, sockets.socket):
            raise RuntimeError("socket is patched already")
        node = self._node if isinstance(self._node, Node) else Node(self._node)
        self._original = standard.socket
        standard.socket = _routed(Routes(node))  # type: ignore[misc]
        self._functions = standard.getaddrinfo, standard.gethostbyname
        standard.getaddrinfo, standard.gethostbyname = _lookups(node, *self._functions)

    def stop(self) -> None:
        """Sockets that were made meanwhile stay what they are."""
        if self._original is not None:
            standard.socket, self._original = self._original, None  # type: ignore[misc]
            standard.getaddrinfo, standard.gethostbyname = self._functions

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _lookups(node: Node, getaddrinfo: Any, gethostbyname: Any) -> tuple[Any, Any]:
    """Both functions, with the overlay's names asked of the node and no others."""
    own = standard.gethostname().partition(".")[0].lower()

    def overlay_ips(host: Any, family: int, flags: int = 0) -> list[str] | None:
        name = sockets.named(host, flags)
        if name is None or name.lower() in ("localhost", own):
            return None
        try:
            return node.resolve(name, family)
        except (ForeignNameError, UnicodeError):
            return None
        except standard.gaierror as error:
            if "." not in name and error.errno == standard.EAI_AGAIN:
                return None  # a name server that is down must not take the host's short names with it
            raise

    def looked_up(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        """As socket.getaddrinfo."""
        ips = overlay_ips(host, family, flags)
        if ips is None:
            return getaddrinfo(host, port, family, type, proto, flags)
        return [entry for ip in ips for entry in getaddrinfo(ip, port, family, type, proto, flags)]

    def by_name(hostname: str) -> str:
        """As socket.gethostbyname."""
        ips = overlay_ips(hostname, standard.AF_INET)
        return str(gethostbyname(hostname) if ips is None else ips[0])

    return looked_up, by_name


def _of_either(name: str) -> Any:
    """A method that is the standard one's as long as the socket is the host's."""
    host, overlay = getattr(_HOST, name), getattr(sockets.UdpSocket, name)

    @functools.wraps(host)
    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return (overlay if self._open else host)(self, *arguments, **keywords)

    return method


class _RoutedDatagrams(sockets.UdpSocket):
    """Of the host until an address makes it one of the overlay."""

    routes: Routes
    _of_host = False
    """The host has bound or connected it."""

    def bind(self, address: Any, /) -> None:
        """As the standard one."""
        if self.routes.are_own(address) and not self._of_host:
            super().bind(address)
        else:
            _HOST.bind(self, address)
            self._of_host = True

    def connect(self, address: Any, /) -> None:
        """As the standard one."""
        if self._goes_to(address):
            super().connect(address)
        else:
            _HOST.connect(self, address)
            self._of_host = True

    def sendto(self, data: Any, *arguments: Any) -> int:
        """As the standard one."""
        if self._goes_to(arguments[-1]):
            return super().sendto(data, *arguments)
        return _HOST.sendto(self, data, *arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As the standard one."""
        kind = udp_options.KNOWN.get(arguments[:2])
        own = kind in ("join", "multicast_ip") and _names_interface(arguments[0], arguments[2], self.routes)
        if own and not self._open:
            port = _HOST.getsockname(self)[1] if self._of_host else 0
            sockets.UdpSocket.bind(self, ("", port))
        if not self._open:
            _HOST.setsockopt(self, *arguments)
        if self._open or kind not in ("join", "leave"):
            super().setsockopt(*arguments)

    def _goes_to(self, address: Any) -> bool:
        """Whether the overlay is to have what goes to that address."""
        if self._open or not self.routes.leads_to(address):
            return self._open
        if self._of_host:
            reason = f"{address[0]} is on the overlay, and this socket is bound to the host's addresses"
            raise OSError(errno.EOPNOTSUPP, reason)
        return True


for _name in _UNTIL_OVERLAY:
    setattr(_RoutedDatagrams, _name, _of_either(_name))


def _routed(routes: Routes) -> type[sockets.socket]:
    class RoutedSocket(sockets.socket):
        """Of the overlay or of the host, as the address has it."""

        node = staticmethod(lambda: routes.node)

        def _on_overlay(self, address: Any) -> bool:
            return self._overlay and self.type == standard.SOCK_STREAM and routes.leads_to(address)

        def _binds_on_overlay(self, address: Any) -> bool:
            return self._overlay and self.type == standard.SOCK_STREAM and routes.are_own(address)

        @classmethod
        def _of_datagrams(cls) -> type[sockets.socket]:
            return RoutedDatagrams if cls is RoutedSocket else cls

    class RoutedDatagrams(_RoutedDatagrams, RoutedSocket):
        pass

    RoutedDatagrams.routes = routes
    for made in (RoutedSocket, RoutedDatagrams):
        made.__name__ = made.__qualname__ = "socket"
    return RoutedSocket


def _names_interface(level: int, value: Any, routes: Routes) -> bool:
    """Whether an option names an interface by a managed address of the node. An index is always one of the host's."""
    data = bytes(value) if isinstance(value, bytes | bytearray) else b""
    if level != standard.IPPROTO_IP or len(data) not in (4, 8):
        return False
    return routes.are_own((standard.inet_ntoa(data[-4:]), 0))


def _numeric(address: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP of an Internet address; None for a name and for addresses of other families."""
    if not isinstance(address, tuple) or not address or not isinstance(address[0], str):
        return None
    try:
        return ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return None
