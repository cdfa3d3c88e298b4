"""When to acknowledge what arrived: at once, or a little later in the hope of one acknowledgement for more
(RFC 9293 section 3.8.6.3, RFC 5681 section 4.2)."""

from __future__ import annotations

from typing import Final

_QUICK_ACKS: Final = 16
"""Segments of a new connection (or after a loss) that are acknowledged at once: the peer is in slow start."""


_DELAY: Final = 0.04
"""Seconds. RFC 1122 allows 0.5; 40 ms is what the Linux kernel uses and what peers' RTO minimums (200 ms) expect."""


_ANSWER_DELAY: Final = 0.002
"""Seconds for which a short text waits for our own to carry its acknowledgement, where the two sides take turns; up to
``_DELAY`` where ours has been seen to take longer."""
_TURNS: Final = 2
"""Short texts in a row that ours followed: then they do."""


class DelayedAck:
    """What we owe the peer in acknowledgements. Sizes in bytes, times in seconds."""

    __slots__ = (
        "_arrived_at",
        "_decided",
        "_late",
        "_patience",
        "_unanswered",
        "delayed_at",
        "dsack",
        "due",
        "duplicates",
        "fresh_ranges",
        "quick",
        "short",
        "turns",
        "unacked",
    )

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
        self.turns = 0
        """Batches of text in a row, to ``_TURNS``, each of which was followed by text of ours."""
        self._unanswered = False
        """None of ours has followed the last batch."""
        self._arrived_at = 0.0
        self._late = False
        """Ours had not followed when the time to wait for it was over."""
        self._patience = _ANSWER_DELAY
        self._decided = 0
        """Of ``unacked``, what the last decision was about."""
        self.duplicates = 0
        """Out-of-order or repeated segments since the last acknowledgement: a peer without SACK counts our ACKs."""
        self.fresh_ranges = 0
        """Ranges out of order that are new since then."""
        self.dsack: tuple[int, int] | None = None
        """What came again, for the next DSACK block (RFC 2883)."""

    def decide(self, now: float, peer_segment: int) -> float:
        """After a batch: acknowledge at once, or wait for more. The seconds of a wait that begins now; 0 for none.

        At once for every second full-size segment (RFC 5681 section 4.2; a batch counts as one, as with the kernel's
        GRO), while the peer is in slow start, and when the last segment was a short one: then the peer has nothing
        more to say, or Nagle's algorithm keeps the rest of it back until we acknowledge (RFC 896).

        Where single short segments and text of our owner have followed each other, as requests and answers do, that
        text may carry the acknowledgement: it saves a frame each way through the overlay. Who writes an answer in two
        parts sends twice in a row, which ends it: two milliseconds are lost then, once in three turns. Where our owner
        takes longer than we wait, as on a busy machine, the next wait is twice as long. (The kernel's way, by a delay
        of 40 ms and the "pingpong" mode of tcp_input.c.)
        """
        if self.due or not self.unacked or (self.delayed_at is not None and self.unacked == self._decided):
            return 0.0
        self._decided = self.unacked
        if self._unanswered:
            self.turns = 0
            self._patience = _ANSWER_DELAY
        self._unanswered = True
        self._late = False
        self._arrived_at = now
        if self.short and self.unacked <= peer_segment and self.turns >= _TURNS:
            self.delayed_at = now + self._patience
            return self._patience
        if self.short or self.unacked > peer_segment:
            self.due = True
        elif self.quick > 0:
            self.quick -= 1
            self.due = True
        elif self.delayed_at is None:
            self.delayed_at = now + _DELAY
            return _DELAY
        return 0.0

    def irregular(self) -> None:
        """A segment came out of order or again: the peer must hear of it at once, and of what follows."""
        self.duplicates += 1
        self.due = True
        self.quick = _QUICK_ACKS

    def on_timer(self) -> None:
        """Nothing more came."""
        self.turns = 0
        self._late = True
        self.delayed_at = None
        self.due = True

    def carried(self, now: float, *, owes_more: bool) -> None:
        """Data of ours carried the acknowledgement. ``owes_more``: but not all that there is to say (SACK blocks)."""
        if self._unanswered:
            self._unanswered = False
            if not self._late:
                if self.turns < _TURNS:
                    self.turns += 1
            elif now - self._arrived_at <= _DELAY:  # what follows later is no turn
                self.turns = _TURNS
                self._patience = min(2 * self._patience, _DELAY)
        self._decided = 0
        self.unacked = 0
        self.delayed_at = None
        if not (owes_more or self.dsack or self.duplicates):
            self.due = False

    def sent(self) -> None:
        """All was said."""
        self._decided = 0
        self.unacked = 0
        self.delayed_at = None
        self.due = False
        self.duplicates = 0
        self.fresh_ranges = 0
        self.dsack = None
