"""``serve --tcp-relay-listen``: a TCP relay for hosts from which UDP goes nowhere, as ZeroTier's ``tcp-proxy``.

Each client has a UDP socket, so that to others it is a node behind a NAT. What a client may do with it is less than
with the reference's relay, which sends anything anywhere: packets that look like VL1's go to global IPv4 addresses and
ports above 1024; what was never heard from gets few; and each client has a share of memory and speed.

Source: reference tcp-proxy/tcp-proxy.cpp.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, cast

from ztnode.hookspecs import Datagrams
from ztnode.plugins.udp import UdpTransport
from ztnode.token_bucket import TokenBucket
from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.fragment import INDICATOR, OFFSET_INDICATOR, is_fragment
from ztnode.wire.packet import MIN_PACKET_LENGTH
from ztnode.wire.tcp_relay import MIN_PACKET, RecordReader, build_record
from ztnode.wire.wire_error import WireError

MAX_CLIENTS: Final = 1024
MAX_CLIENTS_OF_HOST: Final = 64
"""From one IPv4 address, behind which there may be an office, or from one IPv6 network of 64 bits."""
IDLE: Final = 300.0
"""Seconds without a packet either way after which a client is let go (ZT_TCP_PROXY_CONNECTION_TIMEOUT_SECONDS)."""
QUIET: Final = 60.0
"""The same where there is no room for another one."""
GREETING_TIMEOUT: Final = 10.0
LOOK_EVERY: Final = 5.0
MAX_UNSENT: Final = 1 << 18
"""Bytes that wait for a client to take them; what comes then is dropped, as UDP would."""
GATHER: Final = 0.001
"""Seconds for which records are gathered where they come one after the other: at 20 MB/s each write would carry one,
and cost both ends several times what it does."""
MAX_QUEUE: Final = 1 << 20
"""Bytes of its UDP socket that wait for us, likewise."""
HOST_RATE: Final = 64e6
"""Bytes a second from one host's clients into the internet, in the long run."""
HOST_BURST: Final = 4e6
HOST_RECORDS: Final = 50_000.0
ALL_RECORDS: Final = 100_000.0
"""Records a second, of one host and of all of them. What a client sends costs by the record, and the smallest has
five bytes: one that sent nothing else held up the node's loop for more than a second at a time."""
RECORDS_BURST: Final = 10_000.0
"""Of one host; of all, twice as many, so that one does not use up what the others have."""
UNANSWERED_RATE: Final = 100.0
"""Packets a second from a client to endpoints that never sent anything to it."""
UNANSWERED_BURST: Final = 400.0
MAX_ANSWERED: Final = 4096
"""Endpoints of which it is remembered, for each client, that they did."""
MAX_PORTS: Final = 4096
"""UDP ports that are remembered for nodes that come back."""
SOURCE: Final = slice(13, 18)
"""Of a packet: the ZeroTier address that it comes from. (Of a fragment it is something else, and no harm.)"""
LOWEST_PORT: Final = 1025
MAX_PACKET: Final = 2048
"""Bytes: the reference passes on less."""


def looks_like_vl1(packet: bytes) -> bool:
    """Whether these bytes may be a packet or a fragment: the addresses of both ends can be ones. Cheap, and no more
    than that: a relay has no keys."""
    if not MIN_PACKET <= len(packet) < MAX_PACKET or packet[8] == INDICATOR or not any(packet[8:13]):
        return False
    if packet[OFFSET_INDICATOR] == INDICATOR:
        return is_fragment(packet)
    return len(packet) >= MIN_PACKET_LENGTH and any(packet[13:18])


def is_relayed_to(endpoint: Endpoint) -> bool:
    """Whether the relay sends there at all: into the internet, and not into the network that the relay itself is in."""
    return endpoint[1] >= LOWEST_PORT and scope_of(endpoint[0]) is Scope.GLOBAL


class _Host:
    """What counts as one: an address, however many clients come from there."""

    def __init__(self) -> None:
        self.clients = 0
        self.bytes = TokenBucket(HOST_RATE, HOST_BURST)
        self.records = TokenBucket(HOST_RECORDS, RECORDS_BURST)


class TcpRelayServer:
    """Serves until it is closed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.counters: Counter[str] = Counter()
        """Packets: ``sent``, ``received``; ``refused`` (not VL1's, or not into the internet), ``unanswered``,
        ``dropped``, ``unread``. Clients: ``accepted``, ``garbage``, ``too_many``, ``idle``; ``over_share``: how often
        one was not read from for a while."""
        self.records = TokenBucket(ALL_RECORDS, 2 * RECORDS_BURST)
        self._clients: set[_Client] = set()
        self._hosts: dict[str, _Host] = {}
        self._ports: dict[tuple[str, bytes], int] = {}
        """The UDP port that a node had, by where it connects from and its ZeroTier address."""
        self._server: asyncio.Server | None = None
        self._looking: asyncio.TimerHandle | None = None

    @property
    def clients(self) -> int:
        """How many there are."""
        return len(self._clients)

    async def open(self, host: str, port: int) -> Endpoint:
        """Listen; where. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), host, port, backlog=256)
        self._look()
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    def close(self) -> None:
        """Let all clients go."""
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.close()

    def admit(self, client: _Client, ip: str) -> _Host | None:
        """Take a client in, if there is room; the host that it belongs to."""
        name = _host(ip)
        host = self._hosts.get(name) or _Host()
        if host.clients >= MAX_CLIENTS_OF_HOST or not (len(self._clients) < MAX_CLIENTS or self._make_room()):
            self.counters["too_many"] += 1
            return None
        self.counters["accepted"] += 1
        self._hosts[name] = host
        self._clients.add(client)
        host.clients += 1
        return host

    def _make_room(self) -> bool:
        """Let the client go that has been quiet the longest, if that is long."""
        quietest = min(self._clients, key=lambda client: client.active)
        if self.clock() - quietest.active < QUIET:
            return False
        self.counters["idle"] += 1
        quietest.close()
        return True

    def leave(self, client: _Client, ip: str) -> None:
        """A client has gone."""
        if client in self._clients:
            self._clients.remove(client)
            host = self._hosts[_host(ip)]
            host.clients -= 1
            if not host.clients:
                del self._hosts[_host(ip)]

    def bind(self, udp: UdpTransport, ip: str, address: bytes, receive: Callable[[Datagrams], None]) -> None:
        """Give a client a UDP port, the one that it had before if that is free: peers go on sending there, those of the
        reference for half a minute. Raises OSError."""
        key = ip, address
        port = self._ports.pop(key, 0)
        try:
            udp.bind(port, receive)
        except OSError:
            if not port:
                raise
            udp.bind(0, receive)
        if len(self._ports) >= MAX_PORTS:
            del self._ports[next(iter(self._ports))]
        self._ports[key] = udp.local_endpoints()[0][1]

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
        now = self.clock()
        for client in list(self._clients):
            if now - client.active > (IDLE if client.has_greeted else GREETING_TIMEOUT):
                self.counters["idle"] += 1
                client.close()


class _Client(asyncio.Protocol):
    """A connection, and the UDP socket that it stands for."""

    def __init__(self, server: TcpRelayServer) -> None:
        self._server = server
        self._reader = RecordReader()
        self._tcp: asyncio.Transport | None = None
        self._udp = UdpTransport(ipv6=False, queue=MAX_QUEUE)
        self._host = _Host()
        self._waiting: asyncio.TimerHandle | None = None
        self._unanswered = TokenBucket(UNANSWERED_RATE, UNANSWERED_BURST)
        self._answered: dict[Endpoint, None] = {}
        self._records: list[bytes] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._flushed = float("-inf")
        self._ip = ""
        self.active = server.clock()
        """When a record came last, or a datagram."""

    @property
    def has_greeted(self) -> bool:
        return self._reader.greeting is not None

    def close(self) -> None:
        if self._tcp is not None:
            self._tcp.abort()
        self._leave()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)  # uvloop's are like it, and not of its kind
        self._ip = str((self._tcp.get_extra_info("peername") or ("",))[0])
        host = self._server.admit(self, self._ip)
        if host is None:
            self.close()
            return
        self._host = host

    def data_received(self, data: bytes) -> None:
        others = self._reader.others
        try:
            packets = self._reader.feed(data)
            if packets and not self.has_greeted:
                raise WireError("no greeting")
        except WireError:
            # Whoever speaks something else, such as a scanner or a browser: no line of the log for each.
            self._server.counters["garbage"] += 1
            self.close()
            return
        now = self._server.clock()
        self._charge(now, len(data), len(packets) + self._reader.others - others)
        if packets:
            self.active = now
            self._send(packets)

    def _charge(self, now: float, size: int, records: int) -> None:
        """Read no more for as long as this client's host, or all of them together, have had more than their share: TCP
        makes the sender wait, and nothing is lost."""
        wait = max(
            self._host.bytes.take(now, size),
            self._host.records.take(now, records),
            self._server.records.take(now, records),
        )
        if wait and self._tcp is not None and self._waiting is None:
            self._server.counters["over_share"] += 1
            self._tcp.pause_reading()
            self._waiting = asyncio.get_running_loop().call_later(wait, self._read_on)

    def _read_on(self) -> None:
        self._waiting = None
        if self._tcp is not None and not self._tcp.is_closing():
            self._tcp.resume_reading()

    def _send(self, packets: list[tuple[bytes, Endpoint]]) -> None:
        by_endpoint: dict[Endpoint, list[bytes]] = {}
        counters = self._server.counters
        for packet, endpoint in packets:
            if not (looks_like_vl1(packet) and is_relayed_to(endpoint)):
                counters["refused"] += 1
            elif endpoint not in self._answered and not self._unanswered.admit(self.active):
                counters["unanswered"] += 1
            else:
                by_endpoint.setdefault(endpoint, []).append(packet)
        if not self._udp.local_endpoints() and by_endpoint:
            source = next(iter(by_endpoint.values()))[0][SOURCE]
            try:
                self._server.bind(self._udp, self._ip, source, self._came)
            except OSError:  # no descriptors left
                counters["too_many"] += 1
                self.close()
                return
        for endpoint, batch in by_endpoint.items():
            counters["sent"] += len(batch)
            counters["dropped"] += self._udp.send(endpoint, batch)

    def _came(self, datagrams: Datagrams) -> None:
        if self._tcp is None or self._tcp.is_closing():
            return
        records = []
        for packet, endpoint in datagrams:
            if MIN_PACKET <= len(packet) < MAX_PACKET:
                records.append(build_record(endpoint, packet))
                if endpoint not in self._answered:
                    if len(self._answered) >= MAX_ANSWERED:
                        del self._answered[next(iter(self._answered))]
                    self._answered[endpoint] = None
        if not records:
            return
        self.active = self._server.clock()
        if self._tcp.get_write_buffer_size() > MAX_UNSENT:
            self._server.counters["unread"] += len(records)
            return
        self._server.counters["received"] += len(records)
        self._records += records
        if self._flushing is None:
            if self.active - self._flushed >= GATHER:
                self._flush()
            else:
                self._flushing = asyncio.get_running_loop().call_later(GATHER, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._flushed = self._server.clock()
        if self._tcp is not None:
            self._tcp.write(b"".join(self._records))
        self._records.clear()

    def connection_lost(self, _error: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        for timer in (self._flushing, self._waiting):
            if timer is not None:
                timer.cancel()
        self._tcp = None
        self._server.leave(self, self._ip)
        self._udp.unbind()


def _host(ip: str) -> str:
    """What counts as one host."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv4Address):
        return ip
    return str(address.ipv4_mapped or int(address) >> 64)
