"""What all connections together may hold of data that nobody reads: clients that die, stall or never read.

A connection that nobody reads may hold a share of what is still free (the dynamic thresholds of Choudhury and Hahne,
"Dynamic queue length thresholds for shared-memory packet switches", 1998): a few may hold much, many hold little each,
and those that have held most for longest are pushed back first. Half of the bound is for those whose readers are slow
and live, so that they do not notice the others.

To push back is to withdraw a window that was offered. RFC 9293 section 3.8.6 wants that of nobody without need, and
senders must be able to bear it; what arrives beyond the window is dropped and comes again.
"""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.tcb import ControlBlock

LIVES: Final = 1.0
"""Seconds for which a reader that took something counts as one that lives."""
LEAST_WINDOW: Final = 32 * 1024
"""Bytes that every connection may hold, so that it can go on when it is read again."""
REFRESH: Final = 0.05
"""Seconds between two looks at what was read meanwhile."""
SHARE: Final = 8
"""The part of what is free that is one connection's share."""
RESERVED: Final = 2
"""The part of the bound that is not for stalled ones: it is for those that are slow and live, and for what a new one
holds before it is noticed, a batch of frames at the most."""


class ReceiveMemory:
    """``limit``: bytes for all connections together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._limit_of_stalled = limit - limit // RESERVED
        self._held: dict[ControlBlock, int] = {}
        self._next_refresh = 0.0
        self.total = 0
        """Bytes unread, as far as it was noted."""
        self.pushed_back = 0
        """How often a window was withdrawn."""

    def note(self, tcb: ControlBlock, now: float) -> bool:
        """A batch left something unread. True if the peer was pushed back, and is to hear of it."""
        if now >= self._next_refresh:
            self._refresh(now)
        size = tcb.rcv.held
        self.total += size - self._held.get(tcb, 0)
        self._held[tcb] = size
        limit = self._limit if now - tcb.rcv.progressed_at < LIVES else self._limit_of_stalled
        share = max((limit - self.total) // SHARE, LEAST_WINDOW)
        return size > share and self._push_back(tcb, share)

    def remove(self, tcb: ControlBlock) -> None:
        """It is closed."""
        if (known := self._held.pop(tcb, None)) is not None:
            self.total -= known

    def _refresh(self, now: float) -> None:
        self._next_refresh = now + REFRESH
        self.total = 0
        for tcb in [*self._held]:
            size = tcb.rcv.held
            if size:
                self._held[tcb] = size
                self.total += size
            else:
                del self._held[tcb]

    def _push_back(self, tcb: ControlBlock, share: int) -> bool:
        rcv = tcb.rcv
        window = rcv.window
        window.limit = min(window.limit, max(share - rcv.reassembly.cost, LEAST_WINDOW))
        edge = rcv.nxt + max(0, window.limit - rcv.unread)
        if edge >= window.edge:
            return False
        window.edge = edge
        if rcv.reassembly and rcv.reassembly.cost > share:
            rcv.reassembly.clear()  # RFC 2018 section 8 allows it: it was never acknowledged
        self.pushed_back += 1
        rcv.acks.due = True
        return True
