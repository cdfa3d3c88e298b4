"""Round-trip time and retransmission timeout (RFC 6298), and the minimum RTT that RACK and HyStart++ want.

Two deviations, both what the kernels that we speak to do. The lower bound is applied to the variance term
(``srtt + max(MIN_RTO, 4 * rttvar)``), not to the sum: with one sample per ACK the variance of a steady path decays to
nothing, and RFC 6298's one-second floor would make every tail loss a second long, while a peer may delay its ACK by
up to 200 ms. And the first SYN timeouts are shorter than one second, see ``opening``.
"""

from __future__ import annotations

from typing import Final

INITIAL_RTO: Final = 1.0
"""Seconds (RFC 6298 section 2.1)."""
MIN_RTO: Final = 0.2
MAX_RTO: Final = 60.0
_MIN_RTT_WINDOW: Final = 300.0
"""Seconds after which an old minimum is forgotten (the path may have become longer for good)."""


class RttEstimator:
    """SRTT, RTTVAR, RTO and the minimum RTT of one connection; all in seconds."""

    __slots__ = ("_min_at", "backoff", "min_rtt", "rttvar", "srtt")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.backoff = 0
        self.min_rtt = float("inf")
        self._min_at = 0.0

    @property
    def rto_base(self) -> float:
        """The timeout before any back-off, ``MIN_RTO`` at the least. (Made when asked for, which few samples are.)"""
        srtt = self.srtt
        if srtt is None:
            return INITIAL_RTO
        variance = 4 * self.rttvar
        timeout = srtt + (variance if variance > MIN_RTO else MIN_RTO)
        return timeout if timeout < MAX_RTO else MAX_RTO

    @property
    def rto(self) -> float:
        """The current timeout, backed off (RFC 6298 section 5.5)."""
        if not self.backoff:
            return self.rto_base
        return min(self.rto_base * (1 << min(self.backoff, 16)), MAX_RTO)

    @property
    def smoothed(self) -> float:
        """SRTT, or the initial timeout before the first sample: an upper bound for things that scale with the RTT."""
        return self.rto_base if self.srtt is None else self.srtt

    def sample(self, rtt: float, now: float) -> None:
        """One measurement (RFC 6298 section 2); ends any back-off, because fresh data was acknowledged."""
        if rtt <= self.min_rtt or now - self._min_at > _MIN_RTT_WINDOW:
            self.min_rtt = rtt
            self._min_at = now
        srtt = self.srtt
        if srtt is None:
            self.srtt = rtt
            self.rttvar = rtt / 2
        else:
            error = rtt - srtt
            self.srtt = srtt + error / 8
            rttvar = self.rttvar
            self.rttvar = rttvar + ((error if error >= 0 else -error) - rttvar) / 4
        self.backoff = 0
