"""CUBIC (RFC 9438)."""

from __future__ import annotations

from typing import ClassVar, Final

from ztnode.netstack.tcp.congestion.loss_based import LossBased

C: Final = 0.4
"""RFC 9438 section 5: segments per second cubed."""
BETA: Final = 0.7
"""Multiplicative decrease factor (section 4.6)."""
_ALPHA: Final = 3 * (1 - BETA) / (1 + BETA)
"""Additive increase of the Reno-friendly region (section 4.3)."""


class Cubic(LossBased):
    """The window is a cubic function of the time since the last reduction; windows here are in segments as floats."""

    name: ClassVar[str] = "cubic"

    __slots__ = ("_alpha", "_credit", "_epoch", "_k", "_reno", "_saved", "_w_max")

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._epoch: float | None = None
        self._w_max = 0.0
        self._k = 0.0
        self._reno = 0.0
        self._alpha = _ALPHA
        self._credit = 0.0
        self._saved: tuple[float | None, float, float, float] = (None, 0.0, 0.0, 0.0)

    def _avoid(self, acked: int, now: float, srtt: float) -> None:
        window = self.cwnd / self.mss
        segments = acked / self.mss
        if self._epoch is None:  # section 4.8: the first ACK of a new congestion avoidance stage
            self._epoch = now
            if window < self._w_max:
                self._k = ((self._w_max - window) / C) ** (1 / 3)
            else:
                self._k = 0.0
                self._w_max = window
            self._reno = window
            self._alpha = _ALPHA
        elapsed = now - self._epoch
        # Section 4.3: the estimate of what Reno would have.
        self._reno += self._alpha * segments / window
        if self._reno >= self._w_max:
            self._alpha = 1.0
        cubic = C * (elapsed - self._k) ** 3 + self._w_max
        if cubic < self._reno:
            if self._reno > window:
                self.cwnd = int(self._reno * self.mss)
            return
        # Section 4.4 and 4.5: towards where the curve is one RTT from now, at most half as much again.
        ahead = C * (elapsed + srtt - self._k) ** 3 + self._w_max
        target = min(max(ahead, window), 1.5 * window)
        self._credit += (target - window) / window * acked
        if self._credit >= 1.0:
            whole = int(self._credit)
            self._credit -= whole
            self.cwnd += whole

    def _reduced(self, flight: int) -> int:
        self._saved = (self._epoch, self._w_max, self._k, self._reno)
        window = self.cwnd / self.mss
        # Section 4.7, fast convergence: a flow that loses below its last maximum makes room for others.
        self._w_max = window * (1 + BETA) / 2 if window < self._w_max else window
        self._epoch = None
        # Section 4.6: a window that was not in use must not come out larger than half of what was in flight allows.
        return int(min(self.cwnd, max(flight, self.mss)) * BETA)

    def undo(self) -> None:
        """Also restores the shape of the curve (section 4.9)."""
        if self._before is not None:
            self._epoch, self._w_max, self._k, self._reno = self._saved
        super().undo()

    def on_idle(self) -> None:
        """Section 5.8: time without traffic does not count as time in congestion avoidance."""
        super().on_idle()
        self._epoch = None
