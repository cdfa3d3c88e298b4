"""The sending half's judgement: what was lost, what may be sent now, when to try again.

Loss is found by time, not by counting (RACK-TLP, RFC 8985); a peer without SACK is served by counting duplicate
acknowledgements (RFC 5681, RFC 6582) mapped on the same scoreboard. How much may be sent during recovery is PRR's
(RFC 9937). A retransmission that turns out to have been unnecessary is taken back: F-RTO (RFC 5682), Eifel by
timestamps (RFC 3522, 4015) and DSACK (RFC 3708).

The connection calls `acknowledged` once per batch where the acknowledgements allow it, asks `allowance` and
`next_retransmission` before sending, and reports what it sent.
"""

from __future__ import annotations

import enum

from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.delivery_rate import DeliveryRate, Stamp
from ztnode.netstack.tcp.prr import ProportionalRateReduction
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.scoreboard import LOST, SACKED, Scoreboard

_DUP_THRESHOLD = 3
_MAX_DELAYED_ACK = 0.2
"""RFC 8985 section 7.2: what a peer may delay the ACK of a lone segment by."""
_REORDER_FLOOR = 0.001
"""A reordering window below this is noise of batching."""
_PERSIST_RECOVERIES = 16  # RFC 8985 section 6.2 step 4


class Phase(enum.IntEnum):
    """OPEN: nothing known to be lost. RECOVERY: fast recovery. LOSS: after a retransmission timeout."""

    OPEN = 0
    RECOVERY = 1
    LOSS = 2


class Timer(enum.IntEnum):
    """What the one retransmission deadline is for."""

    NONE = 0
    RTO = 1
    TAIL_PROBE = 2
    REORDER = 3


class Recovery:
    """Loss detection, recovery and their timer for one connection. Sequence numbers are unwrapped."""

    __slots__ = (
        "_dup_acks",
        "_first_retransmission",
        "_frto",
        "_probe_end",
        "_probe_retransmitted",
        "_prr",
        "_rack_end",
        "_rack_rtt",
        "_rack_sent",
        "_rate",
        "_reo_mult",
        "_reo_persist",
        "_reo_round",
        "_reordering_seen",
        "_rto_from",
        "_undo_possible",
        "_undo_retransmits",
        "board",
        "cc",
        "consecutive_timeouts",
        "deadline",
        "fast_recoveries",
        "force_retransmit",
        "limited_point",
        "mss",
        "nxt",
        "output_una",
        "phase",
        "point",
        "prefers_new_data",
        "recovery_probes",
        "retransmits",
        "rtt",
        "sack_ok",
        "spurious",
        "timeouts",
        "timer",
        "una",
    )

    def __init__(self, cc: CongestionControl, rtt: RttEstimator, una: int, mss: int, *, sack_ok: bool) -> None:
        self.cc = cc
        self.rtt = rtt
        self.una = una
        self.nxt = una
        self.mss = mss
        self.sack_ok = sack_ok
        self.board = Scoreboard(una)
        self.phase = Phase.OPEN
        self.point = una - 1
        """Recovery is over when everything before this is acknowledged (RFC 6675's RecoveryPoint)."""
        self.timer = Timer.NONE
        self.deadline: float | None = None
        self.limited_point = una
        """Up to here the congestion window held sending back: it may grow while this is being acknowledged."""
        self.force_retransmit = False
        self.output_una = una
        """`una` when the connection last had the chance to send: all that came since is one batch."""
        self.consecutive_timeouts = 0
        self._dup_acks = 0
        # RACK
        self._rack_sent = -1.0
        self._rack_end = 0
        self._rack_rtt = 0.0
        self._reordering_seen = False
        self._reo_mult = 1
        self._reo_persist = _PERSIST_RECOVERIES
        self._reo_round = una
        # TLP
        self._probe_end: int | None = None
        self._probe_retransmitted = False
        self._prr: ProportionalRateReduction | None = None
        """Minds the window during fast recovery, unless the algorithm does."""
        self._rate = DeliveryRate() if cc.model_based else None
        # Undo
        self._undo_possible = False
        self._undo_retransmits = 0
        self._first_retransmission: tuple[int, int] | None = None
        """Where the first retransmission of this episode began, and the timestamp that it carried."""
        self._frto = False
        self.prefers_new_data = False
        """F-RTO's second step is under way: new data goes before retransmissions."""
        self._rto_from = 0.0
        # Figures
        self.retransmits = 0
        self.timeouts = 0
        self.fast_recoveries = 0
        self.recovery_probes = 0
        self.spurious = 0

    # --- what may be sent ---
    @property
    def flight(self) -> int:
        """Bytes sent and not cumulatively acknowledged."""
        return self.nxt - self.una

    @property
    def pipe(self) -> int:
        """Bytes deemed to be in the network (RFC 6675 section 4)."""
        board = self.board
        pipe = self.nxt - self.una - board.sacked - board.lost
        if not self.sack_ok and self._dup_acks:
            pipe = max(pipe - self._dup_acks * self.mss, 0)
        return pipe

    def allowance(self) -> int:
        """Bytes that congestion control allows to send now; may be negative."""
        return self.cc.cwnd - self.pipe

    def next_retransmission(self) -> tuple[int, int] | None:
        """The next lost range, lowest first."""
        return self.board.next_lost() if self.board.lost else None

    # --- what was sent ---
    def sent_new(self, end: int, now: float) -> None:
        """[nxt, end) went out for the first time."""
        if self.nxt == self.una:
            self._rto_from = now
        stamp = self._rate.stamp(self.pipe, now) if self._rate is not None else None
        self.board.transmitted(self.nxt, end, now, stamp)
        if self._prr is not None:
            self._prr.sent(end - self.nxt)
        self.nxt = end
        self._arm(now, restart=False)

    def sent_again(self, start: int, end: int, now: float, tsval: int) -> None:
        """[start, end) was retransmitted; `tsval` is the timestamp that it carried."""
        stamp = self._rate.stamp(self.pipe, now) if self._rate is not None else None
        self.board.retransmitted(start, end, now, stamp)
        self.retransmits += 1
        self._undo_retransmits += end - start
        if self._first_retransmission is None:
            self._first_retransmission = start, tsval
        if self._prr is not None:
            self._prr.sent(end - start)
        self.force_retransmit = False
        self._arm(now, restart=False)

    # --- what was acknowledged ---
    def acknowledged(
        self,
        ack: int,
        blocks: tuple[tuple[int, int], ...],
        now: float,
        *,
        dup_acks: int = 0,
        echo: int | None = None,
        echo_rtt: float = 0.0,
        dsack: int = 0,
    ) -> int:
        """Process an acknowledgement, or the sum of several cumulative ones.

        `blocks`: SACK blocks inside [una, nxt), unwrapped. `dup_acks`: how many duplicate ACKs (RFC 5681 section 2)
        this stands for, which only counts for a peer without SACK. `echo`: TSecr, `echo_rtt` what it says about the
        round-trip time (0.0: nothing). `dsack`: how many bytes the peer reported to have twice (RFC 2883). Returns how
        many bytes were newly acknowledged cumulatively.
        """
        board = self.board
        board.begin()
        before = una = self.una
        acked = ack - una
        lost_before = board.lost
        if acked > 0:
            board.acknowledge(ack)
            self.una = una = ack
            self.consecutive_timeouts = 0
        if blocks:
            for start, end in sorted(blocks):
                if end > una:
                    board.sack(start if start > una else una, end)
        delivered = board.delivered
        rtt = 0.0
        if delivered:
            if board.newest_original >= 0.0:
                rtt = now - board.newest_original
                self.rtt.sample(rtt, now)
            elif echo_rtt > 0.0:
                self.rtt.sample(echo_rtt, now)  # RFC 7323 section 4: a timestamp tells which transmission it was
            self._rack_update(now, echo_rtt, advanced=acked > 0)
        if dsack:
            self._duplicate_reported(dsack)
        if board.reordered:
            self._reordering_seen = True
        if self._probe_end is not None:
            self._tail_probe_answered(ack, blocks, dsack, dup_acks, now)
        if self.phase != Phase.OPEN and self._is_spurious(echo, acked, before):
            self._undo(now)
        if not self.sack_ok:
            self._without_sack(acked, dup_acks)
        else:
            self._detect(now)
        if self.phase == Phase.OPEN:
            if board.lost:
                self._enter_recovery(now, self.nxt - self.output_una)
                self._proportional(delivered, acked, False)
            elif acked > 0 and (before < self.limited_point or self._slow_start_used(acked)):
                self.cc.on_ack(acked, una, self.nxt, rtt, now, self.rtt.smoothed)
        elif self.una >= self.point:
            self._leave(now, self.nxt - self.output_una)
        elif self.phase == Phase.RECOVERY:
            self._proportional(delivered, acked, board.lost > lost_before)
        else:
            self._after_timeout(acked, delivered, rtt, now)
        if self._rate is not None and board.newest_stamp is not None:
            self._sample(self._rate, board.newest_stamp, rtt, now)
        self._arm(now, restart=acked > 0 or delivered > 0)
        return acked

    def _sample(self, rate: DeliveryRate, stamp: Stamp, rtt: float, now: float) -> None:
        """Tell the algorithm what this acknowledgement says about the path."""
        board, estimator = self.board, self.rtt
        sample = rate.sample(
            board.delivered,
            stamp,
            board.newest_sent,
            board.lost_ever,
            now,
            rtt=rtt,
            srtt=estimator.srtt or 0.0,
            min_rtt=estimator.min_rtt,
        )
        self.cc.on_sample(sample, self.pipe, now)
        if self.cc.limits_itself:
            rate.ran_dry(self.pipe)

    def ran_dry(self) -> None:
        """All that there is was sent, and the window would allow more: the rate to be measured is not the path's."""
        if self._rate is not None and not self.board.lost and self.pipe < self.cc.cwnd:
            self._rate.ran_dry(self.pipe)

    def _slow_start_used(self, acked: int) -> bool:
        """RFC 7661's idea, as the kernel does it: in slow start half of the window in use is reason to let it grow."""
        cc = self.cc
        return cc.cwnd < cc.ssthresh and 2 * (self.nxt - self.una + acked) > cc.cwnd

    # --- RACK (RFC 8985 section 6) ---
    def _rack_update(self, now: float, echo_rtt: float, *, advanced: bool) -> None:
        board = self.board
        sent, end = board.newest_sent, board.newest_end
        rtt = now - sent
        if board.newest_retransmitted:
            # Step 2: what if this acknowledges the first transmission? Before a hole the echo says nothing about that:
            # it is the timestamp of the last segment in order (RFC 7323 section 4.3), however old, and to believe it
            # there would leave every lost retransmission but the last to the timeout.
            told = advanced and echo_rtt > 0.0
            if echo_rtt > rtt + 0.002 if told else rtt < self.rtt.min_rtt:
                return
        self._rack_rtt = rtt
        if sent > self._rack_sent or (sent == self._rack_sent and end > self._rack_end):
            self._rack_sent = sent
            self._rack_end = end

    def _reordering_window(self) -> float:
        if not self._reordering_seen and (
            self.phase != Phase.OPEN or self.board.sacked > (_DUP_THRESHOLD - 1) * self.mss
        ):
            return 0.0
        min_rtt = self.rtt.min_rtt
        if min_rtt == float("inf"):
            return _REORDER_FLOOR
        return max(min(self._reo_mult * min_rtt / 4, self.rtt.smoothed), _REORDER_FLOOR)

    def _detect(self, now: float) -> float | None:
        """Mark what is overdue as lost; when to look again, if something is nearly overdue."""
        board = self.board
        sentinel = board.sentinel
        rack_sent, rack_end = self._rack_sent, self._rack_end
        span = sentinel.after
        if span is sentinel or span.sent > rack_sent:
            return None
        patience = self._rack_rtt + self._reordering_window()
        while span is not sentinel:
            sent = span.sent
            if sent > rack_sent or (sent == rack_sent and span.end > rack_end):
                return None
            due = sent + patience
            if due > now:
                return due
            following = span.after
            board.mark_lost(span)
            span = following
        return None

    def _duplicate_reported(self, length: int) -> None:
        """The peer got something twice: widen the reordering window, once per round trip (section 6.2 step 4)."""
        self._undo_retransmits -= length
        if self.una >= self._reo_round:
            self._reo_round = self.nxt
            self._reo_mult = min(self._reo_mult + 1, 16)
            self._reo_persist = _PERSIST_RECOVERIES

    # --- tail loss probe (RFC 8985 section 7) ---
    def _probe_timeout(self) -> float:
        srtt = self.rtt.srtt
        if srtt is None:
            return self.rtt.rto
        timeout = 2 * srtt + 0.002
        if self.flight <= self.mss:
            timeout += _MAX_DELAYED_ACK
        return min(timeout, self.rtt.rto)

    def tail_probe_sent(self, *, retransmitted: bool) -> None:
        """A probe went out: new data, or a repetition of the last segment."""
        self._probe_end = self.nxt
        self._probe_retransmitted = retransmitted
        self.recovery_probes += 1

    def _tail_probe_answered(
        self, ack: int, blocks: tuple[tuple[int, int], ...], dsack: int, dup_acks: int, now: float
    ) -> None:
        """RFC 8985 section 7.4.2: tell whether the probe repaired a loss, which then counts as congestion."""
        end = self._probe_end
        assert end is not None
        if not self._probe_retransmitted:
            if ack >= end:
                self._probe_end = None
            return
        if dsack and ack >= end:
            self._probe_end = None  # both the original and the probe arrived
        elif ack > end:
            self._probe_end = None
            self._probe_loss(now)
        elif ack == end and not blocks and dup_acks:
            self._probe_end = None  # a duplicate ACK for the probe: nothing was lost

    def _probe_loss(self, now: float) -> None:
        if self.phase == Phase.OPEN:
            self.cc.on_congestion(self.flight, now)
            self.cc.on_recovered(after_timeout=False)

    # --- without SACK (RFC 5681, RFC 6582) ---
    def _without_sack(self, acked: int, dup_acks: int) -> None:
        board = self.board
        if acked > 0:
            self._dup_acks = max(0, self._dup_acks - acked // self.mss) if self.phase != Phase.OPEN else 0
            if self.phase == Phase.RECOVERY and self.una < self.point and not board.lost:
                # Partial acknowledgement: the next segment is missing as well.
                board.mark_range_lost(self.una, min(self.una + self.mss, self.nxt))
                self.force_retransmit = True
            return
        if dup_acks and self.flight:
            self._dup_acks = min(self._dup_acks + dup_acks, self.flight // self.mss + 1)
            # RFC 6582 section 3.2 step 1: only past the last recovery point, or a lost retransmission begins another.
            if self.phase == Phase.OPEN and self._dup_acks >= _DUP_THRESHOLD and self.una > self.point:
                board.mark_range_lost(self.una, min(self.una + self.mss, self.nxt))

    # --- fast recovery ---
    def _enter_recovery(self, now: float, flight: int) -> None:
        """`flight`: what was outstanding when we last could send.

        The acknowledgements since then are one batch. Taking what they left outstanding for FlightSize (RFC 5681
        section 3.1, RFC 9937's RecoverFS) would make one loss at the end of a batch look like a collapsed window.
        """
        self.phase = Phase.RECOVERY
        if self._reo_persist > 0:
            self._reo_persist -= 1
        else:
            self._reo_mult = 1
        if self.sack_ok:
            self._detect(now)  # the reordering window closes when recovery begins (RFC 8985 section 6.2 step 4)
        self.point = self.nxt
        self.fast_recoveries += 1
        self._begin_episode()
        self.cc.on_congestion(flight, now)
        self.force_retransmit = True
        if not self.cc.model_based:
            self._prr = ProportionalRateReduction(max(flight, self.mss))
            self.cc.cwnd = self.pipe + self.mss

    def _begin_episode(self) -> None:
        self._undo_possible = True
        self._undo_retransmits = 0
        self._first_retransmission = None
        self._probe_end = None
        self.board.watch = self.nxt

    def _proportional(self, delivered: int, acked: int, more_lost: bool) -> None:
        if self._prr is not None:
            safe = acked > 0 and not more_lost
            self.cc.cwnd = self._prr.window(self.pipe, self.cc.ssthresh, self.mss, delivered, safe=safe)

    def _leave(self, now: float, flight: int) -> None:
        self.cc.on_recovered(after_timeout=self.phase == Phase.LOSS)
        self._prr = None
        self.phase = Phase.OPEN
        self._dup_acks = 0
        self._frto = False
        self._undo_possible = False
        self._first_retransmission = None
        self.force_retransmit = False
        if self.board.lost:
            self._enter_recovery(now, flight)

    # --- timeout ---
    def on_timeout(self, now: float) -> None:
        """The retransmission timer expired (RFC 6298 section 5.4-5.6, RFC 8985 section 6.3): all is lost."""
        first = self.phase != Phase.LOSS
        self.timeouts += 1
        self.consecutive_timeouts += 1
        if self.board.sacked and self.board.first_unsacked() is None:
            self.board.renege()  # the peer would have acknowledged a SACKed segment that has become the first
        if first:
            # F-RTO is for the first timeout, and only when fast recovery did not already repeat things.
            self._frto = self.phase == Phase.OPEN
            self._begin_episode()
        else:
            self._frto = False
        self.cc.on_timeout(self.flight, now, first=first and self.phase == Phase.OPEN)
        self._prr = None
        self.phase = Phase.LOSS
        self.point = self.nxt
        self._dup_acks = 0
        self.board.mark_all_lost()
        self.force_retransmit = True
        self.rtt.backoff += 1
        self._rto_from = now
        self.timer = Timer.RTO
        self.deadline = now + self.rtt.rto

    def _after_timeout(self, acked: int, delivered: int, rtt: float, now: float) -> None:
        """Slow start after a timeout; F-RTO's second and third step (RFC 5682 section 3.1)."""
        if self._frto:
            if self.nxt > self.point:
                if delivered and not acked:
                    self._frto = False  # step 3a: the loss was real
            elif acked > 0:
                # Step 2b: see what two new segments bring before anything else is repeated.
                self.point = self.nxt
                self.cc.cwnd = self.pipe + 2 * self.mss
                self.prefers_new_data = True
                return
            else:
                self._frto = False
        if delivered:
            self.cc.on_ack(delivered, self.una, self.nxt, rtt, now, self.rtt.smoothed)

    def abandon_frto(self) -> None:
        """There is no new data to send: RFC 5682 section 3.1 step 2 falls back to the conventional recovery."""
        self._frto = False
        self.prefers_new_data = False

    # --- undo ---
    def _is_spurious(self, echo: int | None, acked: int, before: int) -> bool:
        if not self._undo_possible:
            return False
        if self._frto and self.board.watched_arrived:
            return True  # F-RTO step 3b: something arrived that was never retransmitted
        if self._first_retransmission is None:
            return False
        start, tsval = self._first_retransmission
        # What else fills a hole meanwhile may be a retransmission of an earlier episode, with an older timestamp still.
        if acked > 0 and before == start and echo is not None and (echo - tsval) & 0x80000000:
            return True  # Eifel: the acknowledgement answers the first transmission
        return self._undo_retransmits <= 0  # DSACK: everything that was repeated arrived twice

    def _undo(self, now: float) -> None:
        self.spurious += 1
        self.cc.undo(now)
        self.board.forget_losses()
        self._undo_possible = False
        self._frto = False
        self.rtt.backoff = 0
        self._prr = None
        self.phase = Phase.OPEN
        self.force_retransmit = False
        self._first_retransmission = None
        # Whatever is genuinely missing must be found again by time, not by the count that was fooled.
        self._reordering_seen = True

    # --- the timer ---
    def _arm(self, now: float, *, restart: bool) -> None:
        """Choose and set the one deadline (RFC 8985 section 8); `restart` begins the timeout anew."""
        if self.nxt == self.una:
            self.timer = Timer.NONE
            self.deadline = None
            return
        board = self.board
        if restart:
            self._rto_from = now
        due = self._detect_due()
        if due is not None:
            self.timer = Timer.REORDER
            self.deadline = due if due > now else now
            return
        expiry = self._rto_from + self.rtt.rto
        if expiry < now:
            expiry = now
        if self.phase == Phase.OPEN and self._probe_end is None and not board.sacked and self.sack_ok:
            # Section 7.2: a probe comes first even when it is not earlier than the timeout would have been.
            self.timer = Timer.TAIL_PROBE
            self.deadline = min(now + self._probe_timeout(), expiry)
            return
        self.timer = Timer.RTO
        self.deadline = expiry

    def _detect_due(self) -> float | None:
        span = self.board.sentinel.after
        if span is self.board.sentinel or not self.sack_ok:
            return None
        if span.sent > self._rack_sent or (span.sent == self._rack_sent and span.end > self._rack_end):
            return None
        # The same sum in the same order as in `_detect`, or a rounding error would fire this timer for ever.
        return span.sent + (self._rack_rtt + self._reordering_window())

    def on_reorder_timer(self, now: float) -> None:
        """The reordering window of the oldest span is over."""
        self._detect(now)
        if self.board.lost:
            if self.phase == Phase.OPEN:
                self._enter_recovery(now, self.flight)
            elif self._prr is not None:
                self.cc.cwnd = max(self.cc.cwnd, self.pipe + self.mss)
        self._arm(now, restart=True)

    def arm_rto(self, now: float) -> None:
        """After a tail loss probe the next deadline is a full timeout (RFC 8985 section 7.3)."""
        self._rto_from = now
        self.timer = Timer.RTO
        self.deadline = now + self.rtt.rto

    # --- path MTU ---
    def set_mss(self, mss: int) -> None:
        """The segment size changed."""
        self.mss = mss
        self.cc.set_mss(mss)

    def resend_all(self, now: float) -> None:
        """What is in flight was too big for the path (RFC 1191 section 6.5): send it again, no congestion implied."""
        self.board.mark_all_lost()
        if self.flight:
            self.force_retransmit = True
            self._arm(now, restart=True)

    def on_idle(self, now: float) -> None:
        """Nothing was in flight for longer than an RTO."""
        self.cc.on_idle()

    def snapshot(self) -> dict[str, int]:
        """Figures for `info()`."""
        board = self.board
        states = [span[2] for span in board.spans()]
        return {
            "unacked": self.flight,
            "pipe": self.pipe,
            "sacked": board.sacked,
            "lost": board.lost,
            "spans": len(states),
            "holes": sum(1 for state in states if state in (LOST,)),
            "sacked_ranges": sum(1 for state in states if state == SACKED),
        }
