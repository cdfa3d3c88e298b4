"""RACK: loss is found by time (RFC 8985 section 6). What was sent before something that has arrived, and is overdue by
more than the reordering that the path has shown, is lost."""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.scoreboard import Scoreboard

DUP_THRESHOLD: Final = 3
_REORDER_FLOOR: Final = 0.001
"""A reordering window below this is noise of batching."""
_PERSIST_RECOVERIES: Final = 16  # section 6.2 step 4


class Rack:
    """The newest delivered transmission, and how much reordering is allowed for. Times in seconds."""

    __slots__ = (
        "_board",
        "_cc",
        "_end",
        "_estimator",
        "_multiplier",
        "_persist",
        "_round",
        "_rtt",
        "_sent",
        "reordering_seen",
    )

    def __init__(self, board: Scoreboard, estimator: RttEstimator, cc: CongestionControl, una: int) -> None:
        self._board = board
        self._estimator = estimator
        self._cc = cc
        self._sent = -1.0
        """When the newest of what has arrived was sent, where it ended, and its round-trip time."""
        self._end = 0
        self._rtt = 0.0
        self.reordering_seen = False
        self._multiplier = 1
        self._persist = _PERSIST_RECOVERIES
        self._round = una

    def update(self, now: float, echo_rtt: float, *, advanced: bool) -> None:
        """An acknowledgement delivered something (section 6.2 step 2); ``advanced``: cumulatively."""
        board = self._board
        sent, end = board.newest_sent, board.newest_end
        rtt = now - sent
        if board.newest_retransmitted:
            # What if this acknowledges the first transmission? Before a hole the echo says nothing about that: it is
            # the timestamp of the last segment in order (RFC 7323 section 4.3), however old, and to believe it there
            # would leave every lost retransmission but the last to the timeout.
            told = advanced and echo_rtt > 0.0
            if echo_rtt > rtt + 0.002 if told else rtt < self._estimator.min_rtt:
                return
        self._rtt = rtt
        if sent > self._sent or (sent == self._sent and end > self._end):
            self._sent = sent
            self._end = end

    def duplicate_reported(self, una: int, nxt: int) -> None:
        """The peer got something twice: widen the reordering window, once per round trip (section 6.2 step 4)."""
        if una >= self._round:
            self._round = nxt
            self._multiplier = min(self._multiplier + 1, 16)
            self._persist = _PERSIST_RECOVERIES

    def recovery_begins(self) -> None:
        """A wider window is kept for so many recoveries (section 6.2 step 4)."""
        if self._persist > 0:
            self._persist -= 1
        else:
            self._multiplier = 1

    def _patience(self, recovering: bool) -> float:
        """How long after its transmission something is overdue. ``detect`` and ``due`` must get the same sum from it,
        or a rounding error would fire the timer for ever."""
        return self._rtt + self._reordering_window(recovering)

    def _reordering_window(self, recovering: bool) -> float:
        if not self.reordering_seen and (recovering or self._board.sacked > (DUP_THRESHOLD - 1) * self._cc.mss):
            return 0.0
        min_rtt = self._estimator.min_rtt
        if min_rtt == float("inf"):
            return _REORDER_FLOOR
        return max(min(self._multiplier * min_rtt / 4, self._estimator.smoothed), _REORDER_FLOOR)

    def detect(self, now: float, *, recovering: bool) -> None:
        """Mark what is overdue as lost (section 6.2 step 5)."""
        board = self._board
        sentinel = board.sentinel
        newest_sent, newest_end = self._sent, self._end
        span = sentinel.after
        if span is sentinel or span.sent > newest_sent:
            return
        patience = self._patience(recovering)
        while span is not sentinel:
            sent = span.sent
            if sent > newest_sent or (sent == newest_sent and span.end > newest_end) or sent + patience > now:
                return
            following = span.after
            board.mark_lost(span)
            span = following

    def due(self, *, recovering: bool) -> float | None:
        """When the oldest transmission in flight will be overdue; None while nothing says that it might be lost."""
        sentinel = self._board.sentinel
        span = sentinel.after
        if span is sentinel or span.sent > self._sent or (span.sent == self._sent and span.end > self._end):
            return None
        return span.sent + self._patience(recovering)
