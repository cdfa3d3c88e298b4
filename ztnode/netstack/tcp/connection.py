"""One TCP connection: its state variables, and what its owner sees and calls (RFC 9293 section 3.10.1 to 3.10.6).

The class is the transmission control block of the RFC; what moves it are plain functions, a module for each reason:
`opening` (the handshake), `arrival` with `acknowledgement` (a segment came), `output` (what goes out), `timers`,
`reports` (ICMP), `ending`. Attributes without underscore below the owner's are for those modules and for the layer.
"""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING

from ztnode.netstack.tcp.config import TcpConfig
from ztnode.netstack.tcp.congestion import ALGORITHMS
from ztnode.netstack.tcp.control_segments import send_reset
from ztnode.netstack.tcp.ending import PREDICTS_NOTHING, become, error_of, finish, predict, watch_fin_wait_2
from ztnode.netstack.tcp.framing import SegmentWriter
from ztnode.netstack.tcp.network import Buffer, ConnectionKey, Flow
from ztnode.netstack.tcp.receiver import Receiver
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.segment_size import SegmentSize
from ztnode.netstack.tcp.sender import Sender
from ztnode.netstack.tcp.state import RECEIVES_TEXT, Event, State
from ztnode.netstack.tcp.timers import arm_keepalive

if TYPE_CHECKING:
    from ztnode.netstack.tcp.layer import TcpLayer
    from ztnode.netstack.tcp.listener import TcpListener


class TcpConnection:
    """A connection as its owner sees it. No method blocks; watch `TcpLayer.ready()` and look at the properties."""

    __slots__ = (
        "__weakref__",
        "_keepalive",
        "ack_echo",
        "ack_pending",
        "config",
        "deadline_pushed",
        "dirty",
        "error",
        "flow",
        "keepalive_sent",
        "key",
        "layer",
        "listener",
        "local_port",
        "noticed",
        "orphan_asks_since",
        "orphaned",
        "owner",
        "predicts",
        "pseudo",
        "rcv",
        "remote_port",
        "size",
        "small",
        "snd",
        "state",
        "state_timer_at",
        "syn_due",
        "syn_retries",
        "syn_sent_at",
        "timestamp_offset",
        "touched",
        "ts_ok",
    )

    def __init__(
        self,
        layer: TcpLayer,
        config: TcpConfig,
        flow: Flow,
        key: ConnectionKey,
        pseudo: int,
        iss: int,
        ts_offset: int,
    ) -> None:
        self.layer = layer
        self.config = config
        self.flow = flow
        self.key = key
        """As received: remote first."""
        self.pseudo = pseudo
        """Checksum sum of addresses and protocol."""
        self.remote_port = int.from_bytes(key[-4:-2], "big")
        self.local_port = int.from_bytes(key[-2:], "big")
        self.state = State.CLOSED
        self.error: OSError | None = None
        """Why the connection failed (ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH ...); None while all is well."""
        self.owner: object = None
        """The owner's own; TCP never looks at it."""
        self._keepalive = False
        self.listener: TcpListener | None = None
        writer = SegmentWriter(flow, self.local_port, self.remote_port)
        rtt = RttEstimator(config.initial_rto, config.min_rto, config.max_rto)
        self.size = SegmentSize(flow)
        mss = self.size.path_mss
        self.snd = Sender(iss, writer, rtt, ALGORITHMS[config.congestion](mss), mss)
        self.rcv = Receiver(0, config.receive_buffer, config.receive_buffer_max)
        self.ts_ok = False
        """Both sides offered timestamps."""
        self.timestamp_offset = ts_offset
        self.predicts = PREDICTS_NOTHING
        """What header prediction settles, see `ending.predict`."""
        self.ack_pending = -1
        """What header prediction acknowledged in this batch, unwrapped; -1 for nothing."""
        self.ack_echo: int | None = None
        """The timestamp that came back with it."""
        self.small = False
        """The last text was less than a full segment."""
        self.orphaned = False
        """The owner closed: nobody will read, nobody will give up."""
        self.orphan_asks_since: float | None = None
        """When this orphan first had to ask about a window that is shut."""
        self.syn_due: float | None = None
        """When our SYN or SYN-ACK goes out (again); None once it is answered."""
        self.syn_retries = 0
        self.syn_sent_at = 0.0
        self.state_timer_at: float | None = None
        """Connect timeout, FIN-WAIT-2 or keep-alive, whichever the state has."""
        self.keepalive_sent = 0
        self.deadline_pushed: float | None = None
        """The layer's: our valid entry in its timer heap."""
        self.dirty = False
        """The layer's: on its list to flush; likewise `touched` by the batch, `noticed` by the owner."""
        self.touched = False
        self.noticed = False

    # ------------------------------------------------------------------ what the owner sees
    @property
    def established(self) -> bool:
        """The handshake is complete (stays true until the connection is closed or fails)."""
        return self.state >= State.ESTABLISHED and self.error is None

    @property
    def closed(self) -> bool:
        """Nothing will ever happen here any more (CLOSED or TIME-WAIT)."""
        return self.state is State.CLOSED or self.state is State.TIME_WAIT

    @property
    def readable(self) -> int:
        """Bytes in order and unread."""
        return self.rcv.queue.size

    @property
    def eof(self) -> bool:
        """The peer's FIN arrived and everything before it was read."""
        rcv = self.rcv
        return rcv.fin is not None and rcv.nxt > rcv.fin and not rcv.queue.size

    @property
    def writable(self) -> int:
        """Free bytes of the send buffer; 0 once nothing can be written any more."""
        snd = self.snd
        if snd.fin_queued or self.error is not None:
            return 0
        limit = 2 * snd.recovery.cc.cwnd
        config = self.config
        if limit < config.send_buffer:
            limit = config.send_buffer
        elif limit > config.send_buffer_max:
            limit = config.send_buffer_max
        # What the peer has beyond a hole is only kept in case it reneges: it must not starve what follows.
        free = min(limit + snd.recovery.board.sacked, config.send_buffer_max) - (snd.buffer.end - snd.buffer.start)
        return free if free > 0 else 0

    @property
    def unsent(self) -> int:
        """Bytes written and not yet acknowledged by the peer."""
        return len(self.snd.buffer)

    @property
    def nodelay(self) -> bool:
        """Whether Nagle's algorithm is off (TCP_NODELAY)."""
        return self.snd.nodelay

    @nodelay.setter
    def nodelay(self, value: bool) -> None:
        self.snd.nodelay = value
        self.layer.want_flush(self)

    @property
    def keepalive(self) -> bool:
        """Whether an idle connection is probed (SO_KEEPALIVE), see `TcpConfig.keepalive_idle`."""
        return self._keepalive

    @keepalive.setter
    def keepalive(self, value: bool) -> None:
        self._keepalive = value
        if self.state >= State.ESTABLISHED and not self.closed:
            arm_keepalive(self, self.layer.now)
            self.layer.want_flush(self)

    @property
    def port_index(self) -> int:
        """The network that the connection runs over."""
        return self.flow.port_index

    @property
    def local(self) -> tuple[str, int]:
        """Our address and port."""
        return str(ipaddress.ip_address(self.flow.local)), self.local_port

    @property
    def remote(self) -> tuple[str, int]:
        """The peer's address and port."""
        return str(ipaddress.ip_address(self.flow.remote)), self.remote_port

    def read(self, limit: int) -> list[Buffer]:
        """Take up to `limit` bytes in order. Views are good until the stack's `settle()`."""
        rcv = self.rcv
        before = rcv.queue.size
        pieces = rcv.queue.read(limit)
        if self.state in RECEIVES_TEXT and rcv.fin is None:
            rcv.window.consumed(before - rcv.queue.size, self.snd.rtt.smoothed, self.layer.now)
            if rcv.window.update_due(rcv.nxt, rcv.queue.size, rcv.mss):
                rcv.ack_now = True
                self.layer.want_flush(self)
        return pieces

    def write(self, data: Buffer) -> None:
        """Queue data; takes ownership (do not change the buffer), copies nothing large. May exceed `writable`.

        Raises BrokenPipeError after `shutdown()`, or `error` when the connection failed.
        """
        if self.error is not None:
            raise self.error
        if self.snd.fin_queued or self.closed:
            raise BrokenPipeError(errno.EPIPE, "the sending side is shut down")
        self.snd.buffer.append(data)
        self.layer.want_flush(self)

    def shutdown(self) -> None:
        """No more data from us: FIN after what is queued. Reading goes on."""
        if self.snd.fin_queued or self.closed or self.error is not None:
            return
        if self.state < State.ESTABLISHED:
            # RFC 9293 section 3.10.4: queued until the handshake is complete.
            self.snd.fin_queued = True
            return
        self.snd.fin_queued = True
        become(self, Event.CLOSE)
        self.layer.want_flush(self)

    def close(self) -> None:
        """No more interest: FIN after what is queued; received data that nobody read makes it a reset (RFC 2525).

        So do too many connections in this situation (`TcpConfig.orphans_max`, `orphan_bytes_max`).
        """
        if self.closed or self.orphaned:
            return
        if self.state is State.SYN_SENT or self.rcv.queue.size or self.rcv.reassembly:
            self.abort()
            return
        if self.state is not State.FIN_WAIT_2 and not self.layer.adopt_orphan(self):
            self.abort()
            return
        self.orphaned = True
        self.shutdown()
        predict(self)
        watch_fin_wait_2(self)

    def abort(self) -> None:
        """Reset the connection now."""
        if self.closed:
            return
        if self.state is not State.SYN_SENT:
            send_reset(self)
        finish(self, error_of(errno.ECONNABORTED))

    def info(self) -> dict[str, int | float | str | bool]:
        """Figures as `ss -i` shows them; times in seconds, sizes in bytes."""
        snd, rcv = self.snd, self.rcv
        recovery = snd.recovery
        cc = recovery.cc
        return {
            "state": self.state.name,
            "congestion": cc.name,
            "phase": recovery.phase.name,
            "rtt": snd.rtt.srtt or 0.0,
            "rttvar": snd.rtt.rttvar,
            "min_rtt": 0.0 if snd.rtt.min_rtt == float("inf") else snd.rtt.min_rtt,
            "rto": snd.rtt.rto,
            "mss": snd.mss,
            "cwnd": cc.cwnd,
            "ssthresh": min(cc.ssthresh, 1 << 31),
            "pacing_rate": cc.pacing_rate or 0.0,
            "send_window": max(0, snd.edge - recovery.una),
            "unsent": snd.buffer.end - min(recovery.nxt, snd.buffer.end),
            **recovery.snapshot(),
            "retransmits": recovery.retransmits,
            "timeouts": recovery.timeouts,
            "fast_recoveries": recovery.fast_recoveries,
            "tail_probes": recovery.recovery_probes,
            "spurious": recovery.spurious,
            "receive_window": rcv.window.edge - rcv.nxt,
            "receive_buffer": rcv.window.limit,
            "out_of_order": rcv.out_of_order,
            "timestamps": self.ts_ok,
            "sack": recovery.sack_ok,
            "send_scale": snd.scale,
            "receive_scale": rcv.scale,
        }

    # ------------------------------------------------------------------ for the modules of TCP
    def notify(self) -> None:
        """The owner should look."""
        if not self.noticed:
            self.layer.notify(self)
