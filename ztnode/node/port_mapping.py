"""A UDP port of the router's for that of the node, so that peers reach it from outside: by PCP, NAT-PMP or UPnP, the
first of them that the default gateway speaks. Kept for as long as the node runs, and given back in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from asyncio import sleep
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ztnode.node.pcp import Mapper, NatPmp, Pcp, PortMappingError
from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import Endpoint, format_endpoint

log = logging.getLogger(__name__)

LIFETIME: Final = 7200
"""Seconds for which a port is asked for (RFC 6886 section 3.3); it is asked for again after half of what was given, or
of this where a router gives more than it was asked for: 136 years, for one that knows no end."""
SHORTEST: Final = 120
AGAIN: Final = 600.0
"""Seconds until a router that gave nothing is asked again."""
GIVE_BACK: Final = 1.0
"""Seconds that this may take when the node ends."""
ROUTES: Final = Path("/proc/net/route")
_GATEWAY_FLAG: Final = 2


class PortMapping:
    """Asks, and asks again."""

    def __init__(self, port: int, on_mapped: Callable[[Endpoint | None], None]) -> None:
        """``on_mapped`` is told where the node is reached from outside, None: nowhere."""
        self._port = port
        self._on_mapped = on_mapped
        self._mapped: Endpoint | None = None
        self._by: Mapper | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Give the port back; done within GIVE_BACK seconds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._by is not None:
            try:
                async with asyncio.timeout(GIVE_BACK):
                    await self._by.unmap(self._port)
            except (PortMappingError, OSError) as error:
                log.info("the port of the router was not given back: %s", error or "no answer")

    async def _run(self) -> None:
        told = False
        while True:
            try:
                mapped, lifetime = await self._map()
            except PortMappingError as error:
                if not told or self._mapped is not None:
                    log.info("no port of the router's: %s", error)
                told = True
                self._by = None
                self._tell(None)
                await sleep(AGAIN)
            else:
                if mapped != self._mapped and self._by is not None:
                    log.info("reached from outside at %s, by %s", format_endpoint(mapped), self._by.name)
                self._tell(mapped)
                await sleep(min(max(SHORTEST, lifetime), LIFETIME) / 2)

    def _tell(self, mapped: Endpoint | None) -> None:
        if mapped != self._mapped:
            self._mapped = mapped
            self._on_mapped(mapped)

    async def _map(self) -> tuple[Endpoint, int]:
        gateway = default_gateway()
        if gateway is None:
            raise PortMappingError("this host has no default gateway")
        reasons = []
        for mapper in _mappers(gateway) if self._by is None else (self._by,):
            try:
                mapped, lifetime = await mapper.map(self._port, LIFETIME)
            except PortMappingError as error:
                reasons.append(f"{mapper.name}: {error}")
                continue
            if scope_of(mapped[0]) is not Scope.GLOBAL:
                with contextlib.suppress(PortMappingError):
                    await mapper.unmap(self._port)
                raise PortMappingError(f"the router's own address, {mapped[0]}, is not one of the internet")
            self._by = mapper
            return mapped, lifetime
        raise PortMappingError("; ".join(reasons))


def default_gateway(routes: Path = ROUTES) -> str | None:
    """The IPv4 address of the router by which this host reaches the internet, as Linux tells; None elsewhere."""
    best: tuple[int, str] | None = None
    try:
        lines = routes.read_text().splitlines()[1:]
        for line in lines:
            _, target, gateway, flags, _, _, metric, mask, *_ = line.split()
            if int(target, 16) == int(mask, 16) == 0 and int(flags, 16) & _GATEWAY_FLAG:
                found = int(metric), socket.inet_ntoa(int(gateway, 16).to_bytes(4, "little"))
                best = found if best is None else min(best, found)
    except (OSError, ValueError):
        return None
    return None if best is None else best[1]


def _mappers(gateway: str) -> Iterable[Mapper]:
    yield Pcp(gateway)
    yield NatPmp(gateway)
    try:
        from ztnode.node.upnp import Upnp
    except ModuleNotFoundError:
        raise PortMappingError("neither PCP nor NAT-PMP; for UPnP: pip install 'ztnode[upnp]'") from None
    yield Upnp(gateway)
