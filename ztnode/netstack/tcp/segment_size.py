"""How large a segment may be: the path's MTU, what the peer takes, and what a black hole taught us.

The size of a full segment that follows is kept in one place, ``CongestionControl.mss``, whose unit it is.
"""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.ip_service import IpFlow

DEFAULT_PEER_MSS: Final = 536
"""What a peer takes that does not say (RFC 9293 section 3.7.1), bytes."""
MIN_MSS: Final = 88
"""Less would let a peer make us send headers only (the kernel's floor is of this order)."""
_TIMESTAMPS: Final = 12
_BLACK_HOLE_STEPS: Final = (1280, 576)
_BLACK_HOLE_HOLD: Final = 4.0
_BLACK_HOLE_HOLD_MAX: Final = 600.0
"""Seconds until the full size is tried again: heavy loss looks like a black hole, so the first suspicion is short; it
doubles each time up to RFC 1191 section 6.3's ten minutes."""


class SegmentSize:
    """The bounds of one connection's segments. Sizes in bytes, times in seconds."""

    __slots__ = ("_flow", "_headers", "_hold", "cap", "cap_until", "generation", "peer_mss")

    def __init__(self, flow: IpFlow) -> None:
        self._flow = flow
        self._headers = 40 if len(flow.local) == 4 else 60
        self._hold = _BLACK_HOLE_HOLD
        self.peer_mss = DEFAULT_PEER_MSS
        self.cap: int | None = None
        """An MTU below the flow's, because full-size packets vanish."""
        self.cap_until = 0.0
        self.generation = flow.generation
        """The flow's when the segment size was last computed."""

    @property
    def offer(self) -> int:
        """The MSS option of our SYN: what our side of the path takes (RFC 6691: options not subtracted)."""
        return max(MIN_MSS, min(self._flow.mtu, self._flow.takes, 0xFFFF) - self._headers)

    @property
    def path_mss(self) -> int:
        """Payload and options that one packet carries on this path, as far as we know."""
        mtu = self._flow.mtu
        if self.cap is not None and self.cap < mtu:
            mtu = self.cap
        return mtu - self._headers

    def effective(self, timestamps: bool) -> int:
        """Payload of a full segment (RFC 9293 section 3.7.1, Eff.snd.MSS), in whole 32-bit words for the checksum."""
        self.generation = self._flow.generation
        mss = min(self.path_mss, self.peer_mss) - (_TIMESTAMPS if timestamps else 0)
        return max(mss, MIN_MSS - _TIMESTAMPS) & ~3

    def step_down(self, now: float) -> bool:
        """Full-size segments time out again and again: perhaps the path drops them in silence (RFC 2923, RFC 4821).

        True when there is a smaller size to try.
        """
        mtu = self.path_mss + self._headers
        floor = _BLACK_HOLE_STEPS[-1] if self._headers == 40 else _BLACK_HOLE_STEPS[0]
        for step in _BLACK_HOLE_STEPS:
            if floor <= step < mtu:
                self.cap = step
                self.cap_until = now + self._hold
                self._hold = min(2 * self._hold, _BLACK_HOLE_HOLD_MAX)
                return True
        return False
