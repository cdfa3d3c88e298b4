"""Whether a retransmission was for nothing: F-RTO (RFC 5682), Eifel (RFC 3522, 4015) and DSACK (RFC 3708)."""

from __future__ import annotations

from ztnode.netstack.tcp.sequence import is_before


class Undo:
    """What is known of the episode of recovery at hand."""

    __slots__ = ("_first", "_possible", "_repeated", "frto")

    def __init__(self) -> None:
        self._possible = False
        self._repeated = 0
        """Bytes retransmitted, less those that the peer reported to have twice."""
        self._first: tuple[int, int] | None = None
        """Where the first retransmission of the episode began, and the timestamp that it carried."""
        self.frto = False
        """F-RTO is under way: the timeout may have been spurious."""

    def begin(self) -> None:
        """An episode begins."""
        self._possible = True
        self._repeated = 0
        self._first = None

    def end(self) -> None:
        """It is over, one way or the other."""
        self._possible = False
        self._first = None
        self.frto = False

    def retransmitted(self, start: int, length: int, tsval: int) -> None:
        """``length`` bytes from ``start`` went out again with this timestamp."""
        self._repeated += length
        if self._first is None:
            self._first = start, tsval

    def duplicate_reported(self, length: int) -> None:
        """The peer has so many bytes twice."""
        self._repeated -= length

    def is_spurious(self, echo: int | None, acked: int, before: int, *, watched_arrived: bool) -> bool:
        """Whether an acknowledgement proves it.

        ``acked`` bytes were acknowledged from ``before`` on. ``watched_arrived``: something sent before the episode
        arrived by its first transmission.
        """
        if not self._possible:
            return False
        if self.frto and watched_arrived:
            return True  # F-RTO step 3b: something arrived that was never retransmitted
        if self._first is None:
            return False
        start, tsval = self._first
        # What else fills a hole meanwhile may be a retransmission of an earlier episode, with an older timestamp still.
        if acked > 0 and before == start and echo is not None and is_before(echo, tsval):
            return True  # Eifel: the acknowledgement answers the first transmission
        return self._repeated <= 0  # DSACK: everything that was repeated arrived twice
