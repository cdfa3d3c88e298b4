"""A transport that goes by a TCP relay where UDP brings nothing: packets to IPv4 addresses of the internet are sent
there too once nothing has come from one for a minute, until something does.

Source: reference OneService.cpp, ``nodeWirePacketSendFunction`` and ``phyOnTcpConnect``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from ztnode.hookspecs import Datagrams, TellsPeersApart, Transport
from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import Endpoint, format_endpoint
from ztnode.wire.tcp_relay import MIN_PACKET, RecordReader, build_greeting, build_record
from ztnode.wire.wire_error import WireError

log = logging.getLogger(__name__)

FALLBACK_AFTER: Final = 60.0
"""ZT_TCP_FALLBACK_AFTER."""
RETRY: Final = 5.0
MAX_UNSENT: Final = 1 << 16
"""Bytes that wait for the relay to take them; what comes then is dropped, as UDP would."""
VERSION: Final = (1, 14, 1)


@functools.lru_cache(4096)
def _is_of_the_internet(ip: str) -> bool:
    return ":" not in ip and scope_of(ip) is Scope.GLOBAL


class TcpRelay(asyncio.Protocol):
    """See ``ztnode.hookspecs.Transport`` and ``TellsPeersApart``; over another one, ``udp``."""

    def __init__(
        self, udp: Transport, relay: Endpoint, *, always: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``always``: send nothing by UDP, and take nothing that comes by it."""
        self._udp = udp
        self._relay = relay
        self._always = always
        self._clock = clock
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self._reader = RecordReader()
        self._tcp: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next_try = self._heard = clock()
        self._told = False

    @property
    def is_active(self) -> bool:
        """Whether packets go by the relay now."""
        return self._tcp is not None

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        """See Transport."""
        self._receive = receive
        await self._udp.open(port, self._by_udp)

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See Transport."""
        relayed = 0
        if (self._always or self._clock() - self._heard > FALLBACK_AFTER) and _is_of_the_internet(endpoint[0]):
            relayed = self._send_relayed(endpoint, datagrams)
        return len(datagrams) - relayed if self._always else self._udp.send(endpoint, datagrams)

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See Transport."""
        return self._udp.local_endpoints()

    async def close(self) -> None:
        """See Transport."""
        self._receive = lambda _datagrams: None
        self._next_try = float("inf")
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._tcp is not None:
            self._tcp.abort()
        await self._udp.close()

    def favor(self, endpoints: Sequence[Endpoint]) -> None:
        """See TellsPeersApart."""
        if isinstance(self._udp, TellsPeersApart):
            self._udp.favor(endpoints)

    def let_others_wait(self, seconds: float) -> None:
        """See TellsPeersApart."""
        if isinstance(self._udp, TellsPeersApart):
            self._udp.let_others_wait(seconds)

    def _by_udp(self, datagrams: Datagrams) -> None:
        if self._always:
            return
        if self._clock() - self._heard > 1.0 and any(_is_of_the_internet(source[0]) for _, source in datagrams):
            self._heard = self._clock()
            if self._tcp is not None:
                log.info("UDP is back: the TCP relay is not needed any more")
                self._tcp.close()
        self._receive(datagrams)

    def _send_relayed(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        if self._tcp is None:
            if self._connecting is None and self._clock() >= self._next_try:
                self._next_try = self._clock() + RETRY
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
            return 0
        if self._tcp.is_closing() or self._tcp.get_write_buffer_size() > MAX_UNSENT:
            return 0
        self._tcp.write(b"".join(build_record(endpoint, each) for each in datagrams if len(each) >= MIN_PACKET))
        return len(datagrams)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *self._relay)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("the TCP relay %s cannot be reached: %s", format_endpoint(self._relay), error)
        finally:
            self._connecting = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._tcp = cast("asyncio.Transport", transport)  # uvloop's are like it, and not of its kind
        self._told = False
        self._reader = RecordReader()
        self._tcp.write(build_greeting(*VERSION))
        log.info("packets go by the TCP relay %s", format_endpoint(self._relay))

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        try:
            packets = self._reader.feed(data)
        except WireError as error:
            log.warning("%s: %s", format_endpoint(self._relay), error)
            self._next_try = self._clock() + FALLBACK_AFTER
            if self._tcp is not None:
                self._tcp.abort()
            return
        if packets:
            self._receive(packets)

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self._tcp = None
