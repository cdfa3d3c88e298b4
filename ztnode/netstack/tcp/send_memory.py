"""What all connections together may hold of data that their peers do not acknowledge: peers that die or never read.

The shares are those of ``receive_memory``; here nobody has to be pushed back, for the owner asks how much it may write.
"""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.receive_memory import REFRESH, RESERVED, SHARE
from ztnode.netstack.tcp.tcb import ControlBlock

STALLED: Final = 1.0
"""Seconds without an acknowledgment after which a peer counts as stalled."""


LEAST: Final = 64 * 1024
"""Bytes that every connection may hold. An owner that stopped for want of room is told of acknowledgments alone, not of
what others give free: so there must be room worth going on for once its own data is acknowledged."""


class _Sending:
    """What was seen of one connection when we looked last."""

    __slots__ = ("acknowledged", "held", "since")

    def __init__(self, acknowledged: int, now: float) -> None:
        self.acknowledged = acknowledged
        self.since = now
        """Since when nothing more was acknowledged."""
        self.held = 0


class SendMemory:
    """``limit``: bytes for all connections together."""

    def __init__(self, limit: int) -> None:
        # A quarter is left for the least that each may have: it holds a thousand of them.
        self._limit = limit - limit // 4
        self._limit_of_stalled = limit - limit // RESERVED
        self._sending: dict[ControlBlock, _Sending] = {}
        self._next_refresh = 0.0
        self.total = 0
        """Bytes unacknowledged, as of the last look, and what was written since; without small texts that nothing was
        written beside (``TcpConnection.write``)."""

    def wrote(self, tcb: ControlBlock, size: int, now: float) -> None:
        """So many bytes more wait for their acknowledgment."""
        sending = self._sending.get(tcb)
        if sending is None:
            sending = self._sending[tcb] = _Sending(tcb.snd.buffer.start, now)
        sending.held += size
        self.total += size
        if now >= self._next_refresh:
            self._refresh(now)

    def share(self, tcb: ControlBlock, now: float) -> int:
        """How many bytes this connection may hold."""
        if now >= self._next_refresh:
            self._refresh(now)
        sending = self._sending.get(tcb)
        limit = self._limit if sending is None or now - sending.since < STALLED else self._limit_of_stalled
        return max((limit - self.total) // SHARE, LEAST)

    def remove(self, tcb: ControlBlock) -> None:
        """It is closed."""
        if (sending := self._sending.pop(tcb, None)) is not None:
            self.total -= sending.held

    def _refresh(self, now: float) -> None:
        self._next_refresh = now + REFRESH
        self.total = 0
        for tcb, sending in [*self._sending.items()]:
            buffer = tcb.snd.buffer
            sending.held = len(buffer)
            if not sending.held:
                del self._sending[tcb]
                continue
            self.total += sending.held
            if buffer.start != sending.acknowledged:
                sending.acknowledged = buffer.start
                sending.since = now
