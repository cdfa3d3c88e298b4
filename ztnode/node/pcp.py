"""Asking the default gateway for a port by PCP (RFC 6887) and NAT-PMP (RFC 6886)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, TypeVar

from ztnode.wire import port_mapping as wire
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.wire_error import WireError

PATIENCE: Final = (0.25, 0.5, 1.0)
"""Seconds for an answer, to one request after another (RFC 6886 section 3.1)."""

_T = TypeVar("_T")


class PortMappingError(Exception):
    """Why there is no mapping, in one line."""


class Mapper(Protocol):
    """One way of asking."""

    name: str

    async def map(self, port: int, lifetime: int) -> tuple[Endpoint, int]:
        """Where the node's ``port`` is reached from outside, and for how many seconds. Raises PortMappingError."""

    async def unmap(self, port: int) -> None:
        """Give it back. Raises PortMappingError."""


class _Asker(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue(16)
        self.refused = False

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (connected: the gateway)
        with contextlib.suppress(asyncio.QueueFull):
            self.answers.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.refused = isinstance(exc, OSError) and exc.errno == errno.ECONNREFUSED


@contextlib.asynccontextmanager
async def _asking(gateway: str) -> AsyncIterator[tuple[_Asker, asyncio.DatagramTransport]]:
    try:
        transport, asker = await asyncio.get_running_loop().create_datagram_endpoint(
            _Asker, remote_addr=(gateway, wire.PORT)
        )
    except OSError as error:
        raise PortMappingError(error.strerror or str(error)) from error
    try:
        yield asker, transport
    finally:
        transport.close()


async def _ask(asker: _Asker, transport: asyncio.DatagramTransport, request: bytes, parse: Callable[[bytes], _T]) -> _T:
    """Ask until there is an answer that ``parse`` takes. Raises PortMappingError."""
    refusal = "no answer"
    for patience in PATIENCE:
        transport.sendto(request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    try:
                        return parse(await asker.answers.get())
                    except wire.OtherVersion as error:
                        raise PortMappingError(str(error)) from None
                    except WireError as error:  # an answer to an earlier request, or nonsense: a better one may follow
                        refusal = str(error)
        if asker.refused:
            raise PortMappingError("not offered")
    raise PortMappingError(refusal)


class Pcp:
    """RFC 6887."""

    name = "PCP"

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._nonce = os.urandom(wire.NONCE_BYTES)
        self._external = 0

    async def map(self, port: int, lifetime: int) -> tuple[Endpoint, int]:
        """See Mapper."""
        async with _asking(self._gateway) as (asker, transport):
            own = transport.get_extra_info("sockname")[0]
            request = wire.build_pcp_map(own, self._nonce, port, self._external or port, lifetime)
            mapped = await _ask(asker, transport, request, lambda data: wire.parse_pcp_map(data, self._nonce))
        self._external = mapped.external_port
        return (mapped.address, mapped.external_port), mapped.lifetime

    async def unmap(self, port: int) -> None:
        """See Mapper."""
        await self.map(port, 0)


class NatPmp:
    """RFC 6886."""

    name = "NAT-PMP"

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._external = 0

    async def map(self, port: int, lifetime: int) -> tuple[Endpoint, int]:
        """See Mapper."""
        async with _asking(self._gateway) as (asker, transport):
            request = wire.build_nat_pmp_map(port, self._external or port, lifetime)
            mapped = await _ask(asker, transport, request, wire.parse_nat_pmp_map)
            if not lifetime:
                return (wire.NO_ADDRESS, 0), 0
            address = await _ask(asker, transport, wire.build_nat_pmp_address(), wire.parse_nat_pmp_address)
        self._external = mapped.external_port
        return (address, mapped.external_port), mapped.lifetime

    async def unmap(self, port: int) -> None:
        """See Mapper."""
        await self.map(port, 0)
