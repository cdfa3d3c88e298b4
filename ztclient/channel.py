"""gRPC channels to nodes: one for each node and process, made when first needed, shared by all threads."""

from __future__ import annotations

import errno
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from ztclient.discovery import Address
from ztclient.errors import Error, NodeUnavailableError, from_rpc

if TYPE_CHECKING:
    import grpc

    from ztclient.v1 import node_pb2 as pb
    from ztclient.v1.controller_pb2_grpc import ControllerServiceStub
    from ztclient.v1.node_pb2_grpc import NodeServiceStub

OPTIONS: tuple[tuple[str, int], ...] = (
    # A node's address is the user's own choice; a web proxy has no part in it.
    ("grpc.enable_http_proxy", 0),
    # Otherwise a new channel would inherit the back-off of an old one to the same address: see Control.translated.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class Credentials(NamedTuple):
    """What a TCP address wants: a bearer ``token``, and for TLS PEM files: the authority that signed the node's
    certificate (None: the system's authorities), and this client's certificate and key where the node asks for them."""

    token: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Control:
    """Calls to one node."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        """Raises OSError when a credential file cannot be read. No connection is made yet."""
        import grpc

        from ztclient.v1.node_pb2_grpc import NodeServiceStub

        if address.scheme == "unix":
            self._channel = grpc.insecure_channel("unix:" + quote(address.target), OPTIONS)
        elif address.scheme == "tcp":
            self._channel = grpc.insecure_channel(address.target, OPTIONS)
        else:
            authorities = read(credentials.ca_file)
            own_key, own_chain = read(credentials.key_file), read(credentials.cert_file)
            secure = grpc.ssl_channel_credentials(authorities, own_key, own_chain)
            self._channel = grpc.secure_channel(address.target, secure, OPTIONS)
        self.address = address
        self.metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {credentials.token}"),) if credentials.token else ()
        )
        self.stub: NodeServiceStub = NodeServiceStub(self._channel)
        self.direct_path = ""
        """The Unix socket of the node's worker, which takes dials itself; empty: not known to."""
        self.idle: list[socket.socket] = []
        """Channels to that worker on which it was asked before."""
        weakref.finalize(self, close_all, self.idle)

    def learn(self, answer: pb.DialResponse) -> None:
        """Where the next connection may be asked for."""
        self.direct_path = answer.connection.handoff_path if answer.direct else ""

    @property
    def controller_stub(self) -> ControllerServiceStub:
        """Calls to the network controller, which only some nodes are."""
        from ztclient.v1.controller_pb2_grpc import ControllerServiceStub

        return ControllerServiceStub(self._channel)

    def call(self, method: Callable[..., Any], request: Any, timeout: float | None = 30.0) -> Any:
        """One unary call. ``timeout`` in seconds, None: for ever. Raises as ``errors.from_rpc`` says."""
        import grpc

        try:
            return method(request, timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def entries(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """Every entry that a List call gives, fetched page by page; ``request`` is changed on the way. Raises as
        ``call`` does."""
        while True:
            answer = self.call(method, request)
            for field, value in answer.ListFields():
                if field.name != "next_page_token":
                    yield from value
            if not answer.next_page_token:
                return
            if answer.next_page_token == request.page_token:
                raise Error(errno.EIO, f"the node at {self.address} gives the same page again and again")
            request.page_token = answer.next_page_token

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn a gRPC failure inside into this package's exceptions."""
        import grpc

        try:
            yield
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def _failure(self, error: grpc.RpcError) -> Exception:
        raised = from_rpc(error, str(self.address))
        if isinstance(raised, NodeUnavailableError):
            # The channel would go on failing until its back-off ends; a new one tries at once.
            forget(self)
        return raised


def close_all(channels: list[socket.socket]) -> None:
    """Close what nobody will use any more."""
    while channels:
        channels.pop().close()


_cache: dict[tuple[Address, Credentials], Control] = {}
_lock = threading.Lock()


def get(address: Address, credentials: Credentials) -> Control:
    """The shared Control of this process for a node."""
    key = (address, credentials)
    control = _cache.get(key)  # whole or not there: that needs no lock
    if control is not None:
        return control
    with _lock:
        control = _cache.get(key)
        if control is None:
            control = _cache[key] = Control(address, credentials)
        return control


def forget(control: Control) -> None:
    """Let the next ``get`` make a new channel; calls that run on the old one go on."""
    with _lock:
        for key in [key for key, cached in _cache.items() if cached is control]:
            del _cache[key]


def read(path: str | None) -> bytes | None:
    """The contents of a file that may not be named. Raises OSError."""
    if path is None:
        return None
    return Path(path).read_bytes()


def _after_fork() -> None:
    """A channel does not survive a fork: its threads are in the parent. The lock may be held by one of those."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_cache.values())
    _cache.clear()


_inherited: list[Control] = []
"""Channels of the parent process: closing one here (as the garbage collector would) could hang."""

if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
