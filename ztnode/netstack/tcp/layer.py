"""The TCP layer: demultiplexing, listeners, port numbers, timers, resets for segments that nobody owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ztnode.netstack.tcp.config import TcpConfig
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.tcp.network import ConnectionKey, Flow, Network


class TcpLayer:
    """All TCP of one stack. The stack calls it; it sends through `Flow.send`."""

    def __init__(
        self, network: Network, *, random: Callable[[int], bytes], now: float, config: TcpConfig | None = None
    ) -> None:
        self.counters: dict[str, int] = {}

    # --- input ---
    def receive(self, port_index: int, segments: Sequence[tuple[ConnectionKey, memoryview]], now: float) -> None:
        """A batch of TCP segments (TCP header and payload, link padding cut off), in order of arrival.

        The IP layer has checked the IP header and that the destination is ours (unicast). TCP checks the TCP checksum.
        The views must stay valid until `settle()`.
        """

    def settle(self) -> None:
        """Copy the received payload that is still unread: the views of the last batches are about to vanish."""

    def icmp_error(self, port_index: int, key: ConnectionKey, seq: int, errno: int, hard: bool, now: float) -> None:
        """ICMP said that a segment of ours did not arrive.

        `key` is in the order of the *quoted* packet (our address first). `errno` is EHOSTUNREACH, ENETUNREACH,
        ECONNREFUSED ...; `hard` is RFC 1122 section 4.2.3.9's distinction. `seq` is checked against what is in flight.
        """

    def packet_too_big(self, port_index: int, key: ConnectionKey, seq: int, mtu: int, now: float) -> bool:
        """ICMP fragmentation needed / packet too big, for a segment of ours (`key` as for `icmp_error`).

        True when `seq` is in flight (RFC 5927 section 7): only then the stack lowers `Flow.mtu` (with a new
        generation), which it does right after this returns. The segment with `seq` was lost, so send it again.
        """
        return False

    def flow_failed(self, flow: Flow, errno: int, now: float) -> None:
        """The next hop of `flow` does not resolve: connections that are still opening fail with `errno`."""

    def port_removed(self, port_index: int, now: float) -> None:
        """The network is gone: its connections and listeners end with ENETDOWN, nothing is sent."""

    # --- timers and output ---
    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""

    def handle_timer(self, now: float) -> None:
        """Everything that is due: retransmission, delayed ACKs, probes, TIME-WAIT."""

    def flush(self, now: float) -> None:
        """Send what the batch called for: new data, retransmissions, one ACK per connection."""

    def ready(self) -> list[TcpConnection | TcpListener]:
        """Connections and listeners whose properties changed since the last call, each once."""
        return []

    # --- sockets ---
    def connect(
        self, flow: Flow, remote_port: int, now: float, *, local_port: int = 0, timeout: float | None = None
    ) -> TcpConnection:
        """Active open; data may be written at once. Raises OSError(EADDRINUSE / EADDRNOTAVAIL)."""
        raise NotImplementedError

    def listen(
        self, port: int, *, backlog: int = 128, port_index: int | None = None, local: bytes | None = None
    ) -> TcpListener:
        """Passive open on every address, one network, or one address. Port 0 picks one. Raises OSError(EADDRINUSE)."""
        raise NotImplementedError
