"""The gRPC server of a node: which services, where it listens, and who may call.

A Unix socket with mode 0600 in the state directory always; a TCP address only when asked for. Over TCP a caller shows a
bearer token, or a certificate signed by the given authority; without TLS only on loopback, unless explicitly allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ztclient import discovery
from ztclient.forms import format_host_port, numeric_ip, split_host_port
from ztclient.v1 import node_pb2
from ztclient.v1 import node_pb2_grpc as rpc
from ztnode import unix_sockets
from ztnode.control.call_log import CallLog
from ztnode.control.certificates import Certificates
from ztnode.control.failure import QUIET
from ztnode.control.node_service import NodeService
from ztnode.control.reflection import LazyReflection
from ztnode.control.tcp_options import TcpOptions
from ztnode.control.token import TOKEN_NAME, TokenInterceptor, load_or_create
from ztnode.names import Resolver
from ztnode.node.api import NodeApi

GRPC_LOGGER = "grpc._cython.cygrpc"

_MIB = 1024 * 1024

_OPTIONS: Sequence[tuple[str, int]] = (
    # A message of data may hold 1 MiB.
    ("grpc.max_receive_message_length", _MIB + 64 * 1024),
    # Two nodes on one port would share its callers in turn; the second must fail instead.
    ("grpc.so_reuseport", 0),
    # A client that vanished without a word must not hold its connections open for ever.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Calls of one connection at once; each of them may hold a dial or a listener.
    ("grpc.max_concurrent_streams", 1024),
)

TCP_OPTIONS: Sequence[tuple[str, int]] = (
    # Whoever can reach the port can connect. How many may, how long they get to say that they speak HTTP/2, over TLS
    # where there is TLS, and how long a connection without a call stays; a client's next call opens another.
    ("grpc.max_allowed_incoming_connections", 1024),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),
)

_log = logging.getLogger(__name__)


class Service(NamedTuple):
    """A gRPC service to offer: its full name, and the function that adds it to a server."""

    name: str
    register: Callable[[grpc.aio.Server], None]


def node_service(node: NodeApi, resolver: Resolver) -> Service:
    """NodeService over ``node``, with the names that ``resolver`` knows."""
    servicer = NodeService(node, resolver)
    name = node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name
    return Service(name, lambda server: rpc.add_NodeServiceServicer_to_server(servicer, server))


class ControlServer:
    """Listens for control calls. ``start`` once, ``stop`` once; runs on the event loop that calls ``start``."""

    def __init__(self, services: Sequence[Service], *, state: Path, tcp: TcpOptions | None = None) -> None:
        """``state`` is the state directory. Raises ValueError for options that do not fit together."""
        if tcp is not None:
            _check(tcp)
        self._services = services
        self._state = state
        self._tcp = tcp
        self._servers: list[grpc.aio.Server] = []
        self.health: list[health.aio.HealthServicer] = []
        """The health service of each address."""
        self._socket: tuple[Path, int] | None = None
        self._certificates: Certificates | None = None
        self.addresses: list[str] = []
        """Where it listens, in the forms of ztclient.discovery; the Unix socket comes first."""

    async def start(self) -> None:
        """Bind and serve. Raises OSError or ValueError with one line for a person; nothing is left bound then."""
        logging.getLogger(GRPC_LOGGER).addFilter(QUIET)
        try:
            await self._start_unix(self._unix_path())
            if self._tcp is not None:
                await self._start_tcp(self._tcp)
        except BaseException:
            await self.stop(grace=0)
            raise

    async def stop(self, grace: float = 0.5) -> None:
        """Refuse new calls, give running ones ``grace`` seconds, end them, and remove the Unix socket."""
        for servicer in self.health:
            await servicer.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        self._servers.clear()
        if self._socket is not None:
            path, inode = self._socket
            self._socket = None
            with contextlib.suppress(FileNotFoundError):
                # Not the socket of a node that was started since.
                if path.stat().st_ino == inode:
                    path.unlink()

    def reload(self) -> bool:
        """Take the TLS files as they are now, for connections from here on; False if there are none. Raises OSError
        with one line for a person; the old ones stay in use then."""
        if self._certificates is None:
            return False
        self._certificates.reload()
        return True

    def _unix_path(self) -> Path:
        """In the state directory, or where clients look next. Raises OSError."""
        path = discovery.socket_path(self._state)
        _make_private(path.parent)
        _remove_stale(path)
        refused = unix_sockets.refusal(str(path))
        if refused is None:
            return path
        other = discovery.other_socket_path(self._state)
        if other == path:
            raise OSError(refused.errno, f"cannot listen on {path}: {refused.strerror}")
        _log.warning("%s cannot hold Unix sockets (%s): that of this node is %s", path.parent, refused.strerror, other)
        _make_private(other.parent)
        _remove_stale(other)
        return other

    async def _start_unix(self, path: Path) -> None:
        server = await self._server([CallLog()])
        self._socket = (path, _bind_unix(server, path))
        await server.start()
        self.addresses.append(str(discovery.Address("unix", str(path))))

    async def _start_tcp(self, tcp: TcpOptions) -> None:
        host, port = _host_and_port(tcp.address)
        interceptors: list[grpc.aio.ServerInterceptor] = [CallLog()]
        if tcp.client_ca is None:
            interceptors.append(TokenInterceptor(load_or_create(tcp.token_file or self._state / TOKEN_NAME)))
        server = await self._server(interceptors, TCP_OPTIONS)
        _try_bind(host, port)
        target = format_host_port(host, port)
        try:
            if tcp.certificate is not None and tcp.key is not None:
                self._certificates = Certificates(tcp.certificate, tcp.key, tcp.client_ca)
                bound = server.add_secure_port(target, self._certificates.credentials())
            else:
                bound = server.add_insecure_port(target)
        except RuntimeError as error:
            raise OSError(errno.EIO, f"cannot serve on {target}: {error}") from error
        await server.start()
        shown = discovery.Address("tls" if tcp.tls else "tcp", format_host_port(host, bound))
        self.addresses.append(str(shown))

    async def _server(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor], more: Sequence[tuple[str, int]] = ()
    ) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=list(interceptors), options=[*_OPTIONS, *more])
        self._servers.append(server)
        names = [service.name for service in self._services]
        for service in self._services:
            service.register(server)
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        for name in ("", *names):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.health.append(servicer)
        server.add_generic_rpc_handlers((LazyReflection((*names, health.SERVICE_NAME)),))
        return server


def _check(tcp: TcpOptions) -> None:
    host, _port = _host_and_port(tcp.address)
    if (tcp.certificate is None) != (tcp.key is None):
        raise ValueError("TLS needs both a certificate and a key")
    if tcp.client_ca is not None and not tcp.tls:
        raise ValueError("client certificates need TLS: give a certificate and a key too")
    if not tcp.tls and not tcp.insecure and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(
            f"{tcp.address} is not loopback, and the token would travel in clear: give a certificate and a key for "
            "TLS, or --insecure"
        )


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        host, port = split_host_port(address)
        return numeric_ip(host), port
    except ValueError:
        raise ValueError(f"{address!r} is not an address to listen on: write IP:PORT, such as 127.0.0.1:7447") from None


def _make_private(directory: Path) -> None:
    """Make the directory of the socket. Raises OSError; among the files of all users also where somebody else made it,
    who could put another socket in our place."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory == discovery.runtime_directory() and not discovery.is_private(directory):
        raise PermissionError(errno.EACCES, f"{directory} is not a directory of this user with mode 0700")


def _remove_stale(path: Path) -> None:
    """Remove a socket that a crashed node left. gRPC would remove a living one too, so this must come first.

    Raises OSError when a node answers there or when the path is something else than a socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, f"{path} is in the way: it is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise OSError(error.errno, f"cannot tell whether a node uses {path}: {error.strerror or error}") from error
    raise OSError(errno.EADDRINUSE, f"another node answers on {path}")


def _bind_unix(server: grpc.aio.Server, path: Path) -> int:
    """Bind with mode 0600; returns the socket's inode. Raises OSError."""
    # gRPC binds here and now, and the mode must hold from the first moment on.
    previous = os.umask(0o177)
    try:
        server.add_insecure_port("unix:" + quote(str(path)))
        return path.stat().st_ino
    except RuntimeError as error:
        raise OSError(errno.EIO, f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(previous)


def _try_bind(host: str, port: int) -> None:
    """Bind and let go: gRPC tells a failure in many lines on stderr and gives no errno. Raises OSError."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
