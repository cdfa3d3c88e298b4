"""What time brings (RFC 9293 section 3.10.8): retransmission, probes, time limits of states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztnode.netstack.tcp.control_segments import announced_window, timestamps_option, tsval
from ztnode.netstack.tcp.ending import finish, timed_out
from ztnode.netstack.tcp.network import Frame
from ztnode.netstack.tcp.recovery import Timer
from ztnode.netstack.tcp.segment_size import renew
from ztnode.netstack.tcp.state import State

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

_SYN_ACK_RETRIES = 5
_BLACK_HOLE_TIMEOUTS = 3


def next_deadline(connection: TcpConnection) -> float | None:
    """The earliest of our timers."""
    snd = connection.snd
    due = snd.recovery.deadline
    for other in (
        connection.rcv.delayed_at,
        snd.persist_at,
        snd.paced_at,
        connection.state_timer_at,
        connection.syn_due,
    ):
        if other is not None and (due is None or other < due):
            due = other
    return due


def handle_timer(connection: TcpConnection, now: float) -> None:
    """Whatever is due."""
    if connection.state is State.CLOSED or connection.state is State.TIME_WAIT:
        return
    rcv, snd = connection.rcv, connection.snd
    at = connection.state_timer_at
    if at is not None and at <= now and not _state_timer(connection, now):
        return
    at = connection.syn_due
    if at is not None and at <= now and not _syn_timer(connection):
        return
    if rcv.delayed_at is not None and rcv.delayed_at <= now:
        rcv.on_delayed_ack()
    if snd.paced_at is not None and snd.paced_at <= now:
        snd.paced_at = None  # the flush sends on, if there is still something to send
    frames: list[Frame] = []
    at = snd.recovery.deadline
    if at is not None and at <= now and not _retransmission_timer(connection, frames, now):
        return
    if snd.persist_at is not None and snd.persist_at <= now:
        if _window_stays_shut(connection, now):
            timed_out(connection)
            return
        options = timestamps_option(connection, now)
        snd.on_persist(frames, rcv.nxt, announced_window(connection), options, now)
    if frames:
        connection.flow.send(frames)
    connection.layer.want_flush(connection)


def _syn_timer(connection: TcpConnection) -> bool:
    """A SYN or SYN-ACK was not answered; False when that was the last."""
    connection.syn_retries += 1
    if connection.state is State.SYN_RECEIVED and connection.syn_retries > _SYN_ACK_RETRIES:
        timed_out(connection)
        return False
    return True  # flush repeats it


def _retransmission_timer(connection: TcpConnection, frames: list[Frame], now: float) -> bool:
    """One of RFC 8985's timers or the retransmission timeout (RFC 6298); False when the connection is over."""
    snd, recovery = connection.snd, connection.snd.recovery
    timer = recovery.timer
    if timer == Timer.REORDER:
        recovery.on_reorder_timer(now)
        return True
    if timer == Timer.TAIL_PROBE:
        options = timestamps_option(connection, now)
        window = announced_window(connection)
        snd.tail_probe(frames, connection.rcv.nxt, window, options, tsval(connection, now), now)
        return True
    if now - snd.last_progress > connection.config.user_timeout:
        timed_out(connection)
        return False
    recovery.on_timeout(now)
    full_size = recovery.flight >= snd.mss
    if full_size and recovery.consecutive_timeouts >= _BLACK_HOLE_TIMEOUTS and connection.size.step_down(now):
        connection.layer.count("path_mtu_black_hole")
        renew(connection)
    return True


def _window_stays_shut(connection: TcpConnection, now: float) -> bool:
    """Whether to stop asking: the peer does not answer, or nobody would learn that it ever opened its window."""
    snd, config = connection.snd, connection.config
    if now - snd.persist_since > config.user_timeout:
        return True
    if not connection.orphaned:
        return False
    if connection.orphan_asks_since is None:
        connection.orphan_asks_since = now
    return now - max(connection.orphan_asks_since, snd.last_progress) > config.orphan_timeout


def _state_timer(connection: TcpConnection, now: float) -> bool:
    """Connect timeout, FIN-WAIT-2 or keep-alive, whichever the state has."""
    state = connection.state
    connection.state_timer_at = None
    if state is State.SYN_SENT or state is State.SYN_RECEIVED:
        timed_out(connection)
        return False
    if state is State.FIN_WAIT_2 and connection.orphaned:
        finish(connection, None)
        return False
    if connection.keepalive:
        return _keepalive_timer(connection, now)
    return True


def _keepalive_timer(connection: TcpConnection, now: float) -> bool:
    """RFC 1122 section 4.2.3.6; False when the peer is gone."""
    config = connection.config
    remaining = config.keepalive_idle - (now - max(connection.rcv.arrived_at, connection.snd.last_progress))
    if remaining > 0.001 and not connection.keepalive_sent:
        connection.state_timer_at = now + remaining
        return True
    if connection.keepalive_sent >= config.keepalive_probes:
        timed_out(connection)
        return False
    connection.keepalive_sent += 1
    connection.state_timer_at = now + config.keepalive_interval
    options = timestamps_option(connection, now)
    connection.flow.send([connection.snd.probe(connection.rcv.nxt, announced_window(connection), options)])
    return True


def arm_keepalive(connection: TcpConnection, now: float) -> None:
    """The peer was heard: begin anew to count the silence. (An orphan's time in FIN-WAIT-2 is limited anyway.)"""
    if connection.keepalive and not (connection.orphaned and connection.state is State.FIN_WAIT_2):
        connection.keepalive_sent = 0
        connection.state_timer_at = now + connection.config.keepalive_idle
