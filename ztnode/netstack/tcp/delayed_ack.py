"""When to acknowledge what arrived: at once, or a little later in the hope of one acknowledgement for more
(RFC 9293 section 3.8.6.3, RFC 5681 section 4.2)."""

from __future__ import annotations

from typing import Final

_QUICK_ACKS: Final = 16
"""Segments of a new connection (or after a loss) that are acknowledged at once: the peer is in slow start."""


_DELAY: Final = 0.04
"""Seconds. RFC 1122 allows 0.5; 40 ms is what the Linux kernel uses and what peers' RTO minimums (200 ms) expect."""


class DelayedAck:
    """What we owe the peer in acknowledgements. Sizes in bytes, times in seconds."""

    __slots__ = ("delayed_at", "dsack", "due", "duplicates", "fresh_ranges", "quick", "short", "unacked")

    def __init__(self) -> None:
        self.due = False
        """An acknowledgement goes out with the next flush."""
        self.delayed_at: float | None = None
        """Otherwise one goes out then."""
        self.unacked = 0
        """Bytes arrived in order since the last acknowledgement."""
        self.short = False
        """The last text was less than a full segment."""
        self.quick = _QUICK_ACKS
        self.duplicates = 0
        """Out-of-order or repeated segments since the last acknowledgement: a peer without SACK counts our ACKs."""
        self.fresh_ranges = 0
        """Ranges out of order that are new since then."""
        self.dsack: tuple[int, int] | None = None
        """What came again, for the next DSACK block (RFC 2883)."""

    def decide(self, now: float, peer_segment: int) -> None:
        """After a batch: acknowledge at once, or wait for more.

        At once for every second full-size segment (RFC 5681 section 4.2; a batch counts as one, as with the kernel's
        GRO), while the peer is in slow start, and when the last segment was a short one: then the peer has nothing
        more to say, or Nagle's algorithm keeps the rest of it back until we acknowledge (RFC 896). To wait for an
        answer of our owner that could carry the acknowledgement would save a frame where the owner is quick, and cost
        the whole delay wherever a server writes head and body apart; the two cannot be told apart beforehand.
        """
        if self.due or not self.unacked:
            return
        if self.short or self.unacked > peer_segment:
            self.due = True
        elif self.quick > 0:
            self.quick -= 1
            self.due = True
        elif self.delayed_at is None:
            self.delayed_at = now + _DELAY

    def irregular(self) -> None:
        """A segment came out of order or again: the peer must hear of it at once, and of what follows."""
        self.duplicates += 1
        self.due = True
        self.quick = _QUICK_ACKS

    def on_timer(self) -> None:
        """Nothing more came."""
        self.delayed_at = None
        self.due = True

    def carried(self, *, owes_more: bool) -> None:
        """Data of ours carried the acknowledgement. ``owes_more``: but not all that there is to say (SACK blocks)."""
        self.unacked = 0
        self.delayed_at = None
        if not (owes_more or self.dsack or self.duplicates):
            self.due = False

    def sent(self) -> None:
        """All was said."""
        self.unacked = 0
        self.delayed_at = None
        self.due = False
        self.duplicates = 0
        self.fresh_ranges = 0
        self.dsack = None
