"""gRPC channels for event loops: one for each node and loop, made when first needed."""

from __future__ import annotations

import asyncio
import errno
import socket
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ztclient.channel import OPTIONS, Credentials, close_all, read
from ztclient.discovery import Address
from ztclient.errors import Error, NodeUnavailableError, from_rpc

if TYPE_CHECKING:
    import grpc

    from ztclient.v1 import node_pb2 as pb
    from ztclient.v1.node_pb2_grpc import NodeServiceAsyncStub


class Control:
    """Calls to one node from one event loop."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        """Raises OSError when a credential file cannot be read. No connection is made yet."""
        import grpc.aio

        from ztclient.v1.node_pb2_grpc import NodeServiceStub

        if address.scheme == "unix":
            self._channel = grpc.aio.insecure_channel("unix:" + quote(address.target), OPTIONS)
        elif address.scheme == "tcp":
            self._channel = grpc.aio.insecure_channel(address.target, OPTIONS)
        else:
            secure = grpc.ssl_channel_credentials(
                read(credentials.ca_file), read(credentials.key_file), read(credentials.cert_file)
            )
            self._channel = grpc.aio.secure_channel(address.target, secure, OPTIONS)
        self.address = address
        self.metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {credentials.token}"),) if credentials.token else ()
        )
        self.stub: NodeServiceAsyncStub = NodeServiceStub(self._channel)
        self.direct_path = ""
        """As of ztclient.channel.Control."""
        self.first_dial: asyncio.Future[None] | None = None
        """Done when the first Dial on this channel is answered, or has taken too long for others to wait for."""
        self.idle: list[socket.socket] = []
        """As of ztclient.channel.Control."""
        weakref.finalize(self, close_all, self.idle)

    def learn(self, answer: pb.DialResponse) -> None:
        """Where the next connection may be asked for."""
        self.direct_path = answer.connection.handoff_path if answer.direct else ""

    async def call(self, method: Any, request: Any, timeout: float | None = 30.0) -> Any:
        """One unary call. ``timeout`` in seconds, None: for ever. Raises as ``errors.from_rpc`` says."""
        with self.translated():
            return await method(request, timeout=timeout, metadata=self.metadata)

    async def entries(self, method: Any, request: Any) -> AsyncIterator[Any]:
        """Every entry that a List call gives, fetched page by page; ``request`` is changed on the way."""
        while True:
            answer = await self.call(method, request)
            for field, value in answer.ListFields():
                if field.name != "next_page_token":
                    for each in value:
                        yield each
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
            raise self.failure(error) from None

    def failure(self, error: grpc.RpcError) -> Exception:
        """The exception for a failed call."""
        raised = from_rpc(error, str(self.address))
        if isinstance(raised, NodeUnavailableError):
            # The channel would go on failing until its back-off ends; a new one tries at once.
            forget(self)
        return raised


_cache: dict[asyncio.AbstractEventLoop, dict[tuple[Address, Credentials], Control]] = {}


def get(address: Address, credentials: Credentials) -> Control:
    """The shared Control of the running event loop for a node."""
    loop = asyncio.get_running_loop()
    if (controls := _cache.get(loop)) is None:
        for closed in [each for each in list(_cache) if each.is_closed()]:
            _cache.pop(closed, None)
        controls = _cache.setdefault(loop, {})
    key = (address, credentials)
    if (control := controls.get(key)) is None:
        control = controls[key] = Control(address, credentials)
    return control


def forget(control: Control) -> None:
    """Let the next ``get`` make a new channel; calls that run on the old one go on."""
    for controls in list(_cache.values()):
        for key in [key for key, cached in controls.items() if cached is control]:
            del controls[key]
