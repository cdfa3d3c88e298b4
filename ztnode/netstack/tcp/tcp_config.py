"""The knobs of TCP, with the reason for each default. What nobody sets is a constant where it is used."""

from __future__ import annotations

from dataclasses import dataclass

from ztnode.netstack.tcp.congestion import ALGORITHMS


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """Limits and timers. Times are seconds, sizes bytes."""

    congestion: str = "cubic"
    """Congestion control of new connections: ``cubic`` (RFC 9438), ``newreno`` (RFC 5681, 6582) or ``bbr``."""
    send_buffer: int = 1 << 20
    """What ``writable`` offers at first; it grows with the congestion window up to ``connection.SEND_BUFFER_MAX``."""
    receive_buffer: int = 2 << 20
    """First receive window; auto-tuning doubles it while the application keeps up. It costs nothing until a peer
    fills it, and a smaller one holds back the start of a transfer over a long path: 4 MB over 20 ms with 1 % loss
    came at 11.8 MB/s with 256 KiB, 12.6 with 1 MiB and 14.6 with this; the kernel in our place got 13.6."""
    receive_buffer_max: int = 8 << 20
    unread_bytes_max: int = 256 << 20
    """What all connections together may hold of data that their owners do not read: clients that die, stall or never
    read. Peers are pushed back in time, see ``receive_memory``."""
    unacked_bytes_max: int = 256 << 20
    """The same for data that their peers do not acknowledge, see ``send_memory``."""
    orphan_timeout: float = 120.0
    """How long a connection that its owner closed goes on asking a peer that answers and whose window stays shut. With
    an owner there is no limit (RFC 1122 section 4.2.2.17); this one has nobody left who could give it up. The kernel
    bounds it likewise (``tcp_orphan_retries``)."""
    orphans_max: int = 4096
    """Connections closed by their owners whose data the peer does not have yet: one more is reset, as with the kernel's
    ``tcp_max_orphans``. As many again may wait in FIN-WAIT-2: there the oldest goes, which loses nothing."""
    orphan_bytes_max: int = 256 << 20
    """What these connections may hold of their data together: one more that would go beyond it is reset, as with the
    kernel's ``tcp_mem``. Hundreds of answers of a megabyte may be on their way to slow peers; those who ask for a file
    and then shut their window get no more than this."""
    time_wait_max: int = 16384
    """Bound of the TIME-WAIT table; the oldest goes first."""
    keepalive_idle: float = 7200.0
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    challenge_acks_per_second: int = 100
    """RFC 5961 section 7."""
    syn_queue: int = 1024
    """Half-open connections of one listener, 4 KB each, whatever its backlog: a burst of dials must not be taken for
    a flood. Those that complete wait for ``accept`` even above the backlog, which decides about new SYNs."""
    ephemeral_ports: tuple[int, int] = (32768, 60999)

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown congestion control."""
        if self.congestion not in ALGORITHMS:
            raise ValueError(f"congestion control is one of {', '.join(ALGORITHMS)}, not {self.congestion!r}")
