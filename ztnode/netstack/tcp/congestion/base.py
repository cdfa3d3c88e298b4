"""What every congestion control algorithm shares: window, threshold, slow start, undo."""

from __future__ import annotations

from ztnode.netstack.tcp.congestion.hystart import HyStart

INFINITE = 1 << 62
_INITIAL_WINDOW_SEGMENTS = 10


class CongestionControl:
    """The congestion window of one connection, in bytes.

    Subclasses say how the window grows in congestion avoidance (`_avoid`) and how far it falls (`_reduced`).
    During fast recovery the window is set from outside, by PRR (RFC 9937); this class then only gives `ssthresh`.
    """

    name = "base"

    __slots__ = ("_before", "cwnd", "hystart", "mss", "ssthresh")

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = self.initial_window()
        self.ssthresh = INFINITE
        self.hystart = HyStart()
        self._before: tuple[int, int] | None = None

    def initial_window(self) -> int:
        """Ten segments, in bytes.

        RFC 6928 section 2 also caps it at 14,600 bytes, a cap that it sets for the Ethernet of its day. On the overlay
        (2,800 bytes) the kernels that we speak to and share the wire with count segments alone, and so do we.
        """
        return _INITIAL_WINDOW_SEGMENTS * self.mss

    def set_mss(self, mss: int) -> None:
        """The segment size changed (path MTU): the window keeps its number of bytes, within reason."""
        self.mss = mss
        self.cwnd = max(self.cwnd, mss)

    def on_ack(self, acked: int, una: int, nxt: int, rtt: float, now: float, srtt: float) -> None:
        """`acked` bytes were newly delivered while the window was in use and nothing is known to be lost.

        `rtt` is the latest sample (0.0 when this ACK gave none); `una` and `nxt` bound what is in flight.
        """
        if self.cwnd < self.ssthresh:
            growth = self.hystart.growth(acked, una, nxt, rtt, self.mss)
            if self.hystart.finished:
                self.ssthresh = self.cwnd
            else:
                self.cwnd += growth  # RFC 9406 section 4.2: no limit L, because sending is not paced by single ACKs
                return
        self._avoid(acked, now, srtt)

    def on_congestion(self, flight: int, now: float) -> None:
        """Loss was detected, once per window: remember how it was, set `ssthresh`; the window is PRR's now."""
        self._before = (self.cwnd, self.ssthresh)
        self.ssthresh = max(self._reduced(flight, now), 2 * self.mss)
        self.hystart.stop()

    def on_timeout(self, flight: int, now: float, *, first: bool) -> None:
        """The retransmission timer expired (RFC 5681 section 3.1). `first` is False for repeated timeouts."""
        if first:
            self.on_congestion(flight, now)
        self.cwnd = self.mss

    def undo(self, now: float) -> None:
        """The last reduction was for nothing (Eifel, F-RTO, DSACK): go back to how it was."""
        if self._before is not None:
            self.cwnd = max(self.cwnd, self._before[0])
            self.ssthresh = max(self.ssthresh, self._before[1])
            self._before = None

    def on_idle(self) -> None:
        """Nothing was sent for longer than a timeout: restart from the initial window (RFC 5681 section 4.1)."""
        self.cwnd = min(self.cwnd, self.initial_window())

    def _avoid(self, acked: int, now: float, srtt: float) -> None:
        raise NotImplementedError

    def _reduced(self, flight: int, now: float) -> int:
        """The new slow-start threshold after a loss with `flight` bytes outstanding."""
        raise NotImplementedError
