"""What the network reports about a connection: ICMP, or a next hop that does not answer."""

from __future__ import annotations

from ztnode.netstack.tcp.ending import finish
from ztnode.netstack.tcp.sequence import MASK, distance
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.os_error import os_error


def unreachable(tcb: ControlBlock, seq32: int, code: int) -> None:
    """ICMP unreachable, or the next hop does not answer.

    In SYN-SENT the attempt fails with the reason (RFC 5461 section 4); later it is only a hint, because anybody
    could have sent it and the network may heal (RFC 1122 section 4.2.3.9, RFC 5927 section 5.2). So it makes no
    difference here whether RFC 1122 calls the error soft or hard.
    """
    if tcb.state is State.SYN_SENT or (tcb.state is State.SYN_RECEIVED and tcb.listener is None):
        if distance(seq32, tcb.snd.iss) <= 1:
            finish(tcb, os_error(code))
    else:
        tcb.layer.count("icmp_soft")


def in_flight(tcb: ControlBlock, seq32: int) -> bool:
    """Whether a segment that began with ``seq32`` is on its way (RFC 5927 section 4.1)."""
    if tcb.state < State.ESTABLISHED:
        return seq32 == tcb.snd.iss & MASK
    recovery = tcb.snd.recovery
    return distance(seq32, recovery.una) < max(recovery.flight, 1)


def path_mtu_changed(tcb: ControlBlock, seq32: int, now: float) -> None:
    """The flow's MTU was lowered because of a segment of ours (RFC 1191, RFC 8201; the flow has the new value)."""
    if tcb.state < State.ESTABLISHED:
        tcb.renew_segment_size()
    elif in_flight(tcb, seq32) and tcb.renew_segment_size():  # RFC 5927 section 7.2: only about what is in flight
        tcb.snd.recovery.resend_all(now)
        tcb.layer.want_flush(tcb)
