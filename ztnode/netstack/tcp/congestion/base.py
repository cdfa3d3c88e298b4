"""What a connection asks of its congestion control, whatever the algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from ztnode.netstack.tcp.delivery_rate import RateSample

INFINITE: Final = 1 << 62
_INITIAL_WINDOW_SEGMENTS: Final = 10


class CongestionControl:
    """The congestion window of one connection, in bytes, and for some algorithms the rate to send at.

    There are two kinds. A loss-based algorithm hears of acknowledgements by ``on_ack``, of losses by ``on_congestion``;
    from then until ``on_recovered`` the window is PRR's (RFC 9937), which works towards ``ssthresh``. A ``model_based``
    one gets every ``RateSample`` by ``on_sample`` and minds the window itself, in recovery as well.
    """

    name: ClassVar[str] = "base"
    model_based: ClassVar[bool] = False

    __slots__ = ("cwnd", "mss", "pacing_rate", "ssthresh")

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = self.initial_window()
        self.ssthresh = INFINITE
        self.pacing_rate: float | None = None
        """Bytes per second; None: the window alone decides when to send."""

    @property
    def limits_itself(self) -> bool:
        """The window is small on purpose at the moment: what is delivered is not what the path can carry."""
        return False

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
        """``acked`` bytes were newly delivered while the window was in use and nothing is known to be lost.

        ``rtt`` is the latest sample (0.0 when this ACK gave none); ``una`` and ``nxt`` bound what is in flight.
        """

    def on_sample(self, sample: RateSample, pipe: int, now: float) -> None:
        """An acknowledgement delivered something, whatever else it said; ``pipe`` is what is in flight after it."""

    def on_congestion(self, flight: int) -> None:
        """Loss was detected with ``flight`` bytes outstanding, once per window."""
        raise NotImplementedError

    def on_timeout(self, flight: int, *, first: bool) -> None:
        """The retransmission timer expired (RFC 5681 section 3.1). ``first`` is False for repeated timeouts."""
        raise NotImplementedError

    def on_recovered(self, *, after_timeout: bool) -> None:
        """All that was outstanding when the loss was detected has arrived."""
        raise NotImplementedError

    def undo(self) -> None:
        """The last reduction was for nothing (Eifel, F-RTO, DSACK): go back to how it was."""
        raise NotImplementedError

    def on_idle(self) -> None:
        """Nothing was in flight for longer than a timeout, and now something is to be sent."""
        raise NotImplementedError
