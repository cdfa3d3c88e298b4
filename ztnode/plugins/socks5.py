"""The SOCKS5 transport: UDP through a proxy (RFC 1928, UDP ASSOCIATE; RFC 1929, name and password), for hosts that
reach nothing else. No library of PyPI offers that part of SOCKS."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from ztnode.hookspecs import Datagrams, Endpoint, ProxyFor, Transport, hookimpl
from ztnode.plugins import outer_proxy
from ztnode.plugins.reconnecting import Reconnecting
from ztnode.socket_watch import Watch

log = logging.getLogger(__name__)

VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
NAME_AND_PASSWORD: Final = 2
NONE_ACCEPTABLE: Final = 0xFF
PASSWORD_VERSION: Final = 1
UDP_ASSOCIATE: Final = 3
IPV4, IPV6 = 1, 4
ADDRESS_BYTES: Final = {IPV4: 4, IPV6: 16}
REPLIES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    7: "it relays no UDP",
    8: "it does not know this kind of address",
}
"""RFC 1928 section 6."""
READS_PER_WAKEUP: Final = 64
"""Datagram reads before the event loop gets its turn again."""
SOCKET_BUFFER: Final = 1 << 20
ANY: Final[Endpoint] = ("0.0.0.0", 0)


def pack_endpoint(endpoint: Endpoint) -> bytes:
    """ATYP, address and port (RFC 1928 section 5)."""
    address = ipaddress.ip_address(endpoint[0])
    kind = IPV4 if address.version == 4 else IPV6
    return bytes([kind]) + address.packed + endpoint[1].to_bytes(2, "big")


def unpack_endpoint(data: bytes, offset: int) -> tuple[Endpoint, int]:
    """The endpoint at ``offset`` and where it ends. Raises ValueError, also for host names."""
    size = ADDRESS_BYTES.get(data[offset], 0) if len(data) > offset else 0
    end = offset + 1 + size + 2
    if not size or len(data) < end:
        raise ValueError("not a SOCKS5 address")
    address = ipaddress.ip_address(data[offset + 1 : offset + 1 + size])
    return (str(address), int.from_bytes(data[end - 2 : end], "big")), end


class Garbage(OSError):
    """What came is no SOCKS5."""

    def __init__(self) -> None:
        super().__init__("it does not speak SOCKS5")


class Socks5Transport:
    """See ``ztnode.hookspecs.Transport``, ``MayBeDown``, ``UsesProxies`` and ``Counts``."""

    def __init__(self, url: str = "") -> None:
        """``url``: of the proxy; empty: of the one that ``use_proxies`` names. Raises ValueError."""
        self._proxy: Endpoint = "", 0
        self._credentials: tuple[bytes, bytes] | None = None
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self._udp: socket.socket | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._counted: Counter[str] = Counter(socks5_garbage=0, socks5_lost=0)
        self._connection = Reconnecting("the SOCKS5 proxy", self._dial)
        if url:
            self._take(url)

    @property
    def is_up(self) -> bool:
        """Whether the proxy relays for us now."""
        return self._udp is not None

    @property
    def counters(self) -> Mapping[str, int]:
        """``socks5_garbage``: proxies that spoke something else, and datagrams; ``socks5_lost``: associations that
        ended; ``socks5_refused``: attempts that brought none."""
        return {**self._counted, "socks5_refused": self._connection.failures}

    def _take(self, url: str) -> None:
        parts = urlsplit(outer_proxy.check(url))
        assert parts.hostname is not None and parts.port is not None
        self._proxy = parts.hostname, parts.port
        self._connection = Reconnecting(f"the SOCKS5 proxy {parts.hostname}:{parts.port}", self._dial)
        if parts.username is not None:
            self._credentials = unquote(parts.username).encode(), unquote(parts.password or "").encode()
            if not all(0 < len(each) < 256 for each in self._credentials):
                raise ValueError("name and password of a SOCKS5 proxy have 1 to 255 bytes")

    def use_proxies(self, proxy_for: ProxyFor) -> None:
        """See UsesProxies."""
        if self._proxy[1]:
            return
        url = proxy_for("")
        if url is None or not url.startswith("socks5://"):
            raise ValueError(
                "--transport socks5 knows no proxy: give socks5://HOST:PORT instead, or set ALL_PROXY to that"
            )
        self._take(url)

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:  # noqa: ARG002 (the proxy chooses)
        """See Transport. The proxy is asked afterwards."""
        self._receive = receive
        self._keeping = asyncio.get_running_loop().create_task(self._connection.run())

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See Transport."""
        if self._udp is None:
            return len(datagrams)
        header = b"\0\0\0" + pack_endpoint(endpoint)
        dropped = 0
        for datagram in datagrams:
            try:
                self._udp.send(header + datagram)
            except OSError:  # full, or an ICMP error of an earlier one
                dropped += 1
        return dropped

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See Transport."""
        return [] if self._udp is None else [self._udp.getsockname()[:2]]

    async def close(self) -> None:
        """See Transport."""
        self._receive = lambda _datagrams: None
        tasks = self._ending if self._keeping is None else {*self._ending, self._keeping}
        self._keeping = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _dial(self) -> asyncio.Future[bool]:
        """Ask the proxy for a UDP relay; it lives as long as the control connection. Raises OSError."""
        reader, control = await asyncio.open_connection(*self._proxy, limit=1024)
        try:
            try:
                await self._log_in(reader, control)
                control.write(bytes([VERSION, UDP_ASSOCIATE, 0]) + pack_endpoint(ANY))
                head = await reader.readexactly(4)
                if head[0] != VERSION or head[3] not in ADDRESS_BYTES:
                    raise Garbage
                rest = await reader.readexactly(ADDRESS_BYTES[head[3]] + 2)
            except asyncio.IncompleteReadError as error:
                raise OSError("it hung up") from error
            if head[1] != 0:
                raise OSError(f"no relay for UDP: {REPLIES.get(head[1], f'reply {head[1]}')}")
            relay, _ = unpack_endpoint(head[3:] + rest, 0)
            if ipaddress.ip_address(relay[0]).is_unspecified:
                relay = (control.get_extra_info("peername")[0], relay[1])
            self._udp = self._connected(relay)
        except BaseException as error:
            self._counted["socks5_garbage"] += isinstance(error, Garbage)
            control.close()
            raise
        lost = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(self._until_lost(reader, control, self._udp, lost))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return lost

    async def _log_in(self, reader: asyncio.StreamReader, control: asyncio.StreamWriter) -> None:
        method = NO_AUTHENTICATION if self._credentials is None else NAME_AND_PASSWORD
        control.write(bytes([VERSION, 1, method]))
        version, chosen = await reader.readexactly(2)
        if version != VERSION:
            raise Garbage
        if chosen != method:
            raise OSError(
                "it wants a name and a password: socks5://NAME:PASSWORD@HOST:PORT"
                if self._credentials is None
                else "it takes no name and password: leave them out of its URL"
            )
        if self._credentials is not None:
            name, password = self._credentials
            control.write(bytes([PASSWORD_VERSION, len(name)]) + name + bytes([len(password)]) + password)
            if (await reader.readexactly(2))[1] != 0:
                raise OSError("it does not take this name and password")

    def _connected(self, relay: Endpoint) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in relay[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                made.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            made.connect(relay)
        except BaseException:
            made.close()
            raise
        return made

    async def _until_lost(
        self,
        reader: asyncio.StreamReader,
        control: asyncio.StreamWriter,
        udp: socket.socket,
        lost: asyncio.Future[bool],
    ) -> None:
        log.info("UDP goes by the SOCKS5 proxy %s:%d", *self._proxy)
        watch = Watch(udp, self._readable, udp)
        try:
            with contextlib.suppress(OSError):
                if await reader.read(1):
                    self._counted["socks5_garbage"] += 1
            self._counted["socks5_lost"] += 1
        finally:
            self._udp = None
            watch.stop()
            udp.close()
            control.close()
            if not lost.done():
                lost.set_result(True)

    def _readable(self, udp: socket.socket) -> None:
        """Datagrams from the relay: RSV, FRAG, endpoint, payload (RFC 1928 section 7)."""
        batch: list[tuple[bytes, Endpoint]] = []
        for _ in range(READS_PER_WAKEUP):
            try:
                data = udp.recv(65535)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue
            try:
                if len(data) < 4 or data[2] != 0:
                    raise ValueError
                source, end = unpack_endpoint(data, 3)
            except ValueError:
                self._counted["socks5_garbage"] += 1
                continue
            batch.append((data[end:], source))
        if batch:
            self._receive(batch)


@hookimpl(trylast=True)
def ztnode_transport(name: str) -> Transport | None:
    """The transports named ``socks5://[NAME:PASSWORD@]HOST:PORT`` and ``socks5``, which is that in $ZTNODE_SOCKS5 (with
    or without the scheme) or the one by which this host reaches the internet."""
    if name.partition("://")[0] not in ("socks5", "socks5h"):
        return None
    kept = os.environ.get("ZTNODE_SOCKS5", "")
    return Socks5Transport(name if "://" in name else kept if "://" in kept or not kept else f"socks5://{kept}")
