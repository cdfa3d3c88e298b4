"""UDP sockets (RFC 768, RFC 1122 section 4.1, RFC 8085)."""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, TypeAlias

from ztnode.netstack.ephemeral import choose_port
from ztnode.netstack.flow import HOP_LIMIT
from ztnode.netstack.host import Host
from ztnode.netstack.port import Port
from ztnode.netstack.udp_way import UdpWay
from ztnode.os_error import os_error
from ztnode.wire import checksum, ipv4, ipv6, udp
from ztnode.wire.wire_error import WireError

Address: TypeAlias = tuple[str, int]
"""(numeric IP address, port number)."""
WholeDatagram: TypeAlias = tuple[bytes, memoryview, memoryview]
"""The addresses and ports, as they stand in the packet; the UDP datagram, 8 bytes at least; the frame that it is in."""

MAX_MEMBERSHIPS: Final = 20
"""Of one socket, as Linux has it (igmp_max_memberships)."""
MULTICAST_HOPS: Final = 1
"""Of what is sent to a group, unless the socket wants more (RFC 1112 section 6.1, RFC 3493 section 5.2)."""

_WAYS: Final = 64
"""Remotes of one socket whose way is remembered: to find it costs as much as the rest of a datagram."""
_PORTS: Final = struct.Struct("!HH")
_OVERHEAD: Final = 64
"""What one queued datagram costs beside its payload, so that a flood of empty ones is bounded too."""


class UdpSocket:
    """A datagram socket.

    Nothing blocks: ``recvfrom`` returns None when nothing is there; ``Stack.ready()`` tells when to look.
    """

    def __init__(
        self, layer: UdpLayer, port_index: int | None, local: bytes | None, local_port: int, limit: int, reuse: bool
    ) -> None:
        self._layer = layer
        self._queue: deque[tuple[bytes, bytes, int]] = deque()
        self._queued = 0
        self._limit = limit
        self._way: UdpWay | None = None
        self.ways: dict[bytes, UdpWay] = {}
        """The ways to the remotes that were sent to last, as of ``ways_version`` of the flow table."""
        self.ways_version = -1
        self._errors: deque[tuple[OSError, Address]] = deque(maxlen=16)
        self.port_index = port_index
        self.local_address = local
        """Packed, or None for every address of ours."""
        self.local_port = local_port
        self.remote: tuple[bytes, int] | None = None
        """(packed address, port) once connected."""
        self.reuse = reuse
        """Others that say so, too, may have the same address and port (SO_REUSEADDR): what comes to a group goes to
        each that has joined it, anything else to the one that came last."""
        self.broadcast = False
        """May send to broadcast addresses (SO_BROADCAST)."""
        self.multicast_hops = MULTICAST_HOPS
        self.multicast_loop = True
        """What is sent to a group goes to this host's own members, too."""
        self.multicast_source: bytes | None = None
        """Our address from which, and so the network over which, groups are sent to; packed. None: the socket's."""
        self.memberships: set[tuple[bytes, int | None]] = set()
        """Groups, packed, each with the index of its port; None: of every port that the socket is on."""
        self.closed = False
        self.dropped = 0
        """Datagrams that found the queue full."""
        self.owner: object = None
        """Opaque to the stack."""

    @property
    def local(self) -> Address:
        """Our address and port; the unspecified address of IPv4 while bound to all."""
        return str(ip_address(self.local_address or ipv4.UNSPECIFIED)), self.local_port

    @property
    def readable(self) -> int:
        """Datagrams that wait."""
        return len(self._queue)

    @property
    def error(self) -> OSError | None:
        """What the next call on a connected socket will raise."""
        return self._errors[0][0] if self.remote is not None and self._errors else None

    def errors(self) -> list[tuple[OSError, Address]]:
        """Take all ICMP errors that came for what this socket sent, with whom it had been sent to: the way for a socket
        that is not connected, which never raises them."""
        taken = list(self._errors)
        self._errors.clear()
        return taken

    def connect(self, address: Address, now: float) -> None:
        """Speak to one remote only: others' datagrams are refused, ICMP errors are raised by ``send`` and ``recv``.

        Raises OSError (ENETUNREACH), ValueError for text that is no address.
        """
        self._check_open()
        self.ways.clear()
        self._way = self._layer.way(self, ip_address(address[0]).packed, now)
        flow = self._way.flow
        self.remote = (flow.remote, address[1])
        self.local_address = flow.local
        self.port_index = flow.port_index
        self._errors.clear()

    def send(self, data: bytes, now: float) -> None:
        """To the connected remote. Raises OSError (EDESTADDRREQ, EMSGSIZE, or what ICMP reported)."""
        self._check_open()
        self._raise_error()
        if self._way is None or self.remote is None:
            raise os_error(errno.EDESTADDRREQ)
        self._layer.transmit(self, self._way, self.remote[1], data, now)

    def sendto(self, data: bytes, address: Address, now: float) -> None:
        """To any remote. Raises OSError (ENETUNREACH, EMSGSIZE), ValueError for text that is no address."""
        self.sendto_packed(data, ip_address(address[0]).packed, address[1], now)

    def sendto_packed(self, data: bytes, remote: bytes, port: int, now: float) -> None:
        """As ``sendto``, to a packed address."""
        self._check_open()
        if not 0 < port <= 0xFFFF:
            raise os_error(errno.EINVAL)
        self._layer.transmit(self, self._layer.way(self, remote, now), port, data, now)

    def send_many(self, payloads: Sequence[bytes], remote: bytes, port: int, now: float) -> bool:
        """Send several datagrams to one packed address, for little more than one costs. False, with nothing done, where
        each has to go by ``sendto_packed``: to groups and broadcast addresses, empty or in fragments, or over IPv6.
        Raises OSError as that does."""
        self._check_open()
        if not 0 < port <= 0xFFFF:
            raise os_error(errno.EINVAL)
        return self._layer.transmit_many(self, self._layer.way(self, remote, now), port, payloads)

    def join(self, group: str, source: str | None = None) -> None:
        """Receive what is sent to a multicast group, on the network on which ``source`` is our address (None: on all
        that the socket is on). Raises OSError (EINVAL: no group; ENODEV: no address of ours; EADDRINUSE: joined
        already; ENOBUFS: too many; EPERM: the network has no multicast)."""
        self._check_open()
        self._layer.join(self, *self._layer.membership(self, group, source))

    def leave(self, group: str, source: str | None = None) -> None:
        """The contrary, with the same arguments. Raises OSError (EADDRNOTAVAIL: not joined)."""
        self._check_open()
        self._layer.leave(self, *self._layer.membership(self, group, source))

    def set_broadcast(self, allowed: bool) -> None:
        """Whether it may send to broadcast addresses. Raises OSError (EACCES: none of its networks carries
        them)."""
        self._check_open()
        concerned = self._layer.ports_of(self)
        if allowed and concerned and not any(port.config.broadcast for port in concerned):
            raise os_error(errno.EACCES)
        self.broadcast = allowed

    def send_groups_from(self, source: str | None) -> None:
        """Send to groups over the network on which ``source`` is our address (None: as the routes have it). Raises
        OSError (EADDRNOTAVAIL)."""
        self.ways.clear()
        if source is None:
            self.multicast_source = None
            return
        packed = ip_address(source).packed
        if self._layer.port_of(packed) is None:
            raise os_error(errno.EADDRNOTAVAIL)
        self.multicast_source = packed

    def recv(self) -> bytes | None:
        """The next datagram, or None. Raises what ICMP reported."""
        received = self.recvfrom()
        return received[0] if received is not None else None

    def recvfrom(self) -> tuple[bytes, Address] | None:
        """The next datagram and whom it is from, or None. Raises what ICMP reported to a connected socket."""
        received = self.recvfrom_packed()
        return None if received is None else (received[0], (str(ip_address(received[1])), received[2]))

    def recvfrom_packed(self) -> tuple[bytes, bytes, int] | None:
        """As ``recvfrom``, with the address packed: data, address, port."""
        self._check_open()
        self._raise_error()
        if not self._queue:
            return None
        received = self._queue.popleft()
        self._queued -= len(received[0]) + _OVERHEAD
        return received

    def take(self, limit: int) -> list[tuple[bytes, bytes, int]]:
        """As many datagrams as there are, ``limit`` at the most, each as ``recvfrom_packed`` has it. ICMP errors are
        left to ``errors``. Raises OSError (EBADF)."""
        self._check_open()
        queue = self._queue
        taken = [queue.popleft() for _ in range(min(limit, len(queue)))]
        self._queued -= sum([len(data) for data, _, _ in taken]) + _OVERHEAD * len(taken)
        return taken

    def close(self) -> None:
        """Free the port number. What was not read is gone."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._layer.forget(self)

    # --- for the layer ---
    def deliver(self, data: bytes, source: bytes, port: int) -> bool:
        """Queue a datagram; False when there is no room."""
        if self._queued + len(data) + _OVERHEAD > self._limit:
            self.dropped += 1
            return False
        self._queue.append((data, source, port))
        self._queued += len(data) + _OVERHEAD
        return True

    def fail(self, number: int, remote: bytes, port: int) -> None:
        """ICMP reported an error."""
        self._errors.append((os_error(number), (str(ip_address(remote)), port)))

    def _raise_error(self) -> None:
        if self.remote is not None and self._errors:
            raise self._errors.popleft()[0]

    def _check_open(self) -> None:
        if self.closed:
            raise os_error(errno.EBADF)

    def wants(self, port: Port, destination: bytes) -> bool:
        """Whether what came by ``port`` to that address, which may be a group or a broadcast address, is for us."""
        if self.port_index is not None and self.port_index != port.index:
            return False
        if self.local_address is not None and self.local_address != destination:
            return False
        if destination in port.joined and destination not in port.own_groups:
            return not self.memberships.isdisjoint(((destination, port.index), (destination, None)))
        return True


class UdpLayer:
    """All UDP sockets of a stack."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.changed: dict[UdpSocket, None] = {}
        """What ``ready`` will give."""
        self._bound: dict[int, list[UdpSocket]] = {}
        self.regrouped: set[int] = set()
        """Indices of the ports whose ``joined`` changed; whoever tells the layer below empties it."""

    # --- sockets ---
    def open(self, local: bytes | None, local_port: int, port_index: int | None, *, reuse: bool = False) -> UdpSocket:
        """Bind. Raises OSError (EADDRINUSE)."""
        if not local_port:
            chosen = choose_port(self._host.random, self._host.config.udp_ports, self._bound)
            if chosen is None:
                raise os_error(errno.EADDRINUSE)
            local_port = chosen
        for other in self._bound.get(local_port, ()):
            if (
                not (reuse and other.reuse)
                and other.remote is None
                and (other.local_address is None or local is None or other.local_address == local)
                and (other.port_index is None or port_index is None or other.port_index == port_index)
            ):
                raise os_error(errno.EADDRINUSE)
        socket = UdpSocket(self, port_index, local, local_port, self._host.config.udp_receive_buffer, reuse)
        self._bound.setdefault(local_port, []).append(socket)
        return socket

    def forget(self, socket: UdpSocket) -> None:
        """The socket was closed."""
        sockets = self._bound[socket.local_port]
        sockets.remove(socket)
        if not sockets:
            del self._bound[socket.local_port]
        if socket.memberships:
            socket.memberships.clear()
            self._regroup()

    # --- groups ---
    def port_of(self, address: bytes) -> Port | None:
        """The port on which an address is ours."""
        return next((port for port in self._host.ports.values() if address in port.addresses), None)

    def ports_of(self, socket: UdpSocket) -> list[Port]:
        """The ports that a socket is on."""
        return [port for port in self._host.ports.values() if socket.port_index in (None, port.index)]

    def membership(self, socket: UdpSocket, group: str, source: str | None) -> tuple[bytes, int | None]:
        """A membership as ``UdpSocket.memberships`` has it. Raises OSError (EINVAL, ENODEV)."""
        address = ip_address(group)
        if not address.is_multicast:
            raise os_error(errno.EINVAL)
        if source is None:
            return address.packed, socket.port_index
        port = self.port_of(ip_address(source).packed)
        if port is None or socket.port_index not in (None, port.index):
            raise os_error(errno.ENODEV)
        return address.packed, port.index

    def join(self, socket: UdpSocket, group: bytes, index: int | None) -> None:
        """Raises OSError."""
        if (group, index) in socket.memberships:
            raise os_error(errno.EADDRINUSE)
        concerned = [port for port in self._host.ports.values() if index in (None, port.index)]
        if concerned and not any(port.config.multicast for port in concerned):
            raise os_error(errno.EPERM)
        all_joined = {member for sockets in self._bound.values() for each in sockets for member in each.memberships}
        if len(socket.memberships) >= MAX_MEMBERSHIPS or len(all_joined) >= self._host.config.udp_groups:
            raise os_error(errno.ENOBUFS)
        socket.memberships.add((group, index))
        self._regroup()

    def leave(self, socket: UdpSocket, group: bytes, index: int | None) -> None:
        """Raises OSError (EADDRNOTAVAIL)."""
        if (group, index) not in socket.memberships:
            raise os_error(errno.EADDRNOTAVAIL)
        socket.memberships.remove((group, index))
        self._regroup()

    def port_added(self) -> None:
        """The sockets on all ports have their groups on the new one, too."""
        self._regroup()

    def _regroup(self) -> None:
        joined: dict[int | None, set[bytes]] = {}
        for sockets in self._bound.values():
            for socket in sockets:
                for group, index in socket.memberships:
                    joined.setdefault(index, set()).add(group)
        everywhere = joined.get(None, set())
        for port in self._host.ports.values():
            groups = frozenset(everywhere | joined.get(port.index, set()))
            if groups != port.joined:
                port.join(groups)
                self.regrouped.add(port.index)

    def way(self, socket: UdpSocket, remote: bytes, now: float) -> UdpWay:
        """The way from a socket to a remote. Raises OSError (ENETUNREACH)."""
        self._host.clock.now = now
        flows, ways = self._host.flows, socket.ways
        if socket.ways_version != flows.version or len(ways) >= _WAYS:
            ways.clear()
            socket.ways_version = flows.version
        way = ways.get(remote)
        if way is None:
            local = socket.local_address
            if local is not None and _is_group(local):
                local = None  # what is bound to a group sends from an address of ours
            if _is_group(remote):
                local = socket.multicast_source or local
            way = ways[remote] = UdpWay(flows.find(remote, port_index=socket.port_index, local=local))
        return way

    def transmit(self, socket: UdpSocket, way: UdpWay, remote_port: int, data: bytes, now: float) -> None:
        """Send one datagram. Raises OSError (EMSGSIZE; EACCES: a broadcast address, and the socket or the network will
        have none; EPERM: a group, and the network has no multicast)."""
        self._host.clock.now = now
        flow = way.flow
        port, remote = flow.port, flow.remote
        to_group = _is_group(remote)
        if to_group and not port.config.multicast:
            raise os_error(errno.EPERM)
        to_all = remote in port.broadcasts
        if to_all and not (socket.broadcast and port.config.broadcast):
            raise os_error(errno.EACCES)
        if not (to_group or to_all) and way.fits(data):
            flow.send((way.frame(socket.local_port, remote_port, data),))
            return
        if len(data) > (65507 if len(flow.remote) == 4 else 65527):
            raise os_error(errno.EMSGSIZE)
        pseudo = checksum.pseudo_sum(flow.local, flow.remote, ipv4.PROTOCOL_UDP)
        header = udp.build(socket.local_port, remote_port, data, pseudo)
        if not (to_group or to_all):
            self._host.output.send(flow, ipv4.PROTOCOL_UDP, header + data)
            return
        hops = socket.multicast_hops if to_group else HOP_LIMIT
        frames = self._host.output.frames(flow, ipv4.PROTOCOL_UDP, header + data, hops)
        if hops or to_all:
            flow.send(frames)
        if to_all or (socket.multicast_loop and (remote in port.groups or self._host.config.siblings)):
            port.loop_back(frames)

    def transmit_many(self, socket: UdpSocket, way: UdpWay, remote_port: int, payloads: Sequence[bytes]) -> bool:
        """Send several datagrams; see ``UdpSocket.send_many``."""
        flow = way.flow
        if (
            _is_group(flow.remote)
            or flow.remote in flow.port.broadcasts
            or not all(payloads)
            or not way.fits(max(payloads, key=len))
        ):
            return False
        flow.send(way.frames(socket.local_port, remote_port, payloads))
        return True

    # --- input ---
    def receive_whole(self, port: Port, datagrams: Sequence[WholeDatagram]) -> list[memoryview]:
        """Datagrams over IPv4 that came in one piece each. Those that are not simply for one socket of ours, and with a
        right checksum, are left: what is returned has to take the long way."""
        left: list[memoryview] = []
        last_key = b""
        socket: UdpSocket | None = None
        source, source_port, pseudo = b"", 0, 0
        for (key, datagram, frame), total in zip(
            datagrams, checksum.sums_of([datagram for _, datagram, _ in datagrams]), strict=True
        ):
            if key != last_key:  # those of a batch mostly belong together
                last_key = key
                source, local = key[:4], key[4:8]
                source_port, local_port = _PORTS.unpack_from(key, 8)
                ours = local in port.addresses and port.source_ok(source)
                socket = self._find(port.index, local, local_port, source, source_port) if ours else None
                pseudo = checksum.pseudo_sum(source, local, ipv4.PROTOCOL_UDP)
            length = len(datagram)
            if (
                socket is None
                or datagram[4] << 8 | datagram[5] != length
                or not (datagram[6] or datagram[7])  # has no checksum, which is allowed and rare
                or (total * checksum.NATIVE_FACTOR + pseudo + length) % checksum.MODULUS
            ):
                left.append(frame)
                continue
            if not socket.deliver(bytes(datagram[8:]), source, source_port):
                port.count("udp_queue_full")
            self.changed[socket] = None
        return left

    def receive(self, port: Port, source: bytes, destination: bytes, payload: memoryview) -> bool:
        """A datagram to one of our addresses or groups. False when no socket wants it (the sender is told so)."""
        pseudo = checksum.pseudo_sum(source, destination, ipv4.PROTOCOL_UDP)
        try:
            source_port, local_port, data = udp.parse(payload, pseudo, checksum_required=len(source) == 16)
        except WireError:
            port.count("bad_udp")
            return True
        if destination in port.groups or destination in port.broadcasts:
            found = [
                each
                for each in self._bound.get(local_port, ())
                if each.wants(port, destination) and each.remote in (None, (source, source_port))
            ]
        else:
            socket = self._find(port.index, destination, local_port, source, source_port)
            found = [] if socket is None else [socket]
        copied = bytes(data) if found else b""
        for socket in found:
            if not socket.deliver(copied, source, source_port):
                port.count("udp_queue_full")
            self.changed[socket] = None
        return bool(found)

    def _find(
        self, port_index: int, local: bytes, local_port: int, remote: bytes, remote_port: int
    ) -> UdpSocket | None:
        """The most specific socket: connected before bound to the address before bound to all."""
        best, best_score = None, -1
        for socket in self._bound.get(local_port, ()):
            if socket.port_index is not None and socket.port_index != port_index:
                continue
            if socket.local_address is not None and socket.local_address != local:
                continue
            if socket.remote is not None and socket.remote != (remote, remote_port):
                continue
            score = (
                4 * (socket.remote is not None)
                + 2 * (socket.local_address is not None)
                + (socket.port_index is not None)
            )
            if score >= best_score:
                best, best_score = socket, score
        return best

    def icmp_error(
        self, port_index: int, local: bytes, local_port: int, remote: bytes, remote_port: int, number: int | None
    ) -> bool:
        """ICMP is about a datagram with these addresses. True when a socket of ours may have sent it; ``number`` is the
        errno that it gets (None: nothing to tell, the datagram was too big and the next one will be cut)."""
        socket = self._find(port_index, local, local_port, remote, remote_port)
        if socket is None:
            return False
        if number is not None:
            socket.fail(number, remote, remote_port)
            self.changed[socket] = None
        return True

    def ready(self) -> list[UdpSocket]:
        """Those of which something changed since the last call."""
        changed = list(self.changed)
        self.changed.clear()
        return changed

    def port_removed(self, port_index: int) -> None:
        """The network is gone."""
        for sockets in self._bound.values():
            for socket in sockets:
                socket.memberships = {member for member in socket.memberships if member[1] != port_index}
                if socket.port_index == port_index:
                    socket.fail(errno.ENETDOWN, socket.remote[0] if socket.remote else ipv4.UNSPECIFIED, 0)
                    self.changed[socket] = None


def _is_group(address: bytes) -> bool:
    """Whether a packed address is one of multicast."""
    return ipv4.is_multicast(address) if len(address) == 4 else ipv6.is_multicast(address)
