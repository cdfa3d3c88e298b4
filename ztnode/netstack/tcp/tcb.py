"""The transmission control block: all that one connection knows (RFC 9293 section 3.3.1).

A leaf. What moves it are plain functions, a module for each reason: ``opening`` (the handshake), ``arrival`` with
``incoming_ack`` (a segment came), ``output`` (what goes out), ``timers``, ``reports`` (ICMP), ``ending``.
``TcpConnection`` adds the calls of the owner. What the block needs of the layer and of a listener is said here as two
protocols, so that nothing below the layer imports it.
"""

from __future__ import annotations

from typing import Final, Protocol

from ztnode.netstack.tcp.congestion import ALGORITHMS
from ztnode.netstack.tcp.connection_key import ConnectionKey, ports_of
from ztnode.netstack.tcp.framing import SegmentWriter
from ztnode.netstack.tcp.ip_service import IpFlow
from ztnode.netstack.tcp.receiver import Receiver
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.segment_size import SegmentSize
from ztnode.netstack.tcp.sender import Sender
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.netstack.tcp.timestamps import Timestamps

PREDICTS_NOTHING: Final = 0
PREDICTS_ACKS: Final = 1
PREDICTS_TEXT: Final = 2
"""Values of ``ControlBlock.predicts``; text includes acknowledgements."""


class LayerServices(Protocol):
    """What connections and their modules use of the layer. ``TcpLayer`` says what each does."""

    now: float
    dirty: list[ControlBlock]
    """Who ``want_flush`` was called for."""

    def count(self, reason: str) -> None:
        """One more of ``reason``."""

    def want_flush(self, tcb: ControlBlock) -> None:
        """There is something to send, or a timer that changed."""

    def notify(self, tcb: ControlBlock) -> None:
        """The owner should look."""

    def send_reset(self, flow: IpFlow, local_port: int, remote_port: int, seq: int, ack: int, flags: int) -> None:
        """A RST that belongs to no connection."""

    def challenge_allowed(self, now: float) -> bool:
        """Whether one more challenge ACK may be sent."""

    def schedule(self, tcb: ControlBlock, due: float) -> None:
        """It is to be called then; a time that is later than one named before changes nothing."""

    def delay_ack(self, tcb: ControlBlock, delay: float, now: float) -> None:
        """Its acknowledgement waits for so many seconds from now, as ``DelayedAck`` decided."""

    def may_hold(self, tcb: ControlBlock, now: float) -> int:
        """How many bytes of unacknowledged data it may have, considering all others."""

    def wrote(self, tcb: ControlBlock, size: int, now: float) -> None:
        """So many bytes more wait for their acknowledgment."""

    def adopt_orphan(self, tcb: ControlBlock) -> bool:
        """The owner closed it; False: there is no room to bring it to its end."""

    def orphan_waits_for_fin(self, tcb: ControlBlock) -> None:
        """An orphan entered FIN-WAIT-2."""

    def enter_time_wait(self, tcb: ControlBlock) -> None:
        """Both directions are closed."""

    def remove(self, tcb: ControlBlock) -> None:
        """It is closed."""


class ListenerServices(Protocol):
    """What a connection tells the listener that it came from."""

    def opened(self, key: ConnectionKey) -> None:
        """The handshake is complete."""

    def failed(self, key: ConnectionKey) -> None:
        """The connection ended."""


class Link:
    """The two ends of the connection, the flow between them, and how large a segment on it may be."""

    __slots__ = ("flow", "key", "local_port", "pseudo", "remote_port", "size")

    def __init__(self, flow: IpFlow, key: ConnectionKey, pseudo: int) -> None:
        self.flow = flow
        self.key = key
        """As received: remote first."""
        self.pseudo = pseudo
        """Checksum sum of addresses and protocol."""
        self.remote_port, self.local_port = ports_of(key)
        self.size = SegmentSize(flow)


class Timers:
    """Deadlines of the connection as a whole (the halves keep their own). Monotonic seconds; None for never."""

    __slots__ = (
        "connect_at",
        "fin_wait_2_at",
        "keepalive",
        "keepalive_at",
        "keepalive_sent",
        "syn_due",
        "syn_retries",
        "syn_sent_at",
    )

    def __init__(self) -> None:
        self.syn_due: float | None = None
        """When our SYN or SYN-ACK goes out (again); None once it is answered."""
        self.syn_retries = 0
        self.syn_sent_at = 0.0
        self.connect_at: float | None = None
        """When the attempt to connect is given up."""
        self.fin_wait_2_at: float | None = None
        """When an orphan has waited long enough for the peer's FIN (``fin_wait_2``)."""
        self.keepalive = False
        """The owner wants an idle connection to be probed."""
        self.keepalive_at: float | None = None
        self.keepalive_sent = 0

    def stop(self) -> None:
        """Nothing is due any more."""
        self.syn_due = self.connect_at = self.fin_wait_2_at = self.keepalive_at = None


class LayerMarks:
    """On which lists of the layer the connection is. Only the layer and ``arrival.batch_end`` change these."""

    __slots__ = ("dirty", "removed", "scheduled", "touched")

    def __init__(self) -> None:
        self.scheduled: float | None = None
        """Our valid entry in the timer heap."""
        self.dirty = False
        """To be flushed."""
        self.touched = False
        """Met by the batch at hand."""
        self.removed = False
        """Its figures are among those of the past."""


class ControlBlock:
    """The state of one connection."""

    __slots__ = (
        "__weakref__",
        "ack_echo",
        "ack_pending",
        "brief",
        "config",
        "error",
        "layer",
        "link",
        "listener",
        "marks",
        "noticed",
        "orphan_asks_since",
        "orphaned",
        "owner",
        "predicts",
        "rcv",
        "snd",
        "state",
        "timers",
        "timestamps",
    )

    def __init__(
        self,
        layer: LayerServices,
        config: TcpConfig,
        flow: IpFlow,
        key: ConnectionKey,
        pseudo: int,
        iss: int,
        timestamp_offset: int,
    ) -> None:
        self.layer = layer
        self.config = config
        self.link = Link(flow, key, pseudo)
        self.state = State.CLOSED
        self.error: OSError | None = None
        """Why the connection failed (ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH ...); None while all is well."""
        self.owner: object = None
        """Opaque to TCP."""
        self.listener: ListenerServices | None = None
        writer = SegmentWriter(flow, self.link.local_port, self.link.remote_port)
        rtt = RttEstimator()
        self.snd = Sender(iss, writer, rtt, ALGORITHMS[config.congestion](self.link.size.path_mss))
        self.rcv = Receiver(0, config.receive_buffer, config.receive_buffer_max)
        self.timestamps = Timestamps(timestamp_offset)
        self.timers = Timers()
        self.marks = LayerMarks()
        self.noticed = False
        """Named in the next ``TcpLayer.ready()``."""
        self.predicts = PREDICTS_NOTHING
        """What header prediction may take, see ``ending.predict``."""
        self.brief = False
        """Requests and answers may take the short ways (``output.alone``, ``incoming_ack.all_arrived``): it is
        established, both sides have timestamps, and nobody measures the rate."""
        self.ack_pending = -1
        """What header prediction acknowledged in this batch, unwrapped; -1 for nothing."""
        self.ack_echo: int | None = None
        """The timestamp that came back with it."""
        self.orphaned = False
        """The owner closed the connection: nobody reads any more, and nobody is left to abort it."""
        self.orphan_asks_since: float | None = None
        """When this orphan first probed the peer's zero window."""

    @property
    def established(self) -> bool:
        """The handshake is complete and something may still come or go: from ESTABLISHED on, until ``closed``."""
        return State.ESTABLISHED <= self.state < State.TIME_WAIT and self.error is None

    @property
    def closed(self) -> bool:
        """Nothing will ever happen here any more (CLOSED or TIME-WAIT)."""
        return self.state is State.CLOSED or self.state is State.TIME_WAIT

    def notify(self) -> None:
        """The owner should look."""
        if not self.noticed:
            self.layer.notify(self)

    def renew_segment_size(self) -> bool:
        """Recompute the size of a full segment; True when it shrank. Congestion control keeps it: its one place."""
        cc = self.snd.recovery.cc
        mss = self.link.size.effective(self.timestamps.on)
        before = cc.mss
        if mss == before:
            return False
        cc.set_mss(mss)
        return mss < before
