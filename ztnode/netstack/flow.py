"""A flow: the way from one of our addresses to one remote address, with the headers made ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ztnode.netstack.frame import Frame
from ztnode.netstack.neighbour_cache import NO_MAC, Neighbour, Reachability
from ztnode.netstack.port import Port
from ztnode.wire import ethernet, ipv4, ipv6

_REACHABLE: Final = Reachability.REACHABLE
"""To find a member by its class takes as long as the rest of the question."""

HOP_LIMIT: Final = 64
"""Of everything that we send beyond the link."""


class Flow:
    """Implements ``tcp.ip_service.IpFlow``. Lives as long as a connection or socket holds it.

    ``header`` and ``mtu`` are plain attributes that the stack sets anew, with another ``generation``, whenever the
    neighbour, the route or the path MTU changes: the sender's hot path reads them and asks nothing.
    """

    __slots__ = (
        "__weakref__",
        "generation",
        "header",
        "local",
        "loopback",
        "mtu",
        "neighbour",
        "next_hop",
        "port",
        "port_index",
        "remote",
        "takes",
    )

    def __init__(self, port: Port, local: bytes, remote: bytes) -> None:
        self.port = port
        self.port_index = port.index
        self.local = local
        self.remote = remote
        self.loopback = False
        """The remote address is our own: frames turn round inside the stack."""
        self.next_hop: bytes | None = None
        """None while there is no route; what is sent then is dropped."""
        self.neighbour: Neighbour | None = None
        self.mtu = port.mtu
        self.takes = port.mtu
        """Longest IP packet, bytes, that gets through from the remote to us."""
        self.header = b""
        self.generation = 0
        self.refresh()

    def route(self, next_hop: bytes | None, neighbour: Neighbour | None, mtu: int, *, loopback: bool = False) -> None:
        """Go by this neighbour from now on."""
        if self.neighbour is not None:
            self.neighbour.watchers.discard(self)
        self.next_hop = next_hop
        self.neighbour = neighbour
        self.mtu = mtu
        self.loopback = loopback
        if neighbour is not None:
            neighbour.watchers.add(self)
        self.refresh()

    def set_mtu(self, mtu: int) -> None:
        """The path MTU is another one now."""
        if mtu != self.mtu:
            self.mtu = mtu
            self.refresh()

    def refresh(self) -> None:
        """Make the template anew."""
        mac = self.neighbour.mac if self.neighbour is not None else NO_MAC
        if self.loopback:
            mac = self.port.mac
        self.header = self._build_header(mac)
        self.takes = self.port.takes.get(mac, self.port.mtu)
        self.generation += 1

    def _build_header(self, mac: bytes) -> bytes:
        """Ethernet and IP header for TCP with length and IPv4 checksum zero, DF set and ID 0 (RFC 6864 section 4.1: an
        atomic datagram needs no ID)."""
        if len(self.remote) == 4:
            return ethernet.build(mac, self.port.mac, ethernet.TYPE_IPV4) + ipv4.FIXED.pack(
                0x45, 0, 0, 0, ipv4.DONT_FRAGMENT, HOP_LIMIT, ipv4.PROTOCOL_TCP, 0, self.local, self.remote
            )
        return ethernet.build(mac, self.port.mac, ethernet.TYPE_IPV6) + ipv6.build(
            ipv6.Header(self.local, self.remote, ipv4.PROTOCOL_TCP, 0, HOP_LIMIT)
        )

    def send(self, frames: Sequence[Frame]) -> None:
        """Queue complete frames, or keep them until the next hop's MAC is known."""
        neighbour = self.neighbour
        port = self.port
        if neighbour is not None:
            if neighbour.state is _REACHABLE and port.clock.now < neighbour.deadline:
                index = self.port_index
                if len(frames) == 1:
                    port.queue.append((index, frames[0]))
                else:
                    port.queue.extend([(index, frame) for frame in frames])
                return
            if neighbour.state is Reachability.FAILED:
                assert self.next_hop is not None
                neighbour = port.neighbours.lookup(self.next_hop)
                self.route(self.next_hop, neighbour, self.mtu)
            port.neighbours.send(neighbour, frames)
        elif self.loopback:
            port.loop_back(frames)
        else:
            port.count("no_route", len(frames))

    def confirm(self, now: float) -> None:
        """The remote answers (RFC 4861 section 7.3.1)."""
        neighbour = self.neighbour
        # Half of the shortest REACHABLE time: confirming each ACK would be work for nothing.
        if neighbour is not None and (neighbour.state is not _REACHABLE or neighbour.deadline - now < 7.0):
            self.port.neighbours.confirm(neighbour)
