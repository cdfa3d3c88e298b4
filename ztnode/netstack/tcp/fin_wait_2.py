"""The FIN-WAIT-2 timer: an orphan does not wait for the peer's FIN for ever, whatever else the peer says.

RFC 9293 has no such limit, because there somebody may still read. A connection whose owner closed it has nobody; the
kernel bounds it likewise (``tcp_fin_timeout``).
"""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcb import ControlBlock

FIN_WAIT_2_TIMEOUT: Final = 60.0
"""Seconds."""


def watch(tcb: ControlBlock) -> None:
    """Perhaps the wait begins here: the owner closed, or the last byte was acknowledged."""
    if tcb.orphaned and tcb.state is State.FIN_WAIT_2:
        tcb.timers.fin_wait_2_at = None  # ``arm`` sets it at the next flush, which knows the time
        tcb.timers.keepalive_at = None
        tcb.layer.orphan_waits_for_fin(tcb)
        tcb.layer.want_flush(tcb)


def arm(tcb: ControlBlock, now: float) -> None:
    """Start the timer if the wait has begun."""
    if tcb.state is State.FIN_WAIT_2 and tcb.orphaned and tcb.timers.fin_wait_2_at is None:
        tcb.timers.fin_wait_2_at = now + FIN_WAIT_2_TIMEOUT
