"""What loss-based algorithms share: threshold, slow start, undo."""

from __future__ import annotations

from typing import ClassVar

from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.congestion.hystart import HyStart


class LossBased(CongestionControl):
    """Slow start up to ``ssthresh``; subclasses say how the window grows after that and how far it falls."""

    name: ClassVar[str] = "loss-based"

    __slots__ = ("_before", "hystart")

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self.hystart = HyStart()
        self._before: tuple[int, int] | None = None

    def on_ack(self, acked: int, una: int, nxt: int, rtt: float, now: float, srtt: float) -> None:
        """Slow start below ``ssthresh``, congestion avoidance above."""
        if self.cwnd < self.ssthresh:
            growth = self.hystart.growth(acked, una, nxt, rtt, self.mss)
            if self.hystart.finished:
                self.ssthresh = self.cwnd
            else:
                self.cwnd += growth  # RFC 9406 section 4.2: no limit L, because sending is not paced by single ACKs
                return
        self._avoid(acked, now, srtt)

    def on_congestion(self, flight: int) -> None:
        """Remember how it was and set ``ssthresh``; the window is PRR's now."""
        self._before = (self.cwnd, self.ssthresh)
        self.ssthresh = max(self._reduced(flight), 2 * self.mss)
        self.hystart.stop()

    def on_timeout(self, flight: int, *, first: bool) -> None:
        """Start again with one segment (RFC 5681 section 3.1)."""
        if first:
            self.on_congestion(flight)
        self.cwnd = self.mss

    def on_recovered(self, *, after_timeout: bool) -> None:
        """RFC 9937: end at the threshold (the window was left at whatever PRR had last). Slow start just goes on."""
        if not after_timeout:
            self.cwnd = self.ssthresh

    def undo(self) -> None:
        """Window and threshold are at least what they were."""
        if self._before is not None:
            self.cwnd = max(self.cwnd, self._before[0])
            self.ssthresh = max(self.ssthresh, self._before[1])
            self._before = None

    def on_idle(self) -> None:
        """Restart from the initial window (RFC 5681 section 4.1)."""
        self.cwnd = min(self.cwnd, self.initial_window())

    def _avoid(self, acked: int, now: float, srtt: float) -> None:
        raise NotImplementedError

    def _reduced(self, flight: int) -> int:
        """The new slow-start threshold after a loss with ``flight`` bytes outstanding."""
        raise NotImplementedError
