"""BBR version 1 (draft-cardwell-iccrg-bbr-congestion-control-00): a model of the path instead of its losses.

Names in capitals and in ``BBR...`` are the draft's. Two things are the Linux kernel's on top of it (``tcp_bbr.c``): the
allowance for acknowledgements that come in bunches, because everything here comes in batches, and one per cent less
pacing than measured, so that a queue shrinks rather than stands. Why not version 3: it gives way when 2 % of a
round is lost, and a full frame of the overlay is two datagrams, so that is what a wire that loses 1 % looks like.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import ClassVar, Final

from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.delivery_rate import RateSample

HIGH_GAIN: Final = 2.885
"""2/ln 2: the smallest gain that doubles the delivery rate each round (section 4.3.2.1)."""
PROBE_BW_GAINS: Final = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Section 4.3.4.1: ask for more, drain what that queued, then cruise; one phase is about one RTprop."""
_PROBE_BW_CWND_GAIN: Final = 2.0
_BTLBW_ROUNDS: Final = 10
_RTPROP_SECONDS: Final = 10.0
_PROBE_RTT_SECONDS: Final = 0.2
_FULL_PIPE_GROWTH: Final = 1.25
_FULL_PIPE_ROUNDS: Final = 3
_MIN_PIPE_SEGMENTS: Final = 4
_PACING_MARGIN: Final = 0.99
_QUANTUM_SECONDS: Final = 0.001
_QUANTUM_MAX: Final = 64 << 10
_EXTRA_ACKED_ROUNDS: Final = 10
_ACK_AGGREGATION_SECONDS: Final = 0.1

_INFINITY: Final = float("inf")


class Mode(enum.IntEnum):
    """Section 4.3."""

    STARTUP = 0
    DRAIN = 1
    PROBE_BW = 2
    PROBE_RTT = 3


class WindowedMax:
    """The largest value of the last ``length`` rounds."""

    __slots__ = ("_length", "_values")

    def __init__(self, length: int) -> None:
        self._length = length
        self._values: deque[tuple[int, float]] = deque()

    @property
    def value(self) -> float:
        """0.0 before the first update."""
        return self._values[0][1] if self._values else 0.0

    def update(self, value: float, round_count: int) -> None:
        """One more value; whatever is older and not larger can never be the maximum again."""
        values = self._values
        while values and values[-1][1] <= value:
            values.pop()
        if values and values[-1][0] == round_count:
            return  # a larger one lasts as long: at most one value of each round is kept
        values.append((round_count, value))
        while values[0][0] <= round_count - self._length:
            values.popleft()


class Bbr(CongestionControl):
    """Windows in bytes, rates in bytes per second, times in seconds."""

    name: ClassVar[str] = "bbr"
    model_based: ClassVar[bool] = True

    __slots__ = (
        "_ack_epoch_acked",
        "_ack_epoch_at",
        "_btl_bw",
        "_conserving",
        "_cwnd_gain",
        "_cycle_at",
        "_cycle_index",
        "_entering",
        "_extra_acked",
        "_filled_pipe",
        "_full_bw",
        "_full_bw_rounds",
        "_idle_restart",
        "_mode",
        "_next_round_delivered",
        "_pacing_gain",
        "_prior_cwnd",
        "_probe_rtt_done_at",
        "_probe_rtt_round_done",
        "_recovering",
        "_round_count",
        "_round_start",
        "_rt_prop",
        "_rt_prop_at",
        "_rt_prop_expired",
    )

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._btl_bw = WindowedMax(_BTLBW_ROUNDS)
        self._rt_prop = _INFINITY
        self._rt_prop_at = 0.0
        self._rt_prop_expired = False
        self._next_round_delivered = 0
        self._round_count = 0
        self._round_start = False
        self._mode = Mode.STARTUP
        self._pacing_gain = self._cwnd_gain = HIGH_GAIN
        self._filled_pipe = False
        self._full_bw = 0.0
        self._full_bw_rounds = 0
        self._cycle_index = 0
        self._cycle_at = 0.0
        self._probe_rtt_done_at: float | None = None
        self._probe_rtt_round_done = False
        self._idle_restart = False
        self._prior_cwnd = 0
        self._recovering = False
        self._entering = False
        """Recovery began and no sample came since."""
        self._conserving = False
        """The first round of recovery: what goes out is what was delivered."""
        self._ack_epoch_at = 0.0
        self._ack_epoch_acked = 0
        self._extra_acked = WindowedMax(_EXTRA_ACKED_ROUNDS)

    @property
    def mode(self) -> Mode:
        """State of the machine of section 4.3."""
        return self._mode

    @property
    def limits_itself(self) -> bool:
        """BBRHandleProbeRTT (section 4.3.5): what is sent in PROBE_RTT says nothing, whenever it is acknowledged."""
        return self._mode == Mode.PROBE_RTT

    # --- events ---
    def on_sample(self, sample: RateSample, pipe: int, now: float) -> None:
        """BBRUpdateOnACK (section 3.5.2): the model and the state machine, then what follows for rate and window."""
        self._update_round(sample)
        self._update_btl_bw(sample)
        self._update_ack_aggregation(sample, now)
        self._check_cycle_phase(sample, pipe, now)
        self._check_full_pipe(sample)
        self._check_drain(pipe, now)
        self._update_rt_prop(sample, now)
        self._check_probe_rtt(sample, pipe, now)
        self._set_pacing_rate(sample)
        self._set_cwnd(sample, pipe)

    def on_congestion(self, flight: int) -> None:
        """BBROnEnterFastRecovery: a round of packet conservation, beginning with the sample that follows."""
        self._save_cwnd()
        self._recovering = self._entering = True

    def on_timeout(self, flight: int, *, first: bool) -> None:
        """BBROnEnterRTO: one segment, and the model again from the next round on."""
        if first:
            self._save_cwnd()
        self._recovering = True
        self._entering = self._conserving = False
        self._full_bw = 0.0
        self.cwnd = self.mss

    def on_recovered(self, *, after_timeout: bool) -> None:
        """BBROnExitRecovery."""
        self._restore_cwnd()

    def undo(self) -> None:
        """Nothing was lost: nor was it a sign of a full pipe."""
        self._full_bw = 0.0
        self._full_bw_rounds = 0
        self._restore_cwnd()

    def on_idle(self) -> None:
        """BBRHandleRestartFromIdle (section 4.3.4.4): at the estimated rate, without a burst and without a probe."""
        self._idle_restart = True
        if self._mode == Mode.PROBE_BW:
            self._pace(1.0)

    # --- the model (section 4.1) ---
    def _update_round(self, sample: RateSample) -> None:
        """BBRUpdateRound: a round ends when something that was sent after its start is delivered."""
        self._round_start = sample.prior_delivered >= self._next_round_delivered
        if self._round_start:
            self._next_round_delivered = sample.delivered
            self._round_count += 1
            self._conserving = False

    def _update_btl_bw(self, sample: RateSample) -> None:
        """BBRUpdateBtlBw: a sample that something else than the path limited only counts when it is the best."""
        if sample.rate > 0.0 and (sample.rate >= self._btl_bw.value or not sample.app_limited):
            self._btl_bw.update(sample.rate, self._round_count)

    def _update_ack_aggregation(self, sample: RateSample, now: float) -> None:
        """How much more than the rate explains arrives at once: that much must be in flight on top."""
        expected = self._btl_bw.value * (now - self._ack_epoch_at)
        if self._ack_epoch_acked <= expected:
            self._ack_epoch_at = now
            self._ack_epoch_acked = 0
            expected = 0.0
        self._ack_epoch_acked += sample.acked
        self._extra_acked.update(min(self._ack_epoch_acked - expected, self.cwnd), self._round_count)

    def _update_rt_prop(self, sample: RateSample, now: float) -> None:
        """BBRUpdateRTprop: the minimum of the last ten seconds."""
        self._rt_prop_expired = self._rt_prop < _INFINITY and now > self._rt_prop_at + _RTPROP_SECONDS
        if sample.rtt > 0.0 and (sample.rtt <= self._rt_prop or self._rt_prop_expired):
            self._rt_prop = sample.rtt
            self._rt_prop_at = now

    def _inflight(self, gain: float) -> int:
        """BBRInflight: ``gain`` times the bandwidth-delay product, and what batching needs on top."""
        if self._rt_prop == _INFINITY:
            return self.initial_window()
        return int(gain * self._btl_bw.value * self._rt_prop) + 3 * self._quantum()

    def _quantum(self) -> int:
        """Section 4.2.2: what is sent at once."""
        return max(2 * self.mss, min(int((self.pacing_rate or 0.0) * _QUANTUM_SECONDS), _QUANTUM_MAX))

    # --- the state machine (section 4.3) ---
    def _check_full_pipe(self, sample: RateSample) -> None:
        """BBRCheckFullPipe (section 4.3.2.2): three rounds in which asking for more did not bring a quarter more."""
        if self._filled_pipe or not self._round_start or sample.app_limited:
            return
        if self._btl_bw.value >= self._full_bw * _FULL_PIPE_GROWTH:
            self._full_bw = self._btl_bw.value
            self._full_bw_rounds = 0
            return
        self._full_bw_rounds += 1
        self._filled_pipe = self._full_bw_rounds >= _FULL_PIPE_ROUNDS

    def _check_drain(self, pipe: int, now: float) -> None:
        """BBRCheckDrain (section 4.3.3)."""
        if self._mode == Mode.STARTUP and self._filled_pipe:
            self._mode = Mode.DRAIN
            self._pacing_gain = 1 / HIGH_GAIN
            self._cwnd_gain = HIGH_GAIN
        if self._mode == Mode.DRAIN and pipe <= self._inflight(1.0):
            self._enter_probe_bw(now)

    def _enter_probe_bw(self, now: float) -> None:
        """BBREnterProbeBW. Where the cycle begins must differ between flows (section 4.3.4.2), but never with the
        drain; the microsecond in which the pipe was found full is as random as that needs."""
        self._mode = Mode.PROBE_BW
        self._cwnd_gain = _PROBE_BW_CWND_GAIN
        start = int(now * 1e6) % (len(PROBE_BW_GAINS) - 1)
        self._advance_cycle_phase(now, start if start < 1 else start + 1)

    def _advance_cycle_phase(self, now: float, index: int) -> None:
        self._cycle_at = now
        self._cycle_index = index % len(PROBE_BW_GAINS)
        self._pacing_gain = PROBE_BW_GAINS[self._cycle_index]

    def _check_cycle_phase(self, sample: RateSample, pipe: int, now: float) -> None:
        """BBRCheckCyclePhase (section 4.3.4.3), with what was in flight before this acknowledgement."""
        if self._mode != Mode.PROBE_BW:
            return
        full_length = now - self._cycle_at > self._rt_prop
        prior = pipe + sample.acked
        if self._pacing_gain > 1.0:
            done = full_length and (sample.lost > 0 or prior >= self._inflight(self._pacing_gain))
        elif self._pacing_gain < 1.0:
            done = full_length or prior <= self._inflight(1.0)
        else:
            done = full_length
        if done:
            self._advance_cycle_phase(now, self._cycle_index + 1)

    def _check_probe_rtt(self, sample: RateSample, pipe: int, now: float) -> None:
        """BBRCheckProbeRTT (section 4.3.5): once in ten seconds without a new minimum, empty the queue and look."""
        if self._mode != Mode.PROBE_RTT and self._rt_prop_expired and not self._idle_restart:
            self._mode = Mode.PROBE_RTT
            self._pacing_gain = self._cwnd_gain = 1.0
            self._save_cwnd()
            self._probe_rtt_done_at = None
        if self._mode == Mode.PROBE_RTT:
            if self._probe_rtt_done_at is None:
                if pipe <= self._min_pipe_cwnd():
                    self._probe_rtt_done_at = now + _PROBE_RTT_SECONDS
                    self._probe_rtt_round_done = False
                    self._next_round_delivered = sample.delivered
            else:
                self._probe_rtt_round_done = self._probe_rtt_round_done or self._round_start
                if self._probe_rtt_round_done and now > self._probe_rtt_done_at:
                    self._rt_prop_at = now
                    self._restore_cwnd()
                    self._exit_probe_rtt(now)
        self._idle_restart = False

    def _exit_probe_rtt(self, now: float) -> None:
        if self._filled_pipe:
            self._enter_probe_bw(now)
        else:
            self._mode = Mode.STARTUP
            self._pacing_gain = self._cwnd_gain = HIGH_GAIN

    # --- what follows (section 4.2) ---
    def _pace(self, gain: float) -> None:
        rate = gain * self._btl_bw.value * _PACING_MARGIN
        if rate > 0.0 and (self._filled_pipe or self.pacing_rate is None or rate > self.pacing_rate):
            self.pacing_rate = rate

    def _set_pacing_rate(self, sample: RateSample) -> None:
        """BBRSetPacingRate. Before the first sample the window alone limits: ten segments are no burst to be feared."""
        if self.pacing_rate is None and sample.srtt > 0.0:
            self.pacing_rate = HIGH_GAIN * self.initial_window() / sample.srtt
        self._pace(self._pacing_gain)

    def _min_pipe_cwnd(self) -> int:
        return _MIN_PIPE_SEGMENTS * self.mss

    def _set_cwnd(self, sample: RateSample, pipe: int) -> None:
        """BBRSetCwnd (section 4.2.3.6)."""
        acked = sample.acked
        target = self._inflight(self._cwnd_gain)
        if self._filled_pipe:
            target += int(min(self._extra_acked.value, self._btl_bw.value * _ACK_AGGREGATION_SECONDS))
        # BBRModulateCwndForRecovery
        if sample.lost:
            self.cwnd = max(self.cwnd - sample.lost, self.mss)
        if self._entering:
            self._entering = False
            self._conserving = True
            self._next_round_delivered = sample.delivered
            self.cwnd = pipe + acked
        elif self._conserving:
            self.cwnd = max(self.cwnd, pipe + acked)
        else:
            if self._filled_pipe:
                self.cwnd = min(self.cwnd + acked, target)
            elif self.cwnd < target or sample.delivered < self.initial_window():
                self.cwnd += acked
            self.cwnd = max(self.cwnd, self._min_pipe_cwnd())
        if self._mode == Mode.PROBE_RTT:
            self.cwnd = min(self.cwnd, self._min_pipe_cwnd())

    def _save_cwnd(self) -> None:
        """What to return to: the last window that nothing held down."""
        held_down = self._recovering or self._mode == Mode.PROBE_RTT
        self._prior_cwnd = max(self._prior_cwnd, self.cwnd) if held_down else self.cwnd

    def _restore_cwnd(self) -> None:
        self._recovering = self._entering = self._conserving = False
        self.cwnd = max(self.cwnd, self._prior_cwnd)
