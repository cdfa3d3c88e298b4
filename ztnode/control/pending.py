"""Connections between being opened and being claimed: which worker a token belongs to."""

from __future__ import annotations

from collections import OrderedDict

from ztnode.node.api import Handoff


class PendingConnections:
    """Remembers for a minute where a token can be redeemed; bounded, the oldest is forgotten first."""

    LIFETIME = 60.0
    LIMIT = 16384

    def __init__(self) -> None:
        self._pending: OrderedDict[bytes, tuple[float, Handoff]] = OrderedDict()

    def add(self, handoff: Handoff, now: float) -> None:
        """Remember ``handoff``. ``now``: monotonic seconds."""
        pending = self._pending
        while pending and (len(pending) >= self.LIMIT or next(iter(pending.values()))[0] <= now):
            pending.popitem(last=False)
        pending[handoff.token] = (now + self.LIFETIME, handoff)

    def take(self, token: bytes, now: float) -> Handoff | None:
        """What ``token`` stands for, once; None when unknown or too old."""
        found = self._pending.pop(token, None)
        if found is None or found[0] <= now:
            return None
        return found[1]
