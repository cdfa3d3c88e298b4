"""What the owner of a stack decides. Sizes are bytes. What nobody sets is a constant where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ztnode.netstack.tcp.tcp_config import TcpConfig

LOOPED: Final = 1 << 31
"""Added to a port index: the frame is from us and for us."""


@dataclass(frozen=True, slots=True)
class PortConfig:
    """One Ethernet port: one virtual network."""

    mac: int
    """Our MAC on it, 48 bits."""
    mtu: int
    """Largest IP packet (ZeroTier: 2800 by default)."""
    addresses: tuple[str, ...] = ()
    """Ours, as CIDR strings: ``10.121.15.7/24``, ``fd00::7/88``. The prefix is reached directly."""
    routes: tuple[tuple[str, str | None], ...] = ()
    """(target network, gateway) with None for one that is reached directly."""
    metric: int = 0
    """Between equal prefixes on several ports the lowest metric wins, then the lowest index."""
    multicast: bool = True
    """Whether the network carries multicast at all; without it what is sent to a group is refused."""
    broadcast: bool = True
    """Whether the network carries broadcasts of IP."""


@dataclass(frozen=True, slots=True)
class NeighbourConfig:
    """Bounds of ARP and NDP."""

    entries: int = 1024
    """Bound of one port's cache."""
    pending_frames: int = 64
    """Frames that wait for one address; the oldest goes first."""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Limits of everything but TCP, which has its own."""

    tcp: TcpConfig = field(default_factory=TcpConfig)
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    announce: bool = True
    """Send a gratuitous ARP or unsolicited neighbour advertisement for each new address."""
    siblings: bool = False
    """Other stacks have the same addresses: a frame to ourselves may be for one of them. It does not turn round inside
    but goes out with a port index of ``LOOPED`` + index, and whoever gets it receives it with the same."""
    echo_per_second: int = 1000
    """Echo requests answered; what is above is dropped."""
    errors_per_second: int = 100
    """ICMP errors sent (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f)."""
    udp_receive_buffer: int = 1 << 20
    """Of one socket, payload bytes."""
    udp_groups: int = 256
    """Multicast groups that all sockets together may have joined, each once for each network."""
    udp_ports: tuple[int, int] = (32768, 60999)
    """Ephemeral ports, both ends included."""
