"""Proportional rate reduction (RFC 9937): the window during fast recovery of a loss-based algorithm."""

from __future__ import annotations


class ProportionalRateReduction:
    """One recovery: lets out so much for what arrives that ``ssthresh`` is in flight at its end. Sizes in bytes."""

    __slots__ = ("_delivered", "_out", "_recover_fs")

    def __init__(self, flight: int) -> None:
        self._recover_fs = flight
        """RecoverFS: what was outstanding when recovery began."""
        self._delivered = 0
        self._out = 0

    def sent(self, length: int) -> None:
        """Count ``length`` bytes that were sent since recovery began, for the first time or again."""
        self._out += length

    def window(self, pipe: int, ssthresh: int, mss: int, delivered: int, *, safe: bool) -> int:
        """The congestion window after an acknowledgement that delivered ``delivered`` bytes (section 6.2).

        ``safe``: it made progress and found nothing more lost (SafeACK).
        """
        self._delivered += delivered
        if pipe > ssthresh:
            quota = -(-self._delivered * ssthresh // self._recover_fs) - self._out
        else:
            quota = max(self._delivered - self._out, delivered)
            if safe:
                quota += mss
            quota = min(ssthresh - pipe, quota)
        if self._out == 0 and quota < mss:
            quota = mss  # the fast retransmit itself
        return pipe + max(quota, 0)
