"""What time brings (RFC 9293 section 3.10.8): retransmission, probes, time limits of states."""

from __future__ import annotations

from typing import Final

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.control_segments import header_fields
from ztnode.netstack.tcp.ending import finish, timed_out
from ztnode.netstack.tcp.recovery import TimerKind
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcb import ControlBlock

_USER_TIMEOUT: Final = 120.0
"""Unacknowledged data older than this ends the connection with ETIMEDOUT (RFC 9293 section 3.8.3: at least 100 s)."""
_SYN_ACK_RETRIES: Final = 5
_BLACK_HOLE_TIMEOUTS: Final = 3


def next_deadline(tcb: ControlBlock) -> float | None:
    """The earliest of our timers, but for the delayed acknowledgement (``ack_delays``)."""
    snd, timers = tcb.snd, tcb.timers
    due = snd.recovery.due()
    # The rest is rare, and this is asked for each request.
    if snd.persist_at is not None or snd.paced_at is not None:
        due = _earliest(due, snd.persist_at, snd.paced_at)
    other = timers.keepalive_at
    if other is not None and (due is None or other < due):
        due = other
    if timers.syn_due is not None or timers.connect_at is not None or timers.fin_wait_2_at is not None:
        due = _earliest(due, timers.syn_due, timers.connect_at, timers.fin_wait_2_at)
    return due


def _earliest(*times: float | None) -> float | None:
    earliest = None
    for time in times:
        if time is not None and (earliest is None or time < earliest):
            earliest = time
    return earliest


def handle_timer(tcb: ControlBlock, now: float) -> None:
    """Whatever is due."""
    if tcb.closed or _limit_of_state(tcb, now) or _keepalive_timer(tcb, now) or _syn_timer(tcb, now):
        return
    acks, snd = tcb.rcv.acks, tcb.snd
    if acks.delayed_at is not None and acks.delayed_at <= now:
        acks.on_timer()
    if snd.paced_at is not None and snd.paced_at <= now:
        snd.paced_at = None  # the flush sends on, if there is still something to send
    frames: list[Frame] = []
    if _retransmission_timer(tcb, frames, now) or _persist_timer(tcb, frames, now):
        return
    if frames:
        tcb.link.flow.send(frames)
    tcb.layer.want_flush(tcb)


# --- each of these says whether the connection is over ---
def _limit_of_state(tcb: ControlBlock, now: float) -> bool:
    """The attempt to connect took too long, or an orphan's peer does not close."""
    timers = tcb.timers
    if timers.connect_at is not None and timers.connect_at <= now:
        timed_out(tcb)
        return True
    if timers.fin_wait_2_at is not None and timers.fin_wait_2_at <= now:
        finish(tcb, None)
        return True
    return False


def _syn_timer(tcb: ControlBlock, now: float) -> bool:
    """A SYN or SYN-ACK was not answered: the flush repeats it."""
    timers = tcb.timers
    if timers.syn_due is None or timers.syn_due > now:
        return False
    timers.syn_retries += 1
    if tcb.state is State.SYN_RECEIVED and timers.syn_retries > _SYN_ACK_RETRIES:
        timed_out(tcb)
        return True
    return False


def _retransmission_timer(tcb: ControlBlock, frames: list[Frame], now: float) -> bool:
    """One of RFC 8985's timers or the retransmission timeout (RFC 6298)."""
    snd, recovery = tcb.snd, tcb.snd.recovery
    due = recovery.due()
    if due is None or due > now:
        return False
    timer = recovery.timer
    if timer == TimerKind.REORDER:
        recovery.on_reorder_timer(now)
        return False
    if timer == TimerKind.TAIL_PROBE:
        snd.tail_probe(frames, header_fields(tcb, now), now)
        return False
    if now - snd.last_progress > _USER_TIMEOUT:
        timed_out(tcb)
        return True
    recovery.on_timeout(now)
    full_size = recovery.flight >= recovery.cc.mss
    if full_size and recovery.consecutive_timeouts >= _BLACK_HOLE_TIMEOUTS and tcb.link.size.step_down(now):
        tcb.layer.count("path_mtu_black_hole")
        tcb.renew_segment_size()
    return False


def _persist_timer(tcb: ControlBlock, frames: list[Frame], now: float) -> bool:
    """Ask about a window that is shut (RFC 9293 section 3.8.6.1), or give up."""
    snd = tcb.snd
    if snd.persist_at is None or snd.persist_at > now:
        return False
    if _window_stays_shut(tcb, now):
        timed_out(tcb)
        return True
    snd.on_persist(frames, header_fields(tcb, now), now)
    return False


def _window_stays_shut(tcb: ControlBlock, now: float) -> bool:
    """Whether to stop asking: the peer does not answer, or nobody would learn that it ever opened its window."""
    snd, config = tcb.snd, tcb.config
    if now - snd.persist_since > _USER_TIMEOUT:
        return True
    if not tcb.orphaned:
        return False
    if tcb.orphan_asks_since is None:
        tcb.orphan_asks_since = now
    return now - max(tcb.orphan_asks_since, snd.last_progress) > config.orphan_timeout


def _keepalive_timer(tcb: ControlBlock, now: float) -> bool:
    """RFC 1122 section 4.2.3.6: has the peer been heard lately; if not, ask it."""
    config, timers = tcb.config, tcb.timers
    if timers.keepalive_at is None or timers.keepalive_at > now:
        return False
    timers.keepalive_at = None
    if not timers.keepalive:
        return False
    remaining = config.keepalive_idle - (now - max(tcb.rcv.arrived_at, tcb.snd.last_progress))
    if remaining > 0.001 and not timers.keepalive_sent:
        timers.keepalive_at = now + remaining
        return False
    if timers.keepalive_sent >= config.keepalive_probes:
        timed_out(tcb)
        return True
    timers.keepalive_sent += 1
    timers.keepalive_at = now + config.keepalive_interval
    tcb.link.flow.send([tcb.snd.probe(header_fields(tcb, now))])
    return False


def arm_keepalive(tcb: ControlBlock, now: float) -> None:
    """The peer was heard: begin anew to count the silence. (An orphan's time in FIN-WAIT-2 is limited anyway.)"""
    timers = tcb.timers
    if timers.keepalive and not (tcb.orphaned and tcb.state is State.FIN_WAIT_2):
        timers.keepalive_sent = 0
        timers.keepalive_at = now + tcb.config.keepalive_idle
