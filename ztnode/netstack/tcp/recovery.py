"""The sending half's judgement: what was lost, what may be sent now, when to try again.

Loss is found by time, not by counting (``rack``, ``tail_loss_probe``); a peer without SACK is served by counting
duplicate acknowledgements (RFC 5681, RFC 6582) mapped on the same scoreboard. How much may be sent during recovery is
PRR's (``prr``). A retransmission that turns out to have been unnecessary is taken back (``undo``).

The connection calls ``acknowledged`` once per batch where the acknowledgements allow it, asks ``allowance`` and
``next_retransmission`` before sending, and reports what it sent.
"""

from __future__ import annotations

import enum
from typing import Final

from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.delivery_rate import DeliveryRate, Stamp
from ztnode.netstack.tcp.prr import ProportionalRateReduction
from ztnode.netstack.tcp.rack import DUP_THRESHOLD, Rack
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.scoreboard import Scoreboard
from ztnode.netstack.tcp.tail_loss_probe import TailLossProbe, tail_loss_timeout
from ztnode.netstack.tcp.undo import Undo


class Phase(enum.IntEnum):
    """OPEN: nothing known to be lost. RECOVERY: fast recovery. LOSS: after a retransmission timeout."""

    OPEN = 0
    RECOVERY = 1
    LOSS = 2


class TimerKind(enum.IntEnum):
    """What the one retransmission deadline is for."""

    NONE = 0
    RTO = 1
    TAIL_PROBE = 2
    REORDER = 3


# To find a member by its class takes longer than a name of the module.
_NO_TIMER: Final = TimerKind.NONE
_TAIL_PROBE: Final = TimerKind.TAIL_PROBE

_NOT_ALONE: Final = -1.0
_WHEN_ASKED: Final = -1.0
"""In place of a deadline: nobody has asked yet."""


class Recovery:
    """Loss detection, recovery and their timer for one connection. Sequence numbers are unwrapped."""

    __slots__ = (
        "_alone_at",
        "_dup_acks",
        "_probe",
        "_prr",
        "_rack",
        "_rate",
        "_rto_from",
        "_undo",
        "board",
        "cc",
        "consecutive_timeouts",
        "deadline",
        "fast_recoveries",
        "force_retransmit",
        "limited_point",
        "measures_rate",
        "nxt",
        "output_una",
        "phase",
        "point",
        "prefers_new_data",
        "retransmits",
        "rtt",
        "sack_ok",
        "spurious",
        "timeouts",
        "timer",
        "una",
    )

    def __init__(self, cc: CongestionControl, rtt: RttEstimator, una: int) -> None:
        self.cc = cc
        self.rtt = rtt
        self.una = una
        self.nxt = una
        self.sack_ok = False
        """Both sides offered SACK."""
        self.board = Scoreboard(una)
        self.phase = Phase.OPEN
        self.point = una - 1
        """Recovery is over when everything before this is acknowledged (RFC 6675's RecoveryPoint)."""
        self.timer = TimerKind.NONE
        self.deadline: float | None = None
        """For ``due`` to say."""
        self.limited_point = una
        """Up to here the congestion window held sending back: it may grow while this is being acknowledged."""
        self.force_retransmit = False
        self.output_una = una
        """``una`` when the connection last had the chance to send: all that came since is one batch."""
        self.consecutive_timeouts = 0
        self._alone_at = _NOT_ALONE
        """When all that is in flight was sent, by ``sent_alone``, and is not on the board yet."""
        self._dup_acks = 0
        self._rto_from = 0.0
        self._rack = Rack(self.board, rtt, cc, una)
        self._probe = TailLossProbe()
        self._undo = Undo()
        self._prr: ProportionalRateReduction | None = None
        """Decides the window during fast recovery, unless the congestion control does so itself."""
        self.measures_rate = cc.model_based
        self._rate = DeliveryRate() if cc.model_based else None
        self.prefers_new_data = False
        """F-RTO's second step is under way: new data goes before retransmissions."""
        # Figures
        self.retransmits = 0
        self.timeouts = 0
        self.fast_recoveries = 0
        self.spurious = 0

    def full_board(self) -> Scoreboard:
        """The scoreboard with all that is in flight on it. ``board`` alone is enough for who asks how much is lost or
        selectively acknowledged."""
        if self._alone_at != _NOT_ALONE:
            self.board.transmitted(self.una, self.nxt, self._alone_at)
            self._alone_at = _NOT_ALONE
        return self.board

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
            pipe = max(pipe - self._dup_acks * self.cc.mss, 0)
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
        self.full_board().transmitted(self.nxt, end, now, stamp)
        if self._prr is not None:
            self._prr.sent(end - self.nxt)
        self.nxt = end
        self._arm(now, restart=False)

    def sent_alone(self, end: int, now: float) -> None:
        """As ``sent_new`` of at most one segment, where nothing is in flight nor being repaired, and no rate measured:
        in ``Phase.OPEN``, and ``measures_rate`` is False."""
        # Mostly the next that is heard is that it arrived, and nobody looks at the board or waits for the deadline.
        self._alone_at = self._rto_from = now
        self.nxt = end
        self.deadline = _WHEN_ASKED

    def due(self) -> float | None:
        """The deadline of ``timer``, which is good from here on; None: there is none."""
        if self.deadline == _WHEN_ASKED:
            estimator = self.rtt
            timeout = estimator.rto
            if self.sack_ok and self._probe.end is None:
                self.timer = _TAIL_PROBE
                timeout = tail_loss_timeout(estimator.srtt, timeout, lone=True)
            else:
                self.timer = TimerKind.RTO
            self.deadline = self._rto_from + timeout
        return self.deadline

    def sent_again(self, start: int, end: int, now: float, tsval: int) -> None:
        """[start, end) was retransmitted; ``tsval`` is the timestamp that it carried."""
        stamp = self._rate.stamp(self.pipe, now) if self._rate is not None else None
        self.full_board().retransmitted(start, end, now, stamp)
        self.retransmits += 1
        self._undo.retransmitted(start, end - start, tsval)
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

        ``blocks``: SACK blocks inside [una, nxt), unwrapped. ``dup_acks``: how many duplicate ACKs (RFC 5681 section 2)
        this stands for, which only counts for a peer without SACK. ``echo``: TSecr, ``echo_rtt`` what it says about the
        round-trip time (0.0: nothing). ``dsack``: how many bytes the peer reported to have twice (RFC 2883). Returns
        how many bytes were newly acknowledged cumulatively.
        """
        board = self.full_board()
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
        rtt = self._measure(now, echo_rtt, advanced=acked > 0) if board.delivered else 0.0
        if dsack:
            self._undo.duplicate_reported(dsack)
            self._rack.duplicate_reported(una, self.nxt)
        if board.reordered:
            self._rack.reordering_seen = True
        if self._probe.end is not None and self._probe.answered(
            ack, sacked=bool(blocks), dsack=dsack > 0, duplicate=dup_acks > 0
        ):
            self._probe_repaired()
        if self.phase != Phase.OPEN and self._undo.is_spurious(
            echo, acked, before, watched_arrived=board.watched_arrived
        ):
            self._take_back()
        if not self.sack_ok:
            self._without_sack(acked, dup_acks)
        else:
            self._rack.detect(now, recovering=self.phase != Phase.OPEN)
        self._conclude(acked, before, lost_before, rtt, now)
        if self._rate is not None and board.newest_stamp is not None:
            self._sample(self._rate, board.newest_stamp, rtt, now)
        self._arm(now, restart=acked > 0 or board.delivered > 0)
        return acked

    def all_arrived(self, now: float) -> bool:
        """``acknowledged`` up to ``nxt``, where all that is in flight was sent at one moment, once, and nothing is
        being repaired or probed: no loss can follow, and the timer stops. False: not so, and nothing was done. Where
        ``measures_rate``, it must not be asked."""
        if self.phase or self._probe.end is not None:
            return False
        sent = self._alone_at
        if sent != _NOT_ALONE:
            self._alone_at = _NOT_ALONE
        else:
            span = self.board.arrived_alone()
            if span is None:
                return False
            sent = span.sent
        # RACK need not hear of it: whatever may be lost from here on is sent later than anything that it knows of.
        before = self.una
        self.una = una = self.nxt
        self.consecutive_timeouts = 0
        self._dup_acks = 0
        rtt = now - sent
        estimator, cc = self.rtt, self.cc
        estimator.sample(rtt, now)
        if before < self.limited_point or (cc.cwnd < cc.ssthresh and 2 * (una - before) > cc.cwnd):
            cc.on_ack(una - before, una, una, rtt, now, estimator.smoothed)
        self.timer = _NO_TIMER
        self.deadline = None
        return True

    def _measure(self, now: float, echo_rtt: float, *, advanced: bool) -> float:
        """Something was delivered: what that says about the round-trip time. The sample, 0.0 for none."""
        board = self.board
        rtt = 0.0
        if board.newest_original >= 0.0:
            rtt = now - board.newest_original
            self.rtt.sample(rtt, now)
        elif echo_rtt > 0.0:
            self.rtt.sample(echo_rtt, now)  # RFC 7323 section 4: a timestamp tells which transmission it was
        self._rack.update(now, echo_rtt, advanced=advanced)
        return rtt

    def _conclude(self, acked: int, before: int, lost_before: int, rtt: float, now: float) -> None:
        """What an acknowledgement means for the window, phase by phase."""
        board = self.board
        delivered = board.delivered
        if self.phase == Phase.OPEN:
            if board.lost:
                self._enter_recovery(now, self.nxt - self.output_una)
                self._proportional(delivered, acked, False)
            elif acked > 0 and (before < self.limited_point or self._slow_start_used(acked)):
                self.cc.on_ack(acked, self.una, self.nxt, rtt, now, self.rtt.smoothed)
        elif self.una >= self.point:
            self._leave(now, self.nxt - self.output_una)
        elif self.phase == Phase.RECOVERY:
            self._proportional(delivered, acked, board.lost > lost_before)
        else:
            self._after_timeout(acked, delivered, rtt, now)

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
        """There is nothing left to send although the window allows more: the rate measured now is not the path's."""
        if self._rate is not None and not self.board.lost and self.pipe < self.cc.cwnd:
            self._rate.ran_dry(self.pipe)

    def _slow_start_used(self, acked: int) -> bool:
        """RFC 7661's idea, as the kernel does it: in slow start half of the window in use is reason to let it grow."""
        cc = self.cc
        return cc.cwnd < cc.ssthresh and 2 * (self.nxt - self.una + acked) > cc.cwnd

    # --- tail loss probe ---
    def tail_probe_sent(self, *, retransmitted: bool) -> None:
        """A probe went out: new data, or a repetition of the last segment."""
        self._probe.sent(self.nxt, retransmitted=retransmitted)

    def _probe_repaired(self) -> None:
        """It was a loss, and counts as congestion (RFC 8985 section 7.4.2)."""
        if self.phase == Phase.OPEN:
            self.cc.on_congestion(self.flight)
            self.cc.on_recovered(after_timeout=False)

    # --- without SACK (RFC 5681, RFC 6582) ---
    def _without_sack(self, acked: int, dup_acks: int) -> None:
        board = self.board
        if acked > 0:
            self._dup_acks = max(0, self._dup_acks - acked // self.cc.mss) if self.phase != Phase.OPEN else 0
            if self.phase == Phase.RECOVERY and self.una < self.point and not board.lost:
                # Partial acknowledgement: the next segment is missing as well.
                board.mark_range_lost(self.una, min(self.una + self.cc.mss, self.nxt))
                self.force_retransmit = True
            return
        if dup_acks and self.flight:
            self._dup_acks = min(self._dup_acks + dup_acks, self.flight // self.cc.mss + 1)
            # RFC 6582 section 3.2 step 1: only past the last recovery point, or a lost retransmission begins another.
            if self.phase == Phase.OPEN and self._dup_acks >= DUP_THRESHOLD and self.una > self.point:
                board.mark_range_lost(self.una, min(self.una + self.cc.mss, self.nxt))

    # --- fast recovery ---
    def _enter_recovery(self, now: float, flight: int) -> None:
        """``flight``: what was outstanding when we last could send.

        The acknowledgements since then are one batch. Taking what they left outstanding for FlightSize (RFC 5681
        section 3.1, RFC 9937's RecoverFS) would make one loss at the end of a batch look like a collapsed window.
        """
        self.phase = Phase.RECOVERY
        self._rack.recovery_begins()
        if self.sack_ok:
            self._rack.detect(
                now, recovering=True
            )  # the reordering window closes when recovery begins (RFC 8985 section 6.2 step 4)
        self.point = self.nxt
        self.fast_recoveries += 1
        self._begin_episode()
        self.cc.on_congestion(flight)
        self.force_retransmit = True
        if not self.cc.model_based:
            self._prr = ProportionalRateReduction(max(flight, self.cc.mss))
            self.cc.cwnd = self.pipe + self.cc.mss

    def _begin_episode(self) -> None:
        self._undo.begin()
        self._probe.forget()
        self.board.watch = self.nxt

    def _proportional(self, delivered: int, acked: int, more_lost: bool) -> None:
        if self._prr is not None:
            safe = acked > 0 and not more_lost
            self.cc.cwnd = self._prr.window(self.pipe, self.cc.ssthresh, self.cc.mss, delivered, safe=safe)

    def _leave(self, now: float, flight: int) -> None:
        self.cc.on_recovered(after_timeout=self.phase == Phase.LOSS)
        self._prr = None
        self.phase = Phase.OPEN
        self._dup_acks = 0
        self._undo.end()
        self.force_retransmit = False
        if self.board.lost:
            self._enter_recovery(now, flight)

    # --- timeout ---
    def on_timeout(self, now: float) -> None:
        """The retransmission timer expired (RFC 6298 section 5.4-5.6, RFC 8985 section 6.3): all is lost."""
        first = self.phase != Phase.LOSS
        self.timeouts += 1
        self.consecutive_timeouts += 1
        self.full_board()
        if self.board.sacked and self.board.first_unsacked() is None:
            self.board.renege()  # the peer would have acknowledged a SACKed segment that has become the first
        if first:
            # F-RTO is for the first timeout, and only when fast recovery did not already repeat things.
            self._undo.frto = self.phase == Phase.OPEN
            self._begin_episode()
        else:
            self._undo.frto = False
        self.cc.on_timeout(self.flight, first=first and self.phase == Phase.OPEN)
        self._prr = None
        self.phase = Phase.LOSS
        self.point = self.nxt
        self._dup_acks = 0
        self.board.mark_all_lost()
        self.force_retransmit = True
        self.rtt.backoff += 1
        self._rto_from = now
        self.timer = TimerKind.RTO
        self.deadline = now + self.rtt.rto

    def path_returned(self, now: float) -> bool:
        """Packets get through again: what timeouts have been doubled for was no congestion (RFC 6069 sections 3 and 4.2
        undo that where ICMP says so). The next one is due now; False when none waits."""
        due = self.due()
        if self.timer != TimerKind.RTO or not self.rtt.backoff or due is None or due <= now:
            return False
        self.rtt.backoff = 0
        self.deadline = now
        return True

    def _after_timeout(self, acked: int, delivered: int, rtt: float, now: float) -> None:
        """Slow start after a timeout; F-RTO's second and third step (RFC 5682 section 3.1)."""
        if self._undo.frto:
            if self.nxt > self.point:
                if delivered and not acked:
                    self._undo.frto = False  # step 3a: the loss was real
            elif acked > 0:
                # Step 2b: see what two new segments bring before anything else is repeated.
                self.point = self.nxt
                self.cc.cwnd = self.pipe + 2 * self.cc.mss
                self.prefers_new_data = True
                return
            else:
                self._undo.frto = False
        if delivered:
            self.cc.on_ack(delivered, self.una, self.nxt, rtt, now, self.rtt.smoothed)

    def abandon_frto(self) -> None:
        """There is no new data to send: RFC 5682 section 3.1 step 2 falls back to the conventional recovery."""
        self._undo.frto = False
        self.prefers_new_data = False

    # --- undo ---
    def _take_back(self) -> None:
        """What was thought lost was not: all is as it was before."""
        self.spurious += 1
        self.cc.undo()
        self.board.forget_losses()
        self._undo.end()
        self.rtt.backoff = 0
        self._prr = None
        self.phase = Phase.OPEN
        self.force_retransmit = False
        # Whatever is genuinely missing must be found again by time, not by the count that was fooled.
        self._rack.reordering_seen = True

    # --- the timer ---
    def _arm(self, now: float, *, restart: bool) -> None:
        """Choose and set the one deadline (RFC 8985 section 8); ``restart`` begins the timeout anew."""
        if self.nxt == self.una:
            self.timer = TimerKind.NONE
            self.deadline = None
            return
        board = self.board
        if restart:
            self._rto_from = now
        due = self._rack.due(recovering=self.phase != Phase.OPEN) if self.sack_ok else None
        if due is not None:
            self.timer = TimerKind.REORDER
            self.deadline = due if due > now else now
            return
        estimator = self.rtt
        rto = estimator.rto_base if not estimator.backoff else estimator.rto
        expiry = self._rto_from + rto
        if expiry < now:
            expiry = now
        if self.phase == Phase.OPEN and self._probe.end is None and not board.sacked and self.sack_ok:
            # Section 7.2: a probe comes first even when it is not earlier than the timeout would have been.
            self.timer = TimerKind.TAIL_PROBE
            probe = now + tail_loss_timeout(estimator.srtt, rto, lone=self.nxt - self.una <= self.cc.mss)
            self.deadline = probe if probe < expiry else expiry
            return
        self.timer = TimerKind.RTO
        self.deadline = expiry

    def on_reorder_timer(self, now: float) -> None:
        """The reordering window of the oldest span is over."""
        self.full_board()
        self._rack.detect(now, recovering=self.phase != Phase.OPEN)
        if self.board.lost:
            if self.phase == Phase.OPEN:
                self._enter_recovery(now, self.flight)
            elif self._prr is not None:
                self.cc.cwnd = max(self.cc.cwnd, self.pipe + self.cc.mss)
        self._arm(now, restart=True)

    def arm_rto(self, now: float) -> None:
        """After a tail loss probe the next deadline is a full timeout (RFC 8985 section 7.3)."""
        self._rto_from = now
        self.timer = TimerKind.RTO
        self.deadline = now + self.rtt.rto

    # --- path MTU ---
    def resend_all(self, now: float) -> None:
        """What is in flight was too big for the path (RFC 1191 section 6.5): send it again, no congestion implied."""
        self.full_board().mark_all_lost()
        if self.flight:
            self.force_retransmit = True
            self._arm(now, restart=True)

    @property
    def tail_probes(self) -> int:
        """How many tail loss probes were sent."""
        return self._probe.count
