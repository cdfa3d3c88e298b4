"""One TCP connection: RFC 9293's segment processing in the order of the RFC, and what its owner sees.

Driven per batch. `segment` takes one segment and only notes what follows from it; `batch_end` draws the conclusions
once (acknowledgements are cumulative), and `flush` sends: data, and one acknowledgement. The first lines of `segment`
are the fast path (header prediction): the next segment in order, or an acknowledgement of new data, on an open
connection. Everything else takes the long way, `_arrived`, whose steps are numbered as in section 3.10.7.4.

Sequence numbers come as 32-bit values and are unwrapped at once into growing integers, so that every comparison
below is plain arithmetic.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
from typing import TYPE_CHECKING

from ztnode.netstack.tcp.config import TcpConfig
from ztnode.netstack.tcp.congestion import ALGORITHMS
from ztnode.netstack.tcp.framing import SegmentWriter
from ztnode.netstack.tcp.network import Buffer, ConnectionKey, Flow, Frame
from ztnode.netstack.tcp.receiver import Receiver
from ztnode.netstack.tcp.recovery import Timer
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.sender import Sender
from ztnode.netstack.tcp.state import RECEIVES_TEXT, SENDS_TEXT, Event, State, next_state
from ztnode.wire import tcp as wire

if TYPE_CHECKING:
    from ztnode.netstack.tcp.layer import TcpLayer
    from ztnode.netstack.tcp.listener import TcpListener

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
_PACK_TIMESTAMPS = struct.Struct("!III").pack
_ACK = wire.ACK
_NOT_PSH = 0xFF & ~wire.PSH
_FIN_SYN_RST = wire.FIN | wire.SYN | wire.RST
_PAWS_IDLE = 24 * 86400.0
_MIN_MSS = 88
"""Less would let a peer make us send headers only (the kernel's floor is of this order)."""
_SYN_ACK_RETRIES = 5
_BLACK_HOLE_TIMEOUTS = 3
_BLACK_HOLE_STEPS = (1280, 576)
_BLACK_HOLE_HOLD = 4.0
_BLACK_HOLE_HOLD_MAX = 600.0
"""Seconds until the full size is tried again: heavy loss looks like a black hole, so the first suspicion is short; it
doubles each time up to RFC 1191 section 6.3's ten minutes."""


class TcpConnection:
    """A connection as its owner sees it. No method blocks; watch `TcpLayer.ready()` and look at the properties."""

    __slots__ = (
        "__weakref__",
        "_ack_echo",
        "_ack_pending",
        "_closing",
        "_fast",
        "_flow_generation",
        "_keepalive",
        "_keepalive_sent",
        "_layer",
        "_misc_at",
        "_mtu_cap",
        "_mtu_cap_until",
        "_mtu_hold",
        "_peer_mss",
        "_small",
        "_syn_due",
        "_syn_retries",
        "_syn_sent_at",
        "config",
        "deadline_pushed",
        "dirty",
        "error",
        "flow",
        "key",
        "listener",
        "local_port",
        "noticed",
        "owner",
        "pseudo",
        "rcv",
        "remote_port",
        "snd",
        "state",
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
        self._layer = layer
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
        self._peer_mss = 536
        self._mtu_cap: int | None = None
        self._mtu_cap_until = 0.0
        self._mtu_hold = _BLACK_HOLE_HOLD
        self._flow_generation = flow.generation
        mss = self._path_mss()
        self.snd = Sender(iss, writer, rtt, ALGORITHMS[config.congestion](mss), mss)
        self.rcv = Receiver(0, config.receive_buffer, config.receive_buffer_max)
        self.ts_ok = False
        self.timestamp_offset = ts_offset
        self._fast = False
        self._ack_pending = -1
        self._ack_echo: int | None = None
        self._small = False
        self._closing = False
        self._syn_due: float | None = None
        self._syn_retries = 0
        self._syn_sent_at = 0.0
        self._misc_at: float | None = None
        self._keepalive_sent = 0
        self.deadline_pushed: float | None = None
        self.dirty = False
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
        free = limit - (snd.buffer.end - snd.buffer.start)
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
        self._layer.want_flush(self)

    @property
    def keepalive(self) -> bool:
        """Whether an idle connection is probed (SO_KEEPALIVE), see `TcpConfig.keepalive_idle`."""
        return self._keepalive

    @keepalive.setter
    def keepalive(self, value: bool) -> None:
        self._keepalive = value
        if self.state >= State.ESTABLISHED and not self.closed:
            self._arm_keepalive(self._layer.now)
            self._layer.want_flush(self)

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
            rcv.window.consumed(before - rcv.queue.size, self.snd.rtt.smoothed, self._layer.now)
            if rcv.window.update_due(rcv.nxt, rcv.queue.size, rcv.mss):
                rcv.ack_now = True
                self._layer.want_flush(self)
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
        self._layer.want_flush(self)

    def shutdown(self) -> None:
        """No more data from us: FIN after what is queued. Reading goes on."""
        if self.snd.fin_queued or self.closed or self.error is not None:
            return
        if self.state < State.ESTABLISHED:
            # RFC 9293 section 3.10.4: queued until the handshake is complete.
            self.snd.fin_queued = True
            return
        self.snd.fin_queued = True
        self._become(Event.CLOSE)
        self._layer.want_flush(self)

    def close(self) -> None:
        """No more interest: FIN after what is queued; received data that nobody read makes it a reset (RFC 2525)."""
        if self.closed:
            return
        if self.state is State.SYN_SENT or self.rcv.queue.size or self.rcv.reassembly:
            self.abort()
            return
        self._closing = True
        self.shutdown()
        self._watch_fin_wait_2()

    def abort(self) -> None:
        """Reset the connection now."""
        if self.closed:
            return
        if self.state is not State.SYN_SENT:
            # RFC 9293 section 3.10.5: <SEQ=SND.NXT><CTL=RST>; with the acknowledgement, as everybody sends it.
            self._send_reset()
        self._finish(OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)))

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

    # ------------------------------------------------------------------ opening
    def open_active(self, now: float, timeout: float) -> None:
        """Send a SYN; `timeout` seconds for the whole handshake."""
        self._become(Event.ACTIVE_OPEN)
        self._syn_sent_at = now
        self._syn_due = now
        self._misc_at = now + timeout
        self._layer.want_flush(self)

    def open_passive(self, seq: int, window: int, options: wire.Options, now: float) -> None:
        """A listener got this SYN."""
        self._become(Event.PASSIVE_OPEN)
        self._become(Event.RECEIVE_SYN)
        self._take_syn(seq, options, now)
        self.snd.wl1 = seq
        self.snd.edge = self.snd.iss + 1 + window
        self.snd.max_window = window
        self._syn_sent_at = now
        self._syn_due = now
        self._layer.want_flush(self)

    def _take_syn(self, seq: int, options: wire.Options, now: float) -> None:
        """The peer's SYN: its initial sequence number and options (window scale, MSS, SACK, timestamps)."""
        rcv, snd = self.rcv, self.snd
        rcv.irs = seq
        rcv.nxt = seq + 1
        rcv.window.edge = rcv.nxt + min(rcv.window.limit, 0xFFFF)
        snd.wl1 = seq
        self._peer_mss = max(options.mss if options.mss is not None else 536, _MIN_MSS)
        if options.window_scale is not None:
            snd.scale = options.window_scale
            rcv.scale = self._offered_scale()
        else:
            snd.scale = 0
            rcv.scale = 0
            rcv.window.limit = min(rcv.window.limit, 0xFFFF)
            rcv.window.maximum = 0xFFFF
        snd.sack_ok = snd.recovery.sack_ok = options.sack_permitted
        if options.timestamps is not None:
            self.ts_ok = True
            rcv.ts_recent = options.timestamps[0]
            rcv.ts_recent_at = now
        self._set_mss()
        rcv.mss = min(536, snd.mss)
        cc = snd.recovery.cc
        cc.cwnd = cc.initial_window() if self._syn_retries <= 2 else snd.mss  # RFC 6928 section 2

    def _offered_scale(self) -> int:
        scale = 0
        while scale < wire.MAX_WINDOW_SCALE and (self.config.receive_buffer_max >> scale) > 0xFFFF:
            scale += 1
        return scale

    def _syn_options(self, answering: bool) -> bytes:
        mss = self.flow.mtu - (40 if len(self.flow.local) == 4 else 60)
        timestamps = None
        if not answering or self.ts_ok:
            timestamps = (self._tsval(self._layer.now), self.rcv.ts_recent if self.ts_ok else 0)
        return wire.build_options(
            wire.Options(
                mss=max(_MIN_MSS, min(mss, 0xFFFF)),
                window_scale=self._offered_scale() if not answering or self.rcv.scale or self.snd.scale else None,
                sack_permitted=not answering or self.snd.sack_ok,
                timestamps=timestamps,
            )
        )

    def _send_syn(self, now: float) -> None:
        """SYN or SYN-ACK, first or again, and when to repeat it."""
        answering = self.state is State.SYN_RECEIVED
        config = self.config
        retries = self._syn_retries
        if answering:
            interval = config.initial_rto * (1 << retries)
        elif retries < len(config.syn_rto):
            interval = config.syn_rto[retries]
        else:
            interval = config.syn_rto[-1] * (1 << (retries - len(config.syn_rto) + 1))
        self._syn_due = now + min(interval, config.max_rto)
        if retries == 0:
            self._syn_sent_at = now
        window = min(self.rcv.window.limit, 0xFFFF)  # RFC 7323 section 2.2: never scaled in a SYN
        flags, ack = (wire.SYN | _ACK, self.rcv.nxt) if answering else (wire.SYN, 0)
        self._transmit([self.snd.writer.control(self.snd.iss, ack, flags, window, self._syn_options(answering))])

    def _opened(self, now: float) -> None:
        """The handshake is complete."""
        snd = self.snd
        self._syn_due = None
        self._misc_at = None
        if self._syn_retries == 0:
            snd.rtt.sample(max(now - self._syn_sent_at, 1e-6), now)
        snd.last_progress = now
        self._fast = True
        self.flow.confirm(now)
        self._arm_keepalive(now)
        if self.listener is not None:
            self.listener.opened(self)
        self._notify()
        self._layer.want_flush(self)

    # ------------------------------------------------------------------ input
    def segment(
        self,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        tsval: int,
        tsecr: int,
        payload: memoryview | None,
        options: wire.Options,
        now: float,
    ) -> None:
        """One segment with a good checksum. Numbers as on the wire; `tsval` is -1 without timestamps option."""
        rcv = self.rcv
        if (
            self._fast
            and flags & _NOT_PSH == _ACK
            and seq == rcv.nxt & _MASK
            and not options.sack
            and (not self.ts_ok or (tsval >= 0 and not (tsval - rcv.ts_recent) & _HALF))
        ):
            snd = self.snd
            recovery = snd.recovery
            una = self._ack_pending if self._ack_pending >= 0 else recovery.una
            advance = (ack - una) & _MASK
            if advance <= recovery.nxt - una and (advance or payload is not None):
                if payload is not None:
                    length = len(payload)
                    end = rcv.nxt + length
                    if rcv.reassembly or end > rcv.window.edge:
                        self._arrived(seq, ack, flags, window, tsval, tsecr, payload, options, now)
                        return
                    rcv.queue.push(payload)
                    rcv.nxt = end
                    rcv.unacked += length
                    if length > rcv.mss:
                        rcv.mss = length
                    self._small = length < snd.mss
                if tsval >= 0:
                    rcv.ts_recent = tsval
                    rcv.ts_recent_at = now
                una += advance
                if advance:
                    self._ack_pending = una
                    self._ack_echo = tsecr if tsval >= 0 else None
                window <<= snd.scale
                snd.wl1 = seq = rcv.nxt
                snd.wl2 = una
                if window > snd.max_window:
                    snd.max_window = window
                snd.edge = una + window
                return
        self._arrived(seq, ack, flags, window, tsval, tsecr, payload, options, now)

    def _arrived(
        self,
        seq32: int,
        ack32: int,
        flags: int,
        window: int,
        tsval: int,
        tsecr: int,
        payload: memoryview | None,
        options: wire.Options,
        now: float,
    ) -> None:
        """RFC 9293 section 3.10.7: everything that header prediction did not settle."""
        if self._ack_pending >= 0:
            self._process_pending(now)
        state = self.state
        if state is State.SYN_SENT:
            self._arrived_in_syn_sent(seq32, ack32, flags, window, tsecr, payload, options, now)
            return
        if state is State.CLOSED or state is State.TIME_WAIT:
            return
        rcv, snd = self.rcv, self.snd
        recovery = snd.recovery
        text = payload if payload is not None else b""
        seq = rcv.nxt + ((seq32 - rcv.nxt + _HALF) & _MASK) - _HALF
        end = seq + len(text) + (1 if flags & wire.FIN else 0)
        ack = recovery.una + ((ack32 - recovery.una + _HALF) & _MASK) - _HALF

        # RFC 7323 section 5.3: PAWS comes before everything else, but a RST may lack or repeat a timestamp.
        if (
            self.ts_ok
            and tsval >= 0
            and (tsval - rcv.ts_recent) & _HALF
            and not flags & wire.RST
            and now - rcv.ts_recent_at < _PAWS_IDLE
        ):
            self._layer.count("paws")
            if end > seq:  # a pure ACK that another overtook is no reason to answer
                self._acknowledge_soon(seq, end)
            return
        # First: the sequence number.
        if state is State.SYN_RECEIVED and flags & wire.SYN and seq == rcv.irs:
            if flags & _ACK and ack == snd.iss + 1:
                # Simultaneous open: the peer's SYN-ACK crossed ours. Its ACK part is what counts.
                flags &= ~wire.SYN
                seq += 1
                end += 1
            else:
                self._syn_due = now  # our SYN-ACK was lost
                self._layer.want_flush(self)
                return
        edge = max(rcv.window.edge, rcv.nxt)
        room = edge - rcv.nxt
        if end == seq:
            acceptable = seq == rcv.nxt if room == 0 else rcv.nxt <= seq < edge
        else:
            acceptable = room > 0 and seq < edge and end > rcv.nxt
        if not acceptable:
            if flags & wire.RST:
                return
            if flags & wire.SYN:
                self._challenge(now)
                return
            if not (end == seq and seq == edge):
                self._acknowledge_soon(seq, end)
            # "Special allowance should be made to accept valid ACKs": a full window must not deafen us.
            if not (flags & _ACK and seq <= edge and seq > rcv.nxt - (1 << 30)):
                return
            if payload is not None:
                payload = None
            flags &= ~wire.FIN
        elif self.ts_ok and tsval >= 0 and seq <= rcv.nxt and not flags & wire.RST:
            rcv.ts_recent = tsval  # RFC 7323 section 4.3
            rcv.ts_recent_at = now
        # Second: RST (RFC 5961 section 3).
        if flags & wire.RST:
            if seq != rcv.nxt:
                self._challenge(now)
            else:
                self._reset_arrived()
            return
        # Third: security does not exist here. Fourth: SYN (RFC 5961 section 4).
        if flags & wire.SYN:
            self._challenge(now)
            return
        # Fifth: ACK.
        if not flags & _ACK:
            return
        if state is State.SYN_RECEIVED:
            if ack != snd.iss + 1:
                self._layer.send_reset(self.flow, self.local_port, self.remote_port, ack32, 0, 0)
                return
            snd.edge = ack + (window << snd.scale)
            snd.max_window = max(snd.max_window, window << snd.scale)
            snd.wl1, snd.wl2 = seq, ack
            shut = snd.fin_queued
            snd.fin_queued = False
            self._become(Event.RECEIVE_ACK_OF_SYN)
            self._opened(now)
            if shut:  # shut down while still opening
                self.shutdown()
            state = self.state
        if ack > recovery.nxt or ack < recovery.una - max(snd.max_window, 65535):
            self._challenge(now)  # RFC 5961 section 5
            return
        moved = snd.open_window(seq, ack, window << snd.scale) if ack >= recovery.una else False
        duplicate = ack == recovery.una and payload is None and not moved and recovery.flight > 0
        if ack > recovery.una or options.sack or duplicate:
            self._process_ack(ack, options.sack, tsecr if tsval >= 0 else None, duplicate, now)
            state = self.state
            if self.closed:
                return
        elif moved:
            self._layer.want_flush(self)
        if snd.persist_at is not None:
            snd.window_answered(now)
        if self._misc_at is not None and self.keepalive:
            self._arm_keepalive(now)
        # Sixth: URG is not supported; urgent data is data (RFC 6093 recommends not to use it).
        # Seventh: the text.
        if payload is not None and state in RECEIVES_TEXT:
            if self._closing and seq + len(payload) > rcv.nxt:
                # RFC 1122 section 4.2.2.13: data for nobody.
                self._send_reset()
                self._finish(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
                return
            length = len(payload)
            rcv.text(seq, payload)
            self._small = length < self.snd.mss
            if state is not State.ESTABLISHED:
                self._watch_fin_wait_2()
        # Eighth: FIN.
        if flags & wire.FIN and state in RECEIVES_TEXT and rcv.fin is None and end - 1 <= edge:
            rcv.fin = end - 1
            self._fast = False  # header prediction does not watch for a FIN that came before what precedes it
            rcv.ack_now = True
        if rcv.fin is not None and rcv.nxt == rcv.fin:
            rcv.nxt += 1
            rcv.ack_now = True
            rcv.reassembly.clear()
            self._become(Event.RECEIVE_FIN)
            self._notify()

    def _arrived_in_syn_sent(
        self,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        tsecr: int,
        payload: memoryview | None,
        options: wire.Options,
        now: float,
    ) -> None:
        """RFC 9293 section 3.10.7.3."""
        snd = self.snd
        good_ack = bool(flags & _ACK) and ack == (snd.iss + 1) & _MASK
        if flags & _ACK and not good_ack:
            if not flags & wire.RST:
                self._layer.send_reset(self.flow, self.local_port, self.remote_port, ack, 0, 0)
            return
        if flags & wire.RST:
            if good_ack:
                self._finish(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))
            return
        if not flags & wire.SYN:
            return
        self._take_syn(seq, options, now)
        snd.max_window = window  # never scaled in a SYN
        snd.edge = snd.iss + 1 + window
        snd.wl2 = snd.iss + 1
        if not good_ack:
            # Simultaneous open: both sent a SYN. Answer with SYN-ACK.
            self._become(Event.RECEIVE_SYN)
            self._syn_retries = 0
            self._syn_due = now
            self._layer.want_flush(self)
            return
        shut = snd.fin_queued
        snd.fin_queued = False
        self._become(Event.RECEIVE_SYN_ACK)
        self.rcv.ack_now = True
        self._opened(now)
        if shut:
            self.shutdown()
        # Text or FIN in a SYN-ACK is legal but unheard of; unacknowledged, the peer sends it again.

    def batch_end(self, now: float) -> None:
        """The batch is over: draw the conclusions that were put off."""
        self.touched = False
        if self._ack_pending >= 0:
            self._process_pending(now)
        rcv = self.rcv
        if rcv.unacked:
            rcv.decide(self.config.delayed_ack, now, self._small)
            self._notify()
        if rcv.queue.size:
            self._notify()
        if rcv.ack_now or rcv.delayed_at is not None:  # flush also enters the timer of a delayed acknowledgement
            self._layer.want_flush(self)

    def _process_pending(self, now: float) -> None:
        ack = self._ack_pending
        self._ack_pending = -1
        self._process_ack(ack, (), self._ack_echo, False, now)

    def _process_ack(
        self, ack: int, sack: tuple[tuple[int, int], ...], echo: int | None, duplicate: bool, now: float
    ) -> None:
        """The acknowledgement part of a segment, or of several in a row."""
        snd = self.snd
        recovery = snd.recovery
        una = recovery.una
        blocks: tuple[tuple[int, int], ...] = ()
        dsack = 0
        if sack and snd.sack_ok:
            blocks, dsack = self._sack_blocks(sack, max(ack, una))
        echo_rtt = 0.0
        if echo is not None and self.ts_ok:
            elapsed = (self._tsval(now) - echo) & _MASK
            if elapsed < _HALF:
                echo_rtt = elapsed / 1000 or 0.0005
        acked = recovery.acknowledged(
            max(ack, una),
            blocks,
            now,
            dup_acks=1 if duplicate else 0,
            echo=echo if self.ts_ok else None,
            echo_rtt=echo_rtt,
            dsack=dsack,
        )
        if acked:
            snd.acknowledged(recovery.una, now)
            self.flow.confirm(now)
            self._notify()
            if snd.fin_queued and recovery.una > snd.buffer.end:
                self._fin_acknowledged()
                if self.closed:
                    return
        self._layer.want_flush(self)

    def _sack_blocks(self, sack: tuple[tuple[int, int], ...], ack: int) -> tuple[tuple[tuple[int, int], ...], int]:
        """Unwrap SACK blocks; (those inside what is in flight, bytes that a DSACK block reports)."""
        nxt = self.snd.recovery.nxt
        blocks: list[tuple[int, int]] = []
        dsack = 0
        for position, (left32, right32) in enumerate(sack):
            left = ack + ((left32 - ack + _HALF) & _MASK) - _HALF
            right = left + ((right32 - left32) & _MASK)
            if left >= right or right > nxt:
                continue
            if position == 0 and (right <= ack or (len(sack) > 1 and self._inside(sack[1], left, right, ack))):
                dsack = right - left  # RFC 2883 section 4
            elif left >= ack:
                blocks.append((left, right))
        return tuple(blocks), dsack

    @staticmethod
    def _inside(block: tuple[int, int], left: int, right: int, ack: int) -> bool:
        low = ack + ((block[0] - ack + _HALF) & _MASK) - _HALF
        high = ack + ((block[1] - ack + _HALF) & _MASK) - _HALF
        return low <= left and right <= high

    def _fin_acknowledged(self) -> None:
        state = self.state
        if state in (State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK):
            self._become(Event.RECEIVE_ACK_OF_FIN)
            if self.state is State.FIN_WAIT_2:
                self._watch_fin_wait_2()

    def _reset_arrived(self) -> None:
        state = self.state
        if state is State.SYN_RECEIVED:
            if self.listener is not None:
                self._finish(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
            else:
                self._finish(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))
        elif state in (State.CLOSING, State.LAST_ACK) and not self.snd.buffer:
            self._finish(None)  # both directions were complete
        else:
            self._finish(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _challenge(self, now: float) -> None:
        """A challenge ACK (RFC 5961), rate-limited for the whole host (section 7)."""
        if self._layer.challenge_allowed(now):
            self._layer.count("challenge_acks")
            self._transmit([self._pure_ack(now)])

    def _acknowledge_soon(self, seq: int, end: int) -> None:
        rcv = self.rcv
        rcv.ack_now = True
        if end > seq and end <= rcv.nxt:
            rcv.dsack = (seq, min(end, rcv.nxt))
            rcv.duplicates += 1
        self._layer.want_flush(self)

    # ------------------------------------------------------------------ ICMP and the flow
    def unreachable(self, seq32: int, code: int, hard: bool) -> None:
        """ICMP unreachable, or the next hop does not answer.

        In SYN-SENT the attempt fails with the reason (RFC 5461 section 4); later it is only a hint, because anybody
        could have sent it and the network may heal (RFC 1122 section 4.2.3.9, RFC 5927 section 5.2).
        """
        if self.state is State.SYN_SENT or (self.state is State.SYN_RECEIVED and self.listener is None):
            if (seq32 - self.snd.iss) & _MASK <= 1:
                self._finish(OSError(code, os.strerror(code)))
        else:
            self._layer.count("icmp_soft")

    def in_flight(self, seq32: int) -> bool:
        """Whether a segment that began with `seq32` is on its way."""
        if self.state < State.ESTABLISHED:
            return seq32 == self.snd.iss & _MASK
        recovery = self.snd.recovery
        return (seq32 - recovery.una) & _MASK < max(recovery.flight, 1)

    def path_mtu_changed(self, seq32: int, now: float) -> None:
        """The flow's MTU was lowered because of a segment of ours (RFC 1191, RFC 8201; the flow has the new value)."""
        recovery = self.snd.recovery
        if self.state < State.ESTABLISHED:
            self._set_mss()
            return
        if (seq32 - recovery.una) & _MASK >= max(recovery.flight, 1):
            return  # RFC 5927 section 7.2: not about anything in flight
        if self._set_mss():
            recovery.resend_all(now)
            self._layer.want_flush(self)

    def _path_mss(self) -> int:
        mtu = self.flow.mtu if self._mtu_cap is None else min(self._mtu_cap, self.flow.mtu)
        return mtu - (40 if len(self.flow.local) == 4 else 60)

    def _set_mss(self) -> bool:
        """Recompute the segment size; True when it shrank."""
        self._flow_generation = self.flow.generation
        mss = min(self._path_mss(), self._peer_mss) - (12 if self.ts_ok else 0)
        mss = max(mss, _MIN_MSS - 12) & ~3
        old = self.snd.mss
        if mss == old:
            return False
        self.snd.mss = mss
        self.snd.recovery.set_mss(mss)
        return mss < old

    def _black_hole(self, now: float) -> None:
        """Full-size segments time out again and again: perhaps the path drops them in silence (RFC 2923, RFC 4821)."""
        mtu = self._path_mss() + (40 if len(self.flow.local) == 4 else 60)
        floor = 1280 if len(self.flow.local) == 16 else _BLACK_HOLE_STEPS[-1]
        for step in _BLACK_HOLE_STEPS:
            if floor <= step < mtu:
                self._mtu_cap = step
                self._mtu_cap_until = now + self._mtu_hold
                self._mtu_hold = min(2 * self._mtu_hold, _BLACK_HOLE_HOLD_MAX)
                self._layer.count("path_mtu_black_hole")
                self._set_mss()
                return

    # ------------------------------------------------------------------ output
    def _tsval(self, now: float) -> int:
        return (int(now * 1000) + self.timestamp_offset) & _MASK

    def _options(self, now: float) -> bytes:
        if not self.ts_ok:
            return b""
        return _PACK_TIMESTAMPS(wire.TIMESTAMPS_WORD, self._tsval(now), self.rcv.ts_recent)

    def _window(self) -> int:
        rcv = self.rcv
        return rcv.window.announce(rcv.nxt, rcv.queue.size, rcv.mss, rcv.scale)

    def _pure_ack(self, now: float, sack: bytes = b"") -> Frame:
        return self.snd.writer.control(
            self.snd.recovery.nxt, self.rcv.nxt, _ACK, self._window(), self._options(now) + sack
        )

    def _send_reset(self) -> None:
        snd = self.snd
        if self.state >= State.SYN_RECEIVED:
            flags = wire.RST | _ACK
            self._transmit([snd.writer.control(snd.recovery.nxt, self.rcv.nxt, flags, 0, b"")])
            self._layer.count("resets_sent")

    def _transmit(self, frames: list[Frame]) -> None:
        self.flow.send(frames)

    def flush(self, now: float) -> None:
        """Send what there is to send."""
        state = self.state
        if self._syn_due is not None:
            if self._syn_due <= now:
                self._send_syn(now)
            return
        if state is State.CLOSED:
            return
        rcv = self.rcv
        frames: list[Frame] = []
        if state in SENDS_TEXT:
            snd = self.snd
            if self._flow_generation != self.flow.generation:
                self._set_mss()
            if self._mtu_cap is not None and now >= self._mtu_cap_until:
                self._mtu_cap = None
                self._set_mss()
            recovery = snd.recovery
            if (
                recovery.nxt < snd.buffer.end
                or recovery.board.lost
                or (snd.fin_queued and recovery.nxt == snd.buffer.end)
                or snd.persist_at is not None
            ):
                window = self._window()
                snd.output(frames, rcv.nxt, window, self._options(now), self._tsval(now), now)
                if frames:
                    rcv.sent_with_data()
            recovery.output_una = recovery.una
        if rcv.ack_now:
            recovery = self.snd.recovery
            window = self._window()
            options = self._options(now)
            writer = self.snd.writer
            for sack in rcv.acknowledgements(recovery.sack_ok):
                frames.append(writer.control(recovery.nxt, rcv.nxt, _ACK, window, options + sack))
        if frames:
            self.flow.send(frames)

    # ------------------------------------------------------------------ timers
    def next_deadline(self) -> float | None:
        """The earliest of our timers."""
        snd = self.snd
        due = snd.recovery.deadline
        for other in (self.rcv.delayed_at, snd.persist_at, self._misc_at, self._syn_due):
            if other is not None and (due is None or other < due):
                due = other
        return due

    def handle_timer(self, now: float) -> None:
        """Whatever is due."""
        if self.state is State.CLOSED or self.state is State.TIME_WAIT:
            return
        rcv, snd = self.rcv, self.snd
        if self._misc_at is not None and self._misc_at <= now and not self._misc_timer(now):
            return
        if self._syn_due is not None and self._syn_due <= now and not self._syn_timer(now):
            return
        if rcv.delayed_at is not None and rcv.delayed_at <= now:
            rcv.on_delayed_ack()
        frames: list[Frame] = []
        recovery = snd.recovery
        if recovery.deadline is not None and recovery.deadline <= now and not self._retransmission_timer(frames, now):
            return
        if snd.persist_at is not None and snd.persist_at <= now:
            if now - snd.persist_since > self.config.user_timeout:
                self._timed_out()
                return
            snd.on_persist(frames, rcv.nxt, self._window(), self._options(now), now)
        if frames:
            self._transmit(frames)
        self._layer.want_flush(self)

    def _syn_timer(self, now: float) -> bool:
        self._syn_retries += 1
        if self.state is State.SYN_RECEIVED and self._syn_retries > _SYN_ACK_RETRIES:
            self._timed_out()
            return False
        return True  # flush repeats it

    def _retransmission_timer(self, frames: list[Frame], now: float) -> bool:
        snd, recovery = self.snd, self.snd.recovery
        timer = recovery.timer
        if timer == Timer.REORDER:
            recovery.on_reorder_timer(now)
            return True
        if timer == Timer.TAIL_PROBE:
            snd.tail_probe(frames, self.rcv.nxt, self._window(), self._options(now), self._tsval(now), now)
            return True
        if now - snd.last_progress > self.config.user_timeout:
            self._timed_out()
            return False
        recovery.on_timeout(now)
        if recovery.consecutive_timeouts >= _BLACK_HOLE_TIMEOUTS and recovery.flight >= snd.mss:
            self._black_hole(now)
        return True

    def _misc_timer(self, now: float) -> bool:
        """Connect timeout, FIN-WAIT-2 or keep-alive, whichever the state has."""
        state = self.state
        self._misc_at = None
        if state is State.SYN_SENT or state is State.SYN_RECEIVED:
            self._timed_out()
            return False
        if state is State.FIN_WAIT_2 and self._closing:
            self._finish(None)
            return False
        if self.keepalive:
            return self._keepalive_timer(now)
        return True

    def _arm_keepalive(self, now: float) -> None:
        if self.keepalive:
            self._keepalive_sent = 0
            self._misc_at = now + self.config.keepalive_idle

    def _keepalive_timer(self, now: float) -> bool:
        config = self.config
        remaining = config.keepalive_idle - (now - max(self.rcv.arrived_at, self.snd.last_progress))
        if remaining > 0.001 and not self._keepalive_sent:
            self._misc_at = now + remaining
            return True
        if self._keepalive_sent >= config.keepalive_probes:
            self._timed_out()
            return False
        self._keepalive_sent += 1
        self._misc_at = now + config.keepalive_interval
        self._transmit([self.snd.probe(self.rcv.nxt, self._window(), self._options(now))])
        return True

    def _watch_fin_wait_2(self) -> None:
        """Nobody reads any more: do not wait for the peer's FIN for ever."""
        if self._closing and self.state is State.FIN_WAIT_2:
            self._misc_at = self._layer.now + self.config.fin_wait_2_timeout
            self._layer.want_flush(self)

    # ------------------------------------------------------------------ the end
    def _become(self, event: Event) -> None:
        state = self.state = next_state(self.state, event)
        self._fast = state is State.ESTABLISHED or (state is State.FIN_WAIT_2 and not self._closing)
        if state is State.TIME_WAIT:
            self._layer.enter_time_wait(self)
            self._end_timers()
            self._notify()
        elif state is State.CLOSED and event is Event.RECEIVE_ACK_OF_FIN:
            self._finish(None)

    def _end_timers(self) -> None:
        self.rcv.delayed_at = None
        self.snd.persist_at = None
        self.snd.recovery.deadline = None
        self._misc_at = None
        self._syn_due = None

    def _timed_out(self) -> None:
        if self.state > State.SYN_RECEIVED:
            self._send_reset()
        self._finish(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def fail(self, error: OSError) -> None:
        """The network went away."""
        if not self.closed:
            self._finish(error)

    def _finish(self, error: OSError | None) -> None:
        """CLOSED: no timers, no memory, out of the tables."""
        if self.state is not State.CLOSED:
            self.state = next_state(self.state, Event.RESET)
        if error is not None:
            self.error = error
        self._fast = False
        self._ack_pending = -1
        self._end_timers()
        self.snd.buffer.acknowledge(self.snd.buffer.end)
        self.rcv.reassembly.clear()
        self._layer.remove(self)
        if self.listener is not None:
            self.listener.failed(self)
        self._notify()

    def _notify(self) -> None:
        if not self.noticed:
            self._layer.notify(self)
