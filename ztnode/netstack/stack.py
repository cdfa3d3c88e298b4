"""The stack: a whole host on one or more virtual Ethernets, driven by its owner (sans-IO).

The owner calls ``receive`` with batches of frames, ``handle_timer`` when ``next_timer`` says so, and after anything it
did takes the frames of ``to_send``; ``ready`` names the sockets worth looking at. Nothing in here blocks, reads a clock
or touches the system.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeAlias

from ztnode.netstack.arp import receive as receive_arp
from ztnode.netstack.config import LOOPED, PortConfig, StackConfig
from ztnode.netstack.echo import EchoLayer, EchoSocket
from ztnode.netstack.flow import Flow
from ztnode.netstack.frame import Frame
from ztnode.netstack.host import Host
from ztnode.netstack.icmp import IcmpLayer
from ztnode.netstack.ip_input import IpInput
from ztnode.netstack.neighbour_cache import Neighbour, NeighbourCache
from ztnode.netstack.path_mtu_cache import PathMtuCache
from ztnode.netstack.port import Port
from ztnode.netstack.reassembler import Reassembler
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.held_syns import HeldSyn
from ztnode.netstack.tcp.layer import TcpLayer
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.transit import EchoFlow, Transit, UdpFlow, quoted_datagram, quoted_echo
from ztnode.netstack.udp import UdpLayer, UdpSocket, WholeDatagram
from ztnode.os_error import os_error
from ztnode.wire import checksum, ethernet, icmp, icmpv6, ipv4, udp
from ztnode.wire.endpoint import ip_bytes
from ztnode.wire.wire_error import WireError

Socket: TypeAlias = TcpConnection | TcpListener | UdpSocket | EchoSocket | Transit
"""What ``Stack.ready`` names."""

_IPV4_TCP: Final = struct.Struct("!6s6xIH2xI2x12s")
"""Of a frame: destination MAC; EtherType, version and header length, type of service; total length; fragment field,
time to live, protocol; addresses and ports. What is asked together is read together."""
_IPV4_HEADER: Final = struct.Struct("!14x20s")
"""Of a frame: its IPv4 header without options, as bytes, which are summed in two thirds of the time of a view."""
_IPV4_START: Final = ethernet.TYPE_IPV4 << 16 | 0x4500
_IPV4_WHOLE: Final = 0x3FFF00FF
"""Of the last field: offset and more fragments, protocol."""
_IPV6_START: Final = ethernet.TYPE_IPV6 << 4 | 6
_IPV6_TCP: Final = struct.Struct("!18xHB")
"""Payload length, next header."""

_MAX_LIMITED: Final = 1024
"""Neighbours whose way to us is narrow that are remembered; the oldest is forgotten first."""
_TOLD_TOO_BIG: Final = 16
"""Connections over one flow that are told of it each time. Most systems keep it for the address, so one would do."""
_LOOPBACK_ROUNDS: Final = 64
"""Batches that one ``to_send`` turns round inside the stack before it lets the owner have its turn."""


class Stack:
    """Ports, neighbours, routes, IP, ICMP, UDP and TCP of one host.

    ``random(n)`` gives n unpredictable bytes; ``now`` is monotonic seconds everywhere. The stack makes the layers, lets
    each have what it needs of the ``Host``, and keeps the batch loop.
    """

    def __init__(self, *, random: Callable[[int], bytes], now: float, config: StackConfig | None = None) -> None:
        self.config = config or StackConfig()
        self._host = host = Host(self.config, random, now)
        self._clock = host.clock
        self.timed: Final = True
        """There may be timers: ``next_timer`` knows."""
        self.counters = host.counters
        """Drops and odd events of everything but TCP, by reason."""
        self.ports = host.ports
        self._queue: list[tuple[int, Frame]] = []
        self._loop: list[tuple[int, bytes]] = []
        self._datagrams: list[WholeDatagram] = []
        """Of the batch at hand."""
        self._reassembler = Reassembler(counters=self.counters)
        self.tcp = TcpLayer(host.flows, random=random, now=now, config=self.config.tcp)
        self._udp = UdpLayer(host)
        self._echo = EchoLayer(host)
        self.transit = Transit(host)
        """What comes to us as the gateway of other networks."""
        self.tcp.held = self.transit.syns
        self.groups_changed = self._udp.regrouped
        """Of which ports ``regrouped`` would tell, by index."""
        self._icmp = IcmpLayer(host, self.tcp, self._udp, self._echo, self.transit)
        self._ip = IpInput(self._clock, self._reassembler, self._icmp, self._udp, self.transit)

    # --- ports ---
    def add_port(self, index: int, config: PortConfig, now: float) -> None:
        """Attach a network. Raises ValueError for an index in use, a bad address, route or MTU."""
        if index in self.ports:
            raise ValueError(f"port {index} exists")
        self._clock.now = now
        port = Port(
            index,
            config,
            self.config,
            clock=self._clock,
            random=self._host.random,
            queue=self._queue,
            loop=self._loop,
            failed=self._unreachable,
            counters=self.counters,
        )
        self._install_routes(port)
        self.ports[index] = port
        self.transit.ports_changed()
        self._udp.port_added()
        self._reroute()
        self._announce(port, port.addresses)

    def update_port(self, index: int, config: PortConfig, now: float) -> None:
        """The network's configuration is another one now; connections whose address stays go on.

        Raises as ``add_port``, with nothing changed, and KeyError where there is no such port.
        """
        self._clock.now = now
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
        self.transit.ports_changed()
        self._reroute()
        self._announce(port, port.addresses if port.mac != old_mac else port.addresses - old_addresses)

    def limit_neighbour(self, index: int, mac: int, mtu: int | None, now: float) -> None:
        """IP packets of more than ``mtu`` bytes from the neighbour with this MAC do not reach us (None: all do):
        connections from now on are told so by their MSS, and what stands by ICMP. Told again it is said again."""
        self._clock.now = now
        port = self.ports.get(index)
        if port is None:
            return
        wire_mac = ethernet.mac_bytes(mac)
        port.takes.pop(wire_mac, None)
        if mtu is not None and mtu < port.mtu:
            while len(port.takes) >= _MAX_LIMITED:
                del port.takes[next(iter(port.takes))]
            port.takes[wire_mac] = mtu
        for flow in self._host.flows.over(port, wire_mac):
            flow.refresh()
            if wire_mac in port.takes:
                for segment in self.tcp.expected_segments(flow, _TOLD_TOO_BIG):
                    self._icmp.tell_too_big(flow, segment)

    def neighbour_returned(self, index: int, mac: int, now: float) -> None:
        """The neighbour with this MAC is heard again after a silence: what waits for a timeout that was doubled again
        and again goes out now."""
        self._clock.now = now
        port = self.ports.get(index)
        if port is not None:
            for flow in self._host.flows.over(port, ethernet.mac_bytes(mac)):
                self.tcp.path_returned(flow, now)

    def remove_port(self, index: int, now: float) -> None:
        """Detach a network: its sockets fail with ENETDOWN. Raises KeyError."""
        self._clock.now = now
        del self.ports[index]
        self._host.flows.routes.remove(index)
        self.tcp.port_removed(index, now)
        self._udp.port_removed(index)
        self._reassembler.drop_port(index)
        self.transit.ports_changed()
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
        self._host.flows.routes.replace(port.index, config.addresses, routes, config.metric)

    def _announce(self, port: Port, addresses: Sequence[bytes] | frozenset[bytes]) -> None:
        if self.config.announce:
            for address, _ in port.prefixes:
                if address in addresses:
                    port.announce(address)

    # --- flows ---
    def find_flow(
        self, remote: bytes, now: float, *, port_index: int | None = None, local: bytes | None = None
    ) -> Flow:
        """The best way to a remote address over all ports, or over one, or from one address of ours.

        Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL when we have no fitting address.
        """
        self._clock.now = now
        return self._host.flows.find(remote, port_index=port_index, local=local)

    def _reroute(self) -> None:
        for flow in self._host.flows.reroute():
            self.tcp.flow_failed(flow, errno.ENETUNREACH, self._clock.now)

    def _unreachable(self, port: Port, neighbour: Neighbour, pending: list[Frame]) -> None:
        """A next hop does not answer."""
        for watcher in list(neighbour.watchers):
            if isinstance(watcher, Flow):
                self.tcp.flow_failed(watcher, errno.EHOSTUNREACH, self._clock.now)
        for (frame,) in pending:
            self._icmp.undeliverable(port, frame)

    # --- frames in ---
    def receive(self, index: int, frames: Sequence[memoryview], now: float) -> None:
        """A batch of Ethernet frames from one port. The views stay in use until ``copy_unread()``."""
        self._clock.now = now
        port = self.ports.get(index & ~LOOPED)
        if port is None:
            self._host.count("no_port", len(frames))
            return
        port.looping = index >= LOOPED
        self._receive(port, frames)
        if self._datagrams:
            self._receive_datagrams(port)
        port.looping = False
        if self._ip.segments:
            segments, self._ip.segments = self._ip.segments, []
            self.tcp.receive(port.index, segments, now)

    def _receive(self, port: Port, frames: Sequence[memoryview]) -> None:
        """Sort a batch: plain TCP in a few steps, everything else at leisure."""
        segments = self._ip.segments
        our_mac = port.mac
        familiar: set[bytes] | tuple[()] = () if port.looping else port.familiar
        unpack, unpack6 = _IPV4_TCP.unpack_from, _IPV6_TCP.unpack_from
        unpack_header = _IPV4_HEADER.unpack_from
        from_bytes = int.from_bytes
        ipv4_start, ipv4_whole, ipv6_start = _IPV4_START, _IPV4_WHOLE, _IPV6_START
        last_key = b""
        for frame in frames:
            length = len(frame)
            if length < 54:
                self._receive_other(port, frame)
                continue
            mac, start, total, rest, key = unpack(frame)
            if (
                start & 0xFFFFFF00 == ipv4_start
                and rest & ipv4_whole == 6
                and mac == our_mac
                and 40 <= total <= length - 14
            ):
                # RFC 791: the header's sum, checksum included, is 0 modulo 65535.
                if from_bytes(unpack_header(frame)[0], "big") % 65535:
                    port.count("bad_ip")
                    continue
                if key != last_key:  # the packets of a batch mostly belong together
                    if key[:8] not in familiar and not self._may_come(port, key[:4], key[4:8], frame):
                        continue
                    last_key = key
                segments.append((key, frame[34 : 14 + total]))
                continue
            if start & 0xFFFFFF00 == ipv4_start and rest & ipv4_whole == 17 and mac == our_mac:
                if self._set_aside(frame, total, key):
                    continue
            elif start >> 12 == ipv6_start and mac == our_mac and length >= 74:
                total, protocol = unpack6(frame)
                if protocol == 6 and 20 <= total <= length - 54:
                    key = bytes(frame[22:58])
                    if key != last_key:
                        if key[:32] not in familiar and not self._may_come(port, key[:16], key[16:32], frame):
                            continue
                        last_key = key
                    segments.append((key, frame[54 : 54 + total]))
                    continue
            self._receive_other(port, frame)

    def _may_come(self, port: Port, source: bytes, destination: bytes, frame: memoryview) -> bool:
        """Whether a packet between these two is for us; the answer to one that is not."""
        if destination not in port.addresses and not port.passes(destination):
            self._ip.refuse(port, frame[14:])
            return False
        if not port.source_ok(source):
            port.count("bad_source")
            return False
        if destination in port.addresses and not port.looping:
            port.met(source + destination)
        return True

    def _set_aside(self, frame: memoryview, total: int, key: bytes) -> bool:
        """Keep a whole datagram over IPv4 for ``_receive_datagrams``, if its header of ``total`` is right. ``key``:
        addresses and ports."""
        if not 28 <= total <= len(frame) - 14 or int.from_bytes(frame[14:34], "big") % 65535:
            return False
        self._datagrams.append((key, frame[34 : 14 + total], frame))
        return True

    def _receive_datagrams(self, port: Port) -> None:
        """Take those that were set aside, before anything that came after them."""
        datagrams, self._datagrams = self._datagrams, []
        for frame in self._udp.receive_whole(port, datagrams):
            self._receive_other(port, frame)

    def _receive_other(self, port: Port, frame: memoryview) -> None:
        if self._datagrams:
            self._receive_datagrams(port)
        try:
            mac, _, ethertype, payload = ethernet.parse(frame)
        except WireError:
            port.count("bad_frame")
            return
        if mac not in port.accepted_macs:
            port.count("other_mac")
            return
        group = ethernet.is_group(mac)
        if ethertype == ethernet.TYPE_IPV4:
            self._ip.receive_ipv4(port, payload, group)
        elif ethertype == ethernet.TYPE_IPV6:
            self._ip.receive_ipv6(port, payload, group)
        elif ethertype == ethernet.TYPE_ARP:
            receive_arp(port, payload)
        else:
            port.count("unknown_ethertype")

    def copy_unread(self) -> None:
        """Copy whatever received payload is still unread: the frames' memory is about to be reused."""
        self.tcp.copy_unread()

    # --- frames out ---
    def to_send(self, now: float) -> list[tuple[int, Frame]]:
        """What must go out: (port index, Ethernet frame as a gather list), in order. Empties the queue."""
        self._clock.now = now
        if self.tcp.dirty:
            self.tcp.flush(now)
        if self._loop:
            self._turn_round(now)
        queue = self._queue[:]
        self._queue.clear()
        return queue

    def _turn_round(self, now: float) -> None:
        """What we send to ourselves."""
        if self.config.siblings:
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

    # --- time ---
    def next_timer(self) -> float | None:
        """When ``handle_timer`` (and then ``to_send``) is due."""
        if self._loop:
            return self._clock.now
        due = self.tcp.next_timer()
        # The rest has mostly none; who drives the stack asks in each turn.
        others: list[Reassembler | PathMtuCache | NeighbourCache] = []
        if self._reassembler.datagrams:
            others.append(self._reassembler)
        if self._host.flows.path_mtus.mtus:
            others.append(self._host.flows.path_mtus)
        for port in self.ports.values():
            if port.neighbours.timers:
                others.append(port.neighbours)
        for keeper in others:
            time = keeper.next_timer()
            if time is not None and (due is None or time < due):
                due = time
        return due

    def handle_timer(self, now: float) -> None:
        """Do what is due. Harmless when nothing is."""
        self._clock.now = now
        for port in list(self.ports.values()):
            port.neighbours.handle_timer()
        for key, packet in self._reassembler.handle_timer(now):
            self._reassembly_expired(key[0], packet)
        self._host.flows.handle_timer(now)
        self.tcp.handle_timer(now)

    def _reassembly_expired(self, index: int, packet: bytes) -> None:
        port = self.ports.get(index)
        if port is None:
            return
        if packet[0] >> 4 == 4:
            self._icmp.send_error(port, packet, icmp.TIME_EXCEEDED, icmp.REASSEMBLY_TIME_EXCEEDED)
        else:
            self._icmp.send_error(port, packet, icmpv6.TIME_EXCEEDED, icmpv6.REASSEMBLY_TIME_EXCEEDED)

    # --- sockets ---
    def connect(
        self,
        host: str,
        port: int,
        now: float,
        *,
        port_index: int | None = None,
        timeout: float | None = None,
        congestion: str = "",
    ) -> TcpConnection:
        """Open a TCP connection to a numeric address; data may be written at once. ``congestion``: the name of its
        congestion control (empty: as configured).

        Raises OSError (ENETUNREACH, EADDRNOTAVAIL ...), ValueError for text that is no address, a bad port number or
        an unknown name.
        What goes wrong later is the connection's ``error``.
        """
        if not 0 < port <= 0xFFFF:
            raise ValueError(f"port number {port} is not between 1 and 65535")
        self._clock.now = now
        flow = self._host.flows.find(ip_bytes(host), port_index=port_index)
        return self.tcp.connect(flow, port, now, timeout=timeout, congestion=congestion)

    def make_ahead(self, now: float) -> None:
        """Make the connection that is likely to be asked for next; for when there is nothing else to do."""
        self._clock.now = now
        self.tcp.make_ahead(now)

    def listen(
        self,
        host: str | None,
        port: int,
        *,
        backlog: int = 128,
        port_index: int | None = None,
        congestion: str = "",
    ) -> TcpListener:
        """Accept TCP connections to one of our addresses, or to all (host None, ``0.0.0.0`` or ``::``). ``congestion``,
        of what is accepted, as in ``connect``.

        Raises OSError (EADDRINUSE, EADDRNOTAVAIL), ValueError.
        """
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port number {port} is not between 0 and 65535")
        local = self._own_address(host, port_index)
        return self.tcp.listen(port, backlog=backlog, port_index=port_index, local=local, congestion=congestion)

    def udp(
        self, host: str | None = None, port: int = 0, *, port_index: int | None = None, reuse: bool = False
    ) -> UdpSocket:
        """A UDP socket bound to one of our addresses, to a multicast group (it receives what is sent to that alone,
        once it has joined it), or to all. Port 0 picks a random one. ``reuse``: see ``UdpSocket.reuse``.

        Raises OSError (EADDRINUSE, EADDRNOTAVAIL), ValueError.
        """
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port number {port} is not between 0 and 65535")
        group = ip_address(host) if host is not None else None
        local = group.packed if group and group.is_multicast else self._own_address(host, port_index)
        return self._udp.open(local, port, port_index, reuse=reuse)

    def regrouped(self) -> list[tuple[int, frozenset[bytes]]]:
        """The ports, by index, of which sockets joined or left multicast groups since the last call, each with the MACs
        of all groups that are joined now."""
        changed = [(index, self.ports[index].joined_macs) for index in self._udp.regrouped if index in self.ports]
        self._udp.regrouped.clear()
        return changed

    def ping(self, host: str, now: float, *, port_index: int | None = None) -> EchoSocket:
        """A socket that sends echo requests to a numeric address. Raises OSError (ENETUNREACH ...), ValueError."""
        return self._echo.open(self.find_flow(ip_address(host).packed, now, port_index=port_index))

    # --- as a gateway: answers to what ``transit`` gave ---
    def accept(self, syn: HeldSyn, now: float) -> TcpConnection | None:
        """The target is connected: go on with the handshake. None when the way back is gone."""
        self._clock.now = now
        return self.tcp.accept_held(syn, now)

    def refuse(self, syn: HeldSyn, number: int, now: float) -> None:
        """The target cannot be connected, for the reason that errno ``number`` names."""
        self._clock.now = now
        if number == errno.ECONNREFUSED:
            self.tcp.refuse_held(syn, now)
            return
        self.transit.syns.settle(syn)
        self._report(syn.port_index, syn.source, syn.destination, (ipv4.PROTOCOL_TCP, syn.start), number)

    def answer_datagram(self, flow: UdpFlow, data: bytes, now: float) -> bool:
        """A datagram from the target of the flow; False when the way back is gone."""
        self._clock.now = now
        way = self._host.flows.flow_to(flow.port_index, flow.destination, flow.source)
        if way is None:
            return False
        pseudo = checksum.pseudo_sum(flow.destination, flow.source, ipv4.PROTOCOL_UDP)
        header = udp.build(flow.destination_port, flow.source_port, data, pseudo)
        self._host.output.send(way, ipv4.PROTOCOL_UDP, header + data)
        return True

    def answer_echo(self, flow: EchoFlow, sequence: int, body: bytes, now: float) -> None:
        """An echo reply from the target of the flow."""
        self._clock.now = now
        way = self._host.flows.flow_to(flow.port_index, flow.destination, flow.source)
        if way is None:
            return
        if len(flow.source) == 4:
            reply = icmp.build(icmp.Icmp(icmp.ECHO_REPLY, 0, flow.identifier, sequence, body))
            self._host.output.send(way, ipv4.PROTOCOL_ICMP, reply)
            return
        message = icmpv6.Icmpv6(icmpv6.ECHO_REPLY, 0, flow.identifier << 16 | sequence, body)
        pseudo = checksum.pseudo_sum(flow.destination, flow.source, icmpv6.PROTOCOL)
        self._host.output.send(way, icmpv6.PROTOCOL, icmpv6.build(message, pseudo))

    def report(self, flow: UdpFlow | EchoFlow, number: int, now: float) -> None:
        """What was sent to the target of the flow came to nothing, for the reason that errno ``number`` names."""
        self._clock.now = now
        quoted = quoted_datagram(flow) if isinstance(flow, UdpFlow) else quoted_echo(flow)
        self._report(flow.port_index, flow.source, flow.destination, quoted, number)

    def _report(self, index: int, source: bytes, destination: bytes, quoted: tuple[int, bytes], number: int) -> None:
        port = self.ports.get(index)
        if port is not None:
            self._icmp.report(port, source, destination, *quoted, number)

    def _own_address(self, host: str | None, port_index: int | None) -> bytes | None:
        if host is None:
            return None
        address = ip_address(host)
        if address.is_unspecified:
            return None
        for index, port in self.ports.items():
            if (port_index is None or index == port_index) and address.packed in port.addresses:
                return address.packed
        raise os_error(errno.EADDRNOTAVAIL)

    def ready(self) -> list[Socket]:
        """Sockets of which something changed since the last call, each once; look at their properties."""
        ready: list[Socket] = []
        if self.tcp.fresh:
            ready += self.tcp.ready()
        if self._udp.changed:
            ready += self._udp.ready()
        if self._echo.changed:
            ready += self._echo.ready()
        transit = self.transit
        if transit.fresh_datagrams or transit.fresh_echoes or transit.syns.fresh:
            ready.append(transit)
        return ready
