"""What the owner of a stack decides. Times are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ztnode.netstack.tcp.config import TcpConfig

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


@dataclass(frozen=True, slots=True)
class NeighbourConfig:
    """Timers of ARP and NDP (RFC 4861 section 10, RFC 1122 section 2.3.2.1)."""

    solicit_intervals: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.75, 1.0)
    """Waits after each multicast solicitation, the last one before giving up: 2.5 s in all. RFC 4861 says three times
    one second; the first answer over an overlay may get lost while a path is being found, so the first retries are
    quick, and an address that nobody has fails within 3 s."""
    reachable: float = 30.0
    """REACHABLE_TIME; each entry's is 0.5 to 1.5 times it at random (RFC 4861 section 6.3.2)."""
    delay_first_probe: float = 5.0
    probe_interval: float = 1.0
    probes: int = 3
    entries: int = 1024
    """Bound of one port's cache."""
    pending_frames: int = 64
    """Frames that wait for one address; the oldest goes first."""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Limits of everything but TCP, which has its own."""

    tcp: TcpConfig = field(default_factory=TcpConfig)
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    hop_limit: int = 64
    announce: bool = True
    """Send a gratuitous ARP or unsolicited neighbour advertisement for each new address."""
    siblings: bool = False
    """Other stacks have the same addresses: a frame to ourselves may be for one of them. It does not turn round inside
    but goes out with a port index of :data:`LOOPED` + index, and whoever gets it receives it with the same."""
    reassembly_bytes: int = 1 << 20
    reassembly_datagrams: int = 64
    reassembly_fragments: int = 128
    """Of one datagram: 64 KiB in pieces of the smallest IPv6 MTU are 53."""
    reassembly_timeout: float = 30.0
    """RFC 1122 section 3.3.2 says 60 to 120 s, RFC 8200 60 s; on today's links what is late by 30 s was lost, and a
    shorter time bounds the harm of a flood (Linux: 30 s for IPv4)."""
    echo_per_second: int = 1000
    """Echo requests answered; what is above is dropped."""
    errors_per_second: int = 100
    """ICMP errors sent (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f)."""
    path_mtus: int = 1024
    """Remote addresses whose path MTU is remembered."""
    path_mtu_timeout: float = 600.0
    """RFC 1191 section 6.3, RFC 8201 section 4: try the full size again after 10 minutes."""
    udp_receive_buffer: int = 256 << 10
    """Of one socket, payload bytes."""
    udp_ports: tuple[int, int] = (32768, 60999)
    """Ephemeral ports, both ends included."""
