"""The stack: a whole host on one or more virtual Ethernets, driven by its owner (sans-IO).

The owner calls ``receive`` with batches of frames, ``handle_timer`` when ``next_timer`` says so, and after anything it
did takes the frames of ``to_send``; ``ready`` names the sockets worth looking at. Nothing in here blocks, reads a clock
or touches the system.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import groupby
from operator import itemgetter
from weakref import WeakValueDictionary

from ztnode.netstack import arp
from ztnode.netstack.clock import Clock
from ztnode.netstack.config import LOOPED, PortConfig, StackConfig
from ztnode.netstack.echo import EchoLayer, EchoSocket
from ztnode.netstack.flow import Flow
from ztnode.netstack.fragments import Reassembler
from ztnode.netstack.icmp import IcmpLayer
from ztnode.netstack.ip_input import IpInput
from ztnode.netstack.neighbours import Neighbour, permanent
from ztnode.netstack.output import IpOutput
from ztnode.netstack.path_mtu import PathMtuCache
from ztnode.netstack.port import Port
from ztnode.netstack.routes import RoutingTable
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.layer import TcpLayer
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.tcp.network import ConnectionKey, Frame
from ztnode.netstack.udp import UdpLayer, UdpSocket
from ztnode.wire import ethernet, icmp, icmpv6, ipv6

Socket = TcpConnection | TcpListener | UdpSocket | EchoSocket

_IPV4_TCP = struct.Struct("!6s6xHBxH2xHxB")
"""Of a frame: destination MAC, EtherType, version and header length, total length, fragment field, protocol."""
_IPV6_TCP = struct.Struct("!18xHB")
"""Payload length, next header."""

_LOOPBACK_ROUNDS = 64
"""Batches that one ``to_send`` turns round inside the stack before it lets the owner have its turn."""


class Stack:
    """Ports, neighbours, routes, IP, ICMP, UDP and TCP of one host.

    ``random(n)`` gives n unpredictable bytes; ``now`` is monotonic seconds everywhere.
    """

    def __init__(self, *, random: Callable[[int], bytes], now: float, config: StackConfig | None = None) -> None:
        self.config = config or StackConfig()
        self.clock = Clock(now)
        self.counters: dict[str, int] = {}
        """Drops and odd events of everything but TCP, by reason."""
        self._random = random
        self.ports: dict[int, Port] = {}
        self.routes = RoutingTable()
        self._flows: WeakValueDictionary[tuple[int, bytes, bytes], Flow] = WeakValueDictionary()
        self._queue: list[tuple[int, Frame]] = []
        self._loop: list[tuple[int, bytes]] = []
        self.segments: list[tuple[ConnectionKey, memoryview]] = []
        """TCP segments of the batch at hand."""
        self._ready: dict[UdpSocket | EchoSocket, None] = {}
        limits = self.config
        self.output = IpOutput(random, self._count)
        self.reassembler = Reassembler(
            max_bytes=limits.reassembly_bytes,
            max_datagrams=limits.reassembly_datagrams,
            max_fragments=limits.reassembly_fragments,
            timeout=limits.reassembly_timeout,
        )
        self.reassembler.counters = self.counters
        self.path_mtus = PathMtuCache(limits.path_mtus, limits.path_mtu_timeout)
        self.icmp = IcmpLayer(self, limits.echo_per_second, limits.errors_per_second, now)
        self.udp_layer = UdpLayer(self, random)
        self.echo = EchoLayer(self, random)
        self._ip = IpInput(self)
        self.tcp = TcpLayer(self, random=random, now=now, config=limits.tcp)

    # --- ports ---
    def add_port(self, index: int, config: PortConfig, now: float) -> None:
        """Attach a network. Raises ValueError for an index in use, a bad address, route or MTU."""
        if index in self.ports:
            raise ValueError(f"port {index} exists")
        self.clock.now = now
        port = Port(
            index,
            config,
            self.config,
            clock=self.clock,
            random=self._random,
            queue=self._queue,
            loop=self._loop,
            failed=self._unreachable,
            counters=self.counters,
        )
        self._install_routes(port)
        self.ports[index] = port
        self._reroute()
        self._announce(port, port.addresses)

    def update_port(self, index: int, config: PortConfig, now: float) -> None:
        """The network's configuration is another one now; connections whose address stays go on.

        Raises as ``add_port``, with nothing changed, and KeyError where there is no such port.
        """
        self.clock.now = now
        port = self.ports[index]
        before = port.config
        old_addresses, old_mac = port.addresses, port.mac
        port.configure(config)
        try:
            self._install_routes(port)
        except ValueError:
            port.configure(before)
            raise
        for address in old_addresses - port.addresses:
            self.tcp.address_removed(index, address, now)
        self._reroute()
        self._announce(port, port.addresses if port.mac != old_mac else port.addresses - old_addresses)

    def remove_port(self, index: int, now: float) -> None:
        """Detach a network: its sockets fail with ENETDOWN. Raises KeyError."""
        self.clock.now = now
        del self.ports[index]
        self.routes.remove(index)
        self.tcp.port_removed(index, now)
        self.udp_layer.port_removed(index)
        self.reassembler.drop_port(index)
        self._reroute()
        self._queue[:] = [entry for entry in self._queue if entry[0] != index]
        self._loop[:] = [entry for entry in self._loop if entry[0] != index]

    def _install_routes(self, port: Port) -> None:
        config = port.config
        # A route whose gateway is ourselves makes us the router of that network; as a host we have no use for it.
        routes = [
            (target, via)
            for target, via in config.routes
            if via is None or ip_address(via).packed not in port.addresses
        ]
        self.routes.replace(port.index, config.addresses, routes, config.metric)

    def _announce(self, port: Port, addresses: Sequence[bytes] | frozenset[bytes]) -> None:
        if self.config.announce:
            for address, _ in port.prefixes:
                if address in addresses:
                    port.announce(address)

    # --- flows ---
    def flow_to(self, port_index: int, local: bytes, remote: bytes, now: float) -> Flow | None:
        """The way from one of our addresses to a remote by one port; None when there is none."""
        key = (port_index, local, remote)
        flow = self._flows.get(key)
        if flow is None:
            port = self.ports.get(port_index)
            if port is None or local not in port.addresses:
                return None
            flow = Flow(port, local, remote, self.config.hop_limit)
            if not self._route(flow):
                return None
            self._flows[key] = flow
        elif flow.neighbour is None and not flow.loopback:
            return None
        return flow

    def find_flow(
        self, remote: bytes, now: float, *, port_index: int | None = None, local: bytes | None = None
    ) -> Flow:
        """The best way to a remote address over all ports, or over one, or from one address of ours.

        Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL when we have no fitting address.
        """
        self.clock.now = now
        port = self._port_for(remote, port_index, local)
        source = local
        if source is None:
            if remote in port.addresses:
                source = remote
            else:
                route = self.routes.lookup(remote, (port.index,))
                source = port.source_for(route.gateway if route is not None and route.gateway else remote)
        if source is None:
            raise _error(errno.EADDRNOTAVAIL)
        flow = self.flow_to(port.index, source, remote, now)
        if flow is None:
            raise _error(errno.ENETUNREACH)
        return flow

    def _port_for(self, remote: bytes, port_index: int | None, local: bytes | None) -> Port:
        candidates = [
            port
            for index, port in sorted(self.ports.items())
            if (port_index is None or index == port_index) and (local is None or local in port.addresses)
        ]
        if not candidates:
            raise _error(errno.ENETUNREACH if local is None else errno.EADDRNOTAVAIL)
        for port in candidates:
            if remote in port.addresses:
                return port
        route = self.routes.lookup(remote, {port.index for port in candidates})
        if route is not None:
            return self.ports[route.port_index]
        for port in candidates:
            if self._on_link(port, remote):
                return port
        raise _error(errno.ENETUNREACH)

    @staticmethod
    def _on_link(port: Port, remote: bytes) -> bool:
        """Whether an address without a route is on the port's link all the same."""
        if port.neighbour_mac(remote) is not None:
            return any(len(address) == len(remote) for address in port.addresses)
        return len(remote) == 16 and ipv6.is_link_local(remote) and any(len(a) == 16 for a in port.addresses)

    def _route(self, flow: Flow) -> bool:
        """(Re)compute next hop, neighbour and MTU of a flow. False when there is no way."""
        port = flow.port
        if self.ports.get(port.index) is not port or flow.local not in port.addresses:
            flow.route(None, None, port.mtu)
            return False
        if flow.remote in port.addresses:
            flow.route(None, None, port.mtu, loopback=True)
            return True
        mtu = self.path_mtus.get((port.index, flow.remote), port.mtu)
        mac = port.neighbour_mac(flow.remote)
        if mac is not None:
            flow.route(flow.remote, permanent(flow.remote, mac), mtu)
            return True
        route = self.routes.lookup(flow.remote, (port.index,))
        if route is None and not self._on_link(port, flow.remote):
            flow.route(None, None, mtu)
            return False
        next_hop = flow.remote if route is None or route.gateway is None else route.gateway
        flow.route(next_hop, port.neighbours.lookup(next_hop), mtu)
        return True

    def _reroute(self) -> None:
        for flow in list(self._flows.values()):
            if not self._route(flow):
                self.tcp.flow_failed(flow, errno.ENETUNREACH, self.clock.now)

    def lower_path_mtu(self, port: Port, remote: bytes, mtu: int) -> None:
        """A validated report says that packets to ``remote`` must be smaller."""
        key = (port.index, remote)
        lowered = self.path_mtus.lower(key, mtu, self.path_mtus.get(key, port.mtu), self.clock.now)
        if lowered is not None:
            self._count("path_mtu_lowered")
            self._set_path_mtu(key, lowered)

    def _set_path_mtu(self, key: tuple[int, bytes], mtu: int) -> None:
        for flow in list(self._flows.values()):
            if (flow.port_index, flow.remote) == key:
                flow.set_mtu(mtu)

    def _unreachable(self, port: Port, neighbour: Neighbour, pending: list[Frame]) -> None:
        """A next hop does not answer."""
        for watcher in list(neighbour.watchers):
            if isinstance(watcher, Flow):
                self.tcp.flow_failed(watcher, errno.EHOSTUNREACH, self.clock.now)
        for (frame,) in pending:
            self.icmp.undeliverable(port, frame)

    # --- frames in ---
    def receive(self, index: int, frames: Sequence[memoryview], now: float) -> None:
        """A batch of Ethernet frames from one port. The views stay in use until ``settle()``."""
        self.clock.now = now
        port = self.ports.get(index & ~LOOPED)
        if port is None:
            self._count("no_port", len(frames))
            return
        port.looping = index >= LOOPED
        self._receive(port, frames)
        port.looping = False
        if self.segments:
            segments, self.segments = self.segments, []
            self.tcp.receive(port.index, segments, now)

    def _receive(self, port: Port, frames: Sequence[memoryview]) -> None:
        """Sort a batch: plain TCP in a few steps, everything else at leisure."""
        segments = self.segments
        our_mac = port.mac
        addresses = port.addresses
        unpack, unpack6 = _IPV4_TCP.unpack_from, _IPV6_TCP.unpack_from
        from_bytes = int.from_bytes
        last_key = b""
        for frame in frames:
            length = len(frame)
            if length < 54:
                self._receive_other(port, frame)
                continue
            mac, ethertype, version_length, total, fragment, protocol = unpack(frame)
            if (
                version_length == 0x45
                and protocol == 6
                and ethertype == 0x0800
                and mac == our_mac
                and not fragment & 0x3FFF
                and 40 <= total <= length - 14
            ):
                # RFC 791: the header's sum, checksum included, is 0 modulo 65535.
                if from_bytes(frame[14:34], "big") % 65535:
                    port.count("bad_ip")
                    continue
                key = bytes(frame[26:38])
                if key != last_key:  # the packets of a batch mostly belong together
                    if key[4:8] not in addresses:
                        port.count("not_for_us")
                        continue
                    if not port.source_ok(key[:4]):
                        port.count("bad_source")
                        continue
                    last_key = key
                segments.append((key, frame[34 : 14 + total]))
                continue
            if ethertype == 0x86DD and version_length >> 4 == 6 and mac == our_mac and length >= 74:
                total, protocol = unpack6(frame)
                if protocol == 6 and 20 <= total <= length - 54:
                    key = bytes(frame[22:58])
                    if key != last_key:
                        if key[16:32] not in addresses:
                            port.count("not_for_us")
                            continue
                        if not port.source_ok(key[:16]):
                            port.count("bad_source")
                            continue
                        last_key = key
                    segments.append((key, frame[54 : 54 + total]))
                    continue
            self._receive_other(port, frame)

    def _receive_other(self, port: Port, frame: memoryview) -> None:
        if len(frame) < ethernet.HEADER_LENGTH:
            port.count("bad_frame")
            return
        mac, _, ethertype = ethernet.HEADER.unpack_from(frame)
        if mac not in port.accepted_macs:
            port.count("other_mac")
            return
        payload = memoryview(frame)[ethernet.HEADER_LENGTH :]
        group = ethernet.is_group(mac)
        if ethertype == ethernet.TYPE_IPV4:
            self._ip.receive_ipv4(port, payload, group)
        elif ethertype == ethernet.TYPE_IPV6:
            self._ip.receive_ipv6(port, payload, group)
        elif ethertype == ethernet.TYPE_ARP:
            arp.receive(port, payload)
        else:
            port.count("unknown_ethertype")

    def settle(self) -> None:
        """Copy whatever received payload is still unread: the frames' memory is about to be reused."""
        self.tcp.settle()

    # --- frames out ---
    def to_send(self, now: float) -> list[tuple[int, Frame]]:
        """What must go out: (port index, Ethernet frame as a gather list), in order. Empties the queue."""
        self.clock.now = now
        self.tcp.flush(now)
        if self.config.siblings and self._loop:
            self._queue += [(index | LOOPED, (frame,)) for index, frame in self._loop]
            self._loop.clear()
        for _ in range(_LOOPBACK_ROUNDS):
            if not self._loop:
                break
            looped = self._loop[:]
            self._loop.clear()
            for index, batch in groupby(looped, key=itemgetter(0)):
                self.receive(index | LOOPED, [memoryview(frame) for _, frame in batch], now)
            self.tcp.flush(now)
        queue = self._queue[:]
        self._queue.clear()
        return queue

    # --- time ---
    def next_timer(self) -> float | None:
        """When ``handle_timer`` (and then ``to_send``) is due."""
        if self._loop:
            return self.clock.now
        times = [
            self.tcp.next_timer(),
            self.reassembler.next_timer(),
            self.path_mtus.next_timer(),
            *(port.neighbours.next_timer() for port in self.ports.values()),
        ]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due. Harmless when nothing is."""
        self.clock.now = now
        for port in list(self.ports.values()):
            port.neighbours.handle_timer()
        for key, packet in self.reassembler.handle_timer(now):
            self._reassembly_expired(key[0], packet)
        for path in self.path_mtus.handle_timer(now):
            if path[0] in self.ports:
                self._set_path_mtu(path, self.ports[path[0]].mtu)
        self.tcp.handle_timer(now)

    def _reassembly_expired(self, index: int, packet: bytes) -> None:
        port = self.ports.get(index)
        if port is None:
            return
        if packet[0] >> 4 == 4:
            self.icmp.send_error(port, packet, icmp.TIME_EXCEEDED, icmp.REASSEMBLY_TIME_EXCEEDED)
        else:
            self.icmp.send_error(port, packet, icmpv6.TIME_EXCEEDED, icmpv6.REASSEMBLY_TIME_EXCEEDED)

    # --- sockets ---
    def connect(
        self, host: str, port: int, now: float, *, port_index: int | None = None, timeout: float | None = None
    ) -> TcpConnection:
        """Open a TCP connection to a numeric address; data may be written at once.

        Raises OSError (ENETUNREACH, EADDRNOTAVAIL ...), ValueError for text that is no address or a bad port number.
        What goes wrong later is the connection's ``error``.
        """
        if not 0 < port <= 0xFFFF:
            raise ValueError(f"port number {port} is not between 1 and 65535")
        flow = self.find_flow(ip_address(host).packed, now, port_index=port_index)
        return self.tcp.connect(flow, port, now, timeout=timeout)

    def listen(self, host: str | None, port: int, *, backlog: int = 128, port_index: int | None = None) -> TcpListener:
        """Accept TCP connections to one of our addresses, or to all (host None, ``0.0.0.0`` or ``::``).

        Raises OSError (EADDRINUSE, EADDRNOTAVAIL), ValueError.
        """
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port number {port} is not between 0 and 65535")
        return self.tcp.listen(port, backlog=backlog, port_index=port_index, local=self._own_address(host, port_index))

    def udp(self, host: str | None = None, port: int = 0, *, port_index: int | None = None) -> UdpSocket:
        """A UDP socket bound to one of our addresses, or to all. Port 0 picks a random one.

        Raises OSError (EADDRINUSE, EADDRNOTAVAIL), ValueError.
        """
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port number {port} is not between 0 and 65535")
        return self.udp_layer.open(self._own_address(host, port_index), port, port_index)

    def ping(self, host: str, now: float, *, port_index: int | None = None) -> EchoSocket:
        """A socket that sends echo requests to a numeric address. Raises OSError (ENETUNREACH ...), ValueError."""
        return self.echo.open(self.find_flow(ip_address(host).packed, now, port_index=port_index))

    def _own_address(self, host: str | None, port_index: int | None) -> bytes | None:
        if host is None:
            return None
        address = ip_address(host)
        if address.is_unspecified:
            return None
        for index, port in self.ports.items():
            if (port_index is None or index == port_index) and address.packed in port.addresses:
                return address.packed
        raise _error(errno.EADDRNOTAVAIL)

    def changed(self, socket: UdpSocket | EchoSocket) -> None:
        """Name the socket in the next ``ready()``."""
        self._ready[socket] = None

    def ready(self) -> list[Socket]:
        """Sockets of which something changed since the last call, each once; look at their properties."""
        sockets: list[Socket] = [*self.tcp.ready(), *self._ready]
        self._ready.clear()
        return sockets

    def _count(self, what: str, amount: int = 1) -> None:
        self.counters[what] = self.counters.get(what, 0) + amount


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
