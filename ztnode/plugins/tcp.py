"""The TCP transport: packets to IPv4 addresses of the internet go by a TCP relay, ZeroTier's ``tcp-proxy`` or that of
``ztnode serve --tcp-relay-listen``, where UDP brings nothing.

Source: reference OneService.cpp, ``nodeWirePacketSendFunction`` and ``phyOnTcpConnect``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from ztnode.hookspecs import Datagrams, Endpoint, ProxyFor, Transport, hookimpl
from ztnode.plugins import outer_proxy
from ztnode.plugins.reconnecting import Reconnecting
from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import format_endpoint
from ztnode.wire.tcp_relay import MIN_PACKET, RecordReader, build_greeting, build_records, parse_relay
from ztnode.wire.wire_error import WireError

log = logging.getLogger(__name__)

ZEROTIER: Final = ("204.80.128.1", 443)
"""The relay of ZeroTier, Inc. (ZT_TCP_FALLBACK_RELAY)."""
MAX_UNSENT: Final = 1 << 18
"""Bytes that wait for the relay to take them; what comes then is dropped, as UDP would."""
MAX_HELD: Final = 1 << 14
"""Bytes of the first packets, for which the connection is made."""
VERSION: Final = (1, 14, 1)


@functools.lru_cache(4096)
def is_relayed(ip: str) -> bool:
    """Whether a relay takes packets to this address."""
    return ":" not in ip and scope_of(ip) is Scope.GLOBAL


class TcpTransport(asyncio.Protocol):
    """See ``ztnode.hookspecs.Transport``, ``MayBeDown``, ``UsesProxies`` and ``Counts``."""

    def __init__(self, relay: Endpoint) -> None:
        """``relay``: its host may be a name."""
        self._relay = relay
        self._proxy: str | None = None
        self._name = f"the TCP relay {format_endpoint(relay)}"
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self._reader = RecordReader()
        self._tcp: asyncio.Transport | None = None
        self._held: list[bytes] = []
        self._lost: asyncio.Future[bool] | None = None
        self._useful = False
        self._keeping: asyncio.Task[None] | None = None
        self._counted: Counter[str] = Counter(tcp_garbage=0, tcp_lost=0, tcp_dropped=0)
        self._connection = Reconnecting(self._name, self._dial)

    @property
    def is_up(self) -> bool:
        """Whether packets go by the relay now."""
        return self._tcp is not None

    @property
    def counters(self) -> Mapping[str, int]:
        """``tcp_garbage``: connections that were closed since the relay spoke something else; ``tcp_lost``: others that
        ended; ``tcp_refused``: attempts that brought none; ``tcp_dropped``: packets that the relay took too slowly."""
        return {**self._counted, "tcp_refused": self._connection.failures}

    def use_proxies(self, proxy_for: ProxyFor) -> None:
        """See UsesProxies."""
        self._proxy = proxy_for(self._relay[0])

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:  # noqa: ARG002 (the relay chooses)
        """See Transport. The connection is made afterwards."""
        self._receive = receive
        self._keeping = asyncio.get_running_loop().create_task(self._connection.run())

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See Transport."""
        if not is_relayed(endpoint[0]):
            return len(datagrams)
        records = build_records(endpoint, [each for each in datagrams if len(each) >= MIN_PACKET])
        if self._tcp is None:
            # The first ones greet the roots, and would be sent again in seconds only.
            if sum(map(len, self._held)) + len(records) > MAX_HELD:
                return len(datagrams)
            self._held.append(records)
            return 0
        if self._tcp.is_closing() or self._tcp.get_write_buffer_size() > MAX_UNSENT:
            self._counted["tcp_dropped"] += len(datagrams)
            return len(datagrams)
        self._tcp.write(records)
        return 0

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See Transport: nobody reaches this host by one of ours."""
        return ()

    async def close(self) -> None:
        """See Transport."""
        self._receive = lambda _datagrams: None
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        if self._tcp is not None:
            self._tcp.abort()
            self._tcp = None
        self._held.clear()

    async def _dial(self) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        self._lost = loop.create_future()
        try:
            made = await outer_proxy.connect(self._relay, self._proxy)
            if made is None:
                await loop.create_connection(lambda: self, *self._relay)
            else:
                await loop.create_connection(lambda: self, sock=made)
        except BaseException:
            self._held.clear()
            raise
        return self._lost

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._tcp = cast("asyncio.Transport", transport)  # uvloop's are like it, and not of its kind
        self._useful = False
        self._reader = RecordReader()
        self._tcp.write(b"".join((build_greeting(*VERSION), *self._held)))
        self._held.clear()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        try:
            packets = self._reader.feed(data)
        except WireError as error:
            if not self._counted["tcp_garbage"]:
                log.warning("%s: %s", self._name, error)
            self._counted["tcp_garbage"] += 1
            self._useful = False
            if self._tcp is not None:
                self._tcp.abort()
            return
        if packets:
            if not self._useful:
                self._useful = True
                log.info("packets go by %s", self._name)
            self._receive(packets)

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self._tcp = None
        self._counted["tcp_lost"] += 1
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(self._useful)


@hookimpl(trylast=True)
def ztnode_transport(name: str) -> Transport | None:
    """The transports named ``tcp`` (by ZeroTier's own relay) and ``tcp://HOST:PORT``."""
    scheme, _, rest = name.partition("://")
    if scheme != "tcp":
        return None
    return TcpTransport(parse_relay(rest) if rest else ZEROTIER)
