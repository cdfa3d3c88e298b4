"""The handshake (RFC 9293 section 3.5): active and passive open, what a SYN says, and its repetition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztnode.netstack.tcp.control_segments import tsval
from ztnode.netstack.tcp.ending import become
from ztnode.netstack.tcp.segment_size import DEFAULT_PEER_MSS, MIN_MSS, renew
from ztnode.netstack.tcp.state import Event, State
from ztnode.netstack.tcp.timers import arm_keepalive
from ztnode.wire import tcp as wire

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection


def active_open(connection: TcpConnection, now: float, timeout: float) -> None:
    """Send a SYN; `timeout` seconds for the whole handshake."""
    become(connection, Event.ACTIVE_OPEN)
    connection.syn_sent_at = now
    connection.syn_due = now
    connection.state_timer_at = now + timeout
    connection.layer.want_flush(connection)


def passive_open(connection: TcpConnection, seq: int, window: int, options: wire.Options, now: float) -> None:
    """A listener got this SYN."""
    become(connection, Event.PASSIVE_OPEN)
    become(connection, Event.RECEIVE_SYN)
    take_syn(connection, seq, options, now)
    connection.snd.wl1 = seq
    connection.snd.edge = connection.snd.iss + 1 + window
    connection.snd.max_window = window
    connection.syn_sent_at = now
    connection.syn_due = now
    connection.layer.want_flush(connection)


def take_syn(connection: TcpConnection, seq: int, options: wire.Options, now: float) -> None:
    """The peer's SYN: its initial sequence number and options (window scale, MSS, SACK, timestamps)."""
    rcv, snd = connection.rcv, connection.snd
    rcv.irs = seq
    rcv.nxt = seq + 1
    rcv.window.edge = rcv.nxt + min(rcv.window.limit, 0xFFFF)
    snd.wl1 = seq
    connection.size.peer_mss = max(options.mss if options.mss is not None else DEFAULT_PEER_MSS, MIN_MSS)
    if options.window_scale is not None:
        snd.scale = options.window_scale
        rcv.scale = _offered_scale(connection)
    else:
        snd.scale = 0
        rcv.scale = 0
        rcv.window.limit = min(rcv.window.limit, 0xFFFF)
        rcv.window.maximum = 0xFFFF
    snd.sack_ok = snd.recovery.sack_ok = options.sack_permitted
    if options.timestamps is not None:
        connection.ts_ok = True
        rcv.ts_recent = options.timestamps[0]
        rcv.ts_recent_at = now
    renew(connection)
    rcv.mss = min(DEFAULT_PEER_MSS, snd.mss)
    cc = snd.recovery.cc
    cc.cwnd = cc.initial_window() if connection.syn_retries <= 2 else snd.mss  # RFC 6928 section 2


def _offered_scale(connection: TcpConnection) -> int:
    scale = 0
    while scale < wire.MAX_WINDOW_SCALE and (connection.config.receive_buffer_max >> scale) > 0xFFFF:
        scale += 1
    return scale


def _syn_options(connection: TcpConnection, answering: bool) -> bytes:
    rcv, snd = connection.rcv, connection.snd
    timestamps = None
    if not answering or connection.ts_ok:
        timestamps = (tsval(connection, connection.layer.now), rcv.ts_recent if connection.ts_ok else 0)
    return wire.build_options(
        wire.Options(
            mss=connection.size.offer,
            window_scale=_offered_scale(connection) if not answering or rcv.scale or snd.scale else None,
            sack_permitted=not answering or snd.sack_ok,
            timestamps=timestamps,
        )
    )


def send_syn(connection: TcpConnection, now: float) -> None:
    """SYN or SYN-ACK, first or again, and when to repeat it."""
    answering = connection.state is State.SYN_RECEIVED
    config = connection.config
    retries = connection.syn_retries
    if answering:
        interval = config.initial_rto * (1 << retries)
    elif retries < len(config.syn_rto):
        interval = config.syn_rto[retries]
    else:
        interval = config.syn_rto[-1] * (1 << (retries - len(config.syn_rto) + 1))
    connection.syn_due = now + min(interval, config.max_rto)
    if retries == 0:
        connection.syn_sent_at = now
    window = min(connection.rcv.window.limit, 0xFFFF)  # RFC 7323 section 2.2: never scaled in a SYN
    flags, ack = (wire.SYN | wire.ACK, connection.rcv.nxt) if answering else (wire.SYN, 0)
    snd = connection.snd
    connection.flow.send([snd.writer.control(snd.iss, ack, flags, window, _syn_options(connection, answering))])


def established(connection: TcpConnection, event: Event, now: float) -> None:
    """The handshake is complete. A `shutdown` that came too early has waited for this (RFC 9293 section 3.10.4)."""
    snd = connection.snd
    shut = snd.fin_queued
    snd.fin_queued = False
    become(connection, event)
    connection.syn_due = None
    connection.state_timer_at = None
    if connection.syn_retries == 0:
        snd.rtt.sample(max(now - connection.syn_sent_at, 1e-6), now)
    snd.last_progress = now
    connection.flow.confirm(now)
    arm_keepalive(connection, now)
    if connection.listener is not None:
        connection.listener.opened(connection)
    connection.notify()
    connection.layer.want_flush(connection)
    if shut:
        connection.shutdown()
