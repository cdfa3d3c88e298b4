"""Tail loss probes (RFC 8985 section 7): the end of what was sent has nothing behind it that would show its loss, so it
is asked for before the timeout is."""

from __future__ import annotations

from typing import Final

_MAX_DELAYED_ACK: Final = 0.2
"""RFC 8985 section 7.2: what a peer may delay the ACK of a lone segment by, seconds."""


def tail_loss_timeout(srtt: float | None, rto: float, *, lone: bool) -> float:
    """Seconds until a probe (section 7.2); ``lone``: only one segment is in flight."""
    if srtt is None:
        return rto
    timeout = 2 * srtt + 0.002
    if lone:
        timeout += _MAX_DELAYED_ACK
    return timeout if timeout < rto else rto


class TailLossProbe:
    """At most one probe is under way."""

    __slots__ = ("_retransmitted", "count", "end")

    def __init__(self) -> None:
        self.end: int | None = None
        """What was next to be sent when the probe went out (TLP.end_seq); None while no probe is under way."""
        self._retransmitted = False
        self.count = 0
        """Probes sent."""

    def sent(self, nxt: int, *, retransmitted: bool) -> None:
        """A probe went out: new data, or a repetition of the last segment."""
        self.end = nxt
        self._retransmitted = retransmitted
        self.count += 1

    def forget(self) -> None:
        """Recovery begins: the probe does not matter any more."""
        self.end = None

    def answered(self, ack: int, *, sacked: bool, dsack: bool, duplicate: bool) -> bool:
        """An acknowledgement came while a probe is under way (section 7.4.2).

        True when the probe repaired a loss, which then counts as congestion.
        """
        end = self.end
        if end is None:
            return False
        if not self._retransmitted:
            if ack >= end:
                self.end = None
            return False
        if dsack and ack >= end:
            self.end = None  # both the original and the probe arrived
        elif ack > end:
            self.end = None
            return True
        elif ack == end and not sacked and duplicate:
            self.end = None  # a duplicate ACK for the probe: nothing was lost
        return False
