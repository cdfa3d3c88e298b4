"""How fast the network delivers (draft-cheng-iccrg-delivery-rate-estimation-00).

Every transmission carries a stamp of how much had been delivered until then, and when. The acknowledgement of it tells
what was delivered in between, in what time: a rate that the path has shown it can carry.
"""

from __future__ import annotations

from typing import NamedTuple


class Stamp(NamedTuple):
    """What a transmission remembers (section 3.2); bytes, and seconds on the connection's clock."""

    delivered: int
    delivered_at: float
    first_sent_at: float
    """Start of the send interval that the sample will cover."""
    app_limited: bool


class RateSample(NamedTuple):
    """What one acknowledgement says (section 3.3)."""

    delivered: int
    """All that was delivered on the connection until now, in bytes."""
    prior_delivered: int
    """The same when the newest of what was just delivered had been sent."""
    rate: float
    """Bytes per second; 0.0: this acknowledgement gives no sample."""
    app_limited: bool
    """There was not always something to send: the path may carry more than ``rate``."""
    acked: int
    """Bytes that this acknowledgement delivered."""
    lost: int
    """Bytes found lost since the last sample."""
    rtt: float
    """Latest sample in seconds; 0.0: none."""
    srtt: float


class DeliveryRate:
    """The estimator of one connection."""

    __slots__ = ("_app_limited_until", "_delivered_at", "_first_sent_at", "_lost_before", "delivered")

    def __init__(self) -> None:
        self.delivered = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._app_limited_until = 0
        """Samples are limited by the application until this much is delivered; 0: they are not."""
        self._lost_before = 0

    def stamp(self, pipe: int, now: float) -> Stamp:
        """Something is being sent with ``pipe`` bytes in flight before it."""
        if pipe <= 0:
            self._first_sent_at = self._delivered_at = now
        return Stamp(self.delivered, self._delivered_at, self._first_sent_at, self._app_limited_until > 0)

    def ran_dry(self, pipe: int) -> None:
        """Something else than the path limits what is in flight: there is nothing to send although the window would
        allow it (section 3.4), or the window is small on purpose."""
        self._app_limited_until = max(self.delivered + pipe, 1)

    def sample(
        self,
        acked: int,
        stamp: Stamp,
        sent_at: float,
        lost: int,
        now: float,
        *,
        rtt: float,
        srtt: float,
        min_rtt: float,
    ) -> RateSample:
        """``acked`` bytes were delivered; ``stamp`` and ``sent_at`` are those of the newest transmission among them.

        ``lost`` is all that was ever found lost on the connection.
        """
        self.delivered = delivered = self.delivered + acked
        self._delivered_at = now
        if self._app_limited_until and delivered > self._app_limited_until:
            self._app_limited_until = 0
        # The slower of sending and acknowledging: neither a burst of ACKs nor one of segments is the path's rate.
        interval = max(sent_at - stamp.first_sent_at, now - stamp.delivered_at)
        self._first_sent_at = sent_at
        rate = (delivered - stamp.delivered) / interval if interval >= min_rtt and interval > 0.0 else 0.0
        newly_lost, self._lost_before = lost - self._lost_before, lost
        return RateSample(delivered, stamp.delivered, rate, stamp.app_limited, acked, newly_lost, rtt, srtt)
