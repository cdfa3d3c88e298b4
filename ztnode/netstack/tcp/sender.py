"""The sending half of a connection: buffer, peer's window, Nagle, silly-window avoidance, segmenting.

``Recovery`` says what is lost and how much congestion control allows; this decides what goes out and builds it.
"""

from __future__ import annotations

from typing import Final

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.framing import HeaderFields, SegmentWriter
from ztnode.netstack.tcp.pacing import Pacer
from ztnode.netstack.tcp.recovery import Recovery
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.send_buffer import SendBuffer
from ztnode.wire import tcp as wire

_ACK: Final = wire.ACK
_ACK_PSH: Final = wire.ACK | wire.PSH
_UNPACED: Final = Pacer()
"""Of all whose congestion control has no rate: nobody asks it."""
_MAX_PERSIST: Final = 60.0
_MIN_PERSIST: Final = 0.2


class Sender:
    """What is to be sent. Sequence numbers are unwrapped; ``iss`` is our initial one."""

    __slots__ = (
        "_pacer",
        "buffer",
        "edge",
        "fin_queued",
        "iss",
        "last_progress",
        "last_sent",
        "max_window",
        "nodelay",
        "paced_at",
        "persist_at",
        "persist_backoff",
        "persist_since",
        "recovery",
        "rtt",
        "scale",
        "small_end",
        "wl1",
        "wl2",
        "writer",
    )

    def __init__(self, iss: int, writer: SegmentWriter, rtt: RttEstimator, cc: CongestionControl) -> None:
        self.iss = iss
        self.writer = writer
        self.rtt = rtt
        self.buffer = SendBuffer(iss + 1)
        self.recovery = Recovery(cc, rtt, iss + 1)
        self.edge = iss + 1
        """Right edge of the peer's window."""
        self.scale = 0
        self.max_window = 0
        self.wl1 = 0
        self.wl2 = iss
        self.nodelay = True
        self.fin_queued = False
        self.last_progress = 0.0
        """When something was last acknowledged, or nothing was outstanding."""
        self.last_sent = 0.0
        self.persist_at: float | None = None
        self.persist_backoff = 0
        self.persist_since = 0.0
        """When the peer last answered while its window was closed."""
        self.paced_at: float | None = None
        """When to send on, if it is the pace that holds us back."""
        self._pacer = Pacer() if cc.model_based else _UNPACED
        self.small_end = iss + 1
        """Where the last segment that was no full one ended."""

    @property
    def mss(self) -> int:
        """Payload bytes of a full segment: path MTU less headers and timestamps, at most what the peer announced."""
        return self.recovery.cc.mss

    def open_window(self, seq: int, ack: int, window: int) -> bool:
        """Take over the window of a segment, unless an older one overtook it (RFC 9293 section 3.10.7.4).

        ``window`` is in bytes. Returns whether the right edge moved.
        """
        if self.wl1 < seq or (self.wl1 == seq and self.wl2 <= ack):
            self.wl1 = seq
            self.wl2 = ack
            edge = ack + window
            if window > self.max_window:
                self.max_window = window
            if edge != self.edge:
                self.edge = edge
                if window:
                    self.persist_backoff = 0
                return True
        return False

    def acknowledged(self, una: int, now: float) -> None:
        """The peer has everything before ``una``: free it."""
        buffer = self.buffer
        self.last_progress = now
        end = buffer.end
        buffer.acknowledge(una if una < end else end)

    # --- output ---
    def emit(self, start: int, end: int, fields: HeaderFields) -> list[Frame]:
        """Frames for [start, end), FIN included when the range covers it."""
        buffer = self.buffer
        stop = buffer.end
        fin = end > stop
        if start >= stop:
            return [self.writer.control(start, wire.FIN | _ACK, fields)]
        last = _ACK_PSH | wire.FIN if fin else (_ACK_PSH if end == stop else _ACK)
        payloads = buffer.cut(start, stop if fin else end, self.recovery.cc.mss)
        return self.writer.data(payloads, start, _ACK, last, fields)

    def output(self, frames: list[Frame], fields: HeaderFields, now: float) -> None:
        """Append what may be sent now: retransmissions first, then new data and the FIN."""
        recovery = self.recovery
        self.paced_at = None
        if recovery.board.lost and not recovery.prefers_new_data:
            self._retransmit(frames, fields, now)
        buffer = self.buffer
        nxt = recovery.nxt
        end = buffer.end
        if nxt < end:
            self._new_data(frames, fields, now)
            nxt = recovery.nxt
        if nxt >= end:
            recovery.ran_dry()
        if self.fin_queued and nxt == end and (nxt < self.edge or recovery.flight == 0):
            # Data exhausted: the FIN. (The peer must take it whatever its window is when nothing else is outstanding.)
            frames.extend(self.emit(nxt, nxt + 1, fields))
            recovery.sent_new(nxt + 1, now)
            self.last_sent = now
        if recovery.prefers_new_data:
            recovery.prefers_new_data = False
            if recovery.nxt == recovery.point:
                recovery.abandon_frto()
                self._retransmit(frames, fields, now)
        if self.paced_at is not None:
            due = self._pacer.due
            self.paced_at = due if due > now else None  # otherwise it was the peer's window that held us back
        self._watch_window(now)

    def _allowance(self, now: float) -> int:
        """Bytes that congestion control allows to send now: by the window, and where there is a rate by the clock."""
        recovery = self.recovery
        allowance = recovery.allowance()
        rate = recovery.cc.pacing_rate
        if rate is not None and allowance > 0:
            room = self._pacer.room(rate, recovery.cc.mss, now)
            if room < allowance:
                self.paced_at = now  # ``output`` says when in the end
                return room
        return allowance

    def _sent(self, length: int, now: float) -> None:
        self.last_sent = now
        rate = self.recovery.cc.pacing_rate
        if rate is not None:
            self._pacer.sent(length, rate, now)

    def _retransmit(self, frames: list[Frame], fields: HeaderFields, now: float) -> None:
        recovery = self.recovery
        mss = recovery.cc.mss
        while True:
            span = recovery.next_retransmission()
            if span is None:
                return
            allowance = self._allowance(now)
            if allowance < mss and not recovery.force_retransmit and allowance < span[1] - span[0]:
                return
            start = span[0]
            length = span[1] - start
            room = max(allowance // mss * mss, mss) if not recovery.force_retransmit else mss
            if length > room:
                length = room
            frames.extend(self.emit(start, start + length, fields))
            recovery.sent_again(start, start + length, now, fields.tsval)
            self._sent(length, now)

    def _new_data(self, frames: list[Frame], fields: HeaderFields, now: float) -> None:
        recovery = self.recovery
        nxt = recovery.nxt
        mss = recovery.cc.mss
        pending = self.buffer.end - nxt
        flight = nxt - recovery.una
        if flight == 0 and now - self.last_sent > self.rtt.rto and self.last_sent:
            recovery.cc.on_idle()
        offered = self.edge - nxt
        allowance = self._allowance(now)
        usable = offered if offered < allowance else allowance
        if pending <= usable:
            length = pending
            tail = length % mss
            # Nagle's algorithm, where the owner asks for it, in Minshall's form: a small segment waits only for an
            # earlier small one, so that the end of a large write never waits.
            if tail and not self.nodelay and not self.fin_queued and recovery.una < self.small_end:
                length -= tail
        else:
            length = usable // mss * mss if usable > 0 else 0
            # RFC 9293 section 3.8.6.2.1: at least half of the largest window ever offered is worth a segment.
            if length == 0 and flight == 0 and 0 < offered < mss and self.max_window <= offered * 2 <= 2 * allowance:
                length = offered
            if allowance < offered:
                recovery.limited_point = nxt + length
        if length <= 0:
            return
        end = nxt + length
        if length % mss:
            self.small_end = end
        if self.fin_queued and end == self.buffer.end:
            end += 1  # the FIN travels with the last data
        frames.extend(self.emit(nxt, end, fields))
        if flight == 0:
            self.last_progress = now
        recovery.sent_new(end, now)
        self._sent(length, now)

    # --- zero window ---
    def _watch_window(self, now: float) -> None:
        """Start or stop the persist timer (RFC 9293 section 3.8.6.1): data waits, nothing is in flight to ask with."""
        recovery = self.recovery
        if recovery.nxt < self.buffer.end and recovery.nxt == recovery.una and self.paced_at is None:
            if self.persist_at is None:
                self.persist_since = now
                self.persist_at = now + self._persist_interval()
        else:
            self.persist_at = None
            self.persist_backoff = 0

    def _persist_interval(self) -> float:
        base = max(self.rtt.rto_base, _MIN_PERSIST)
        return min(base * (1 << min(self.persist_backoff, 12)), _MAX_PERSIST)

    def window_answered(self, now: float) -> None:
        """The peer lives, its window is still closed."""
        self.persist_since = now

    def on_persist(self, frames: list[Frame], fields: HeaderFields, now: float) -> None:
        """The persist timer: send what a small window takes, or ask with an empty segment that the peer has to answer.

        The empty segment carries the sequence number before the window, as keep-alives do (RFC 1122 section 4.2.3.6):
        unlike a byte of data beyond the window it leaves nothing behind to be retransmitted.
        """
        recovery = self.recovery
        offered = min(self.edge - recovery.nxt, recovery.cc.mss)
        if offered > 0:
            end = min(recovery.nxt + offered, self.buffer.end)
            frames.extend(self.emit(recovery.nxt, end, fields))
            recovery.sent_new(end, now)
            self.persist_at = None
            return
        frames.append(self.probe(fields))
        self.persist_backoff += 1
        self.persist_at = now + self._persist_interval()

    def probe(self, fields: HeaderFields) -> Frame:
        """An empty segment that the peer has to answer: window probe and keep-alive."""
        return self.writer.control(self.recovery.una - 1, _ACK, fields)

    def tail_probe(self, frames: list[Frame], fields: HeaderFields, now: float) -> None:
        """RFC 8985 section 7.3: one new segment if there is one, else the last one again."""
        recovery = self.recovery
        nxt = recovery.nxt
        new = min(self.buffer.end - nxt, recovery.cc.mss, self.edge - nxt)
        if new > 0:
            frames.extend(self.emit(nxt, nxt + new, fields))
            recovery.sent_new(nxt + new, now)
            recovery.tail_probe_sent(retransmitted=False)
        else:
            span = recovery.full_board().last_sent_range()
            if span is not None:
                start = max(span[0], span[1] - recovery.cc.mss)
                frames.extend(self.emit(start, span[1], fields))
                recovery.sent_again(start, span[1], now, fields.tsval)
                recovery.tail_probe_sent(retransmitted=True)
        recovery.arm_rto(now)
        self.last_sent = now
