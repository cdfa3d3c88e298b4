"""The handshake (RFC 9293 section 3.5): active and passive open, what a SYN says, and its repetition."""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.ending import become, shut_down
from ztnode.netstack.tcp.framing import HeaderFields
from ztnode.netstack.tcp.rtt import INITIAL_RTO, MAX_RTO
from ztnode.netstack.tcp.segment_size import DEFAULT_PEER_MSS, MIN_MSS
from ztnode.netstack.tcp.state import Event, State
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.netstack.tcp.timers import arm_keepalive
from ztnode.wire import tcp as wire

CONNECT_TIMEOUT: Final = 30.0
"""Seconds for a handshake, unless the owner says how long."""
_SYN_RTO: Final = (0.25, 0.5, 1.0)
"""Waits after the first SYNs in seconds; ``rtt`` says why they are shorter than RFC 6298 asks."""


def active_open(tcb: ControlBlock, now: float, timeout: float) -> None:
    """Send a SYN; ``timeout`` seconds for the whole handshake."""
    become(tcb, Event.ACTIVE_OPEN)
    again = send_syn(tcb, now)
    tcb.timers.connect_at = given_up = now + timeout
    tcb.layer.schedule(tcb, again if again < given_up else given_up)


def passive_open(tcb: ControlBlock, seq: int, window: int, options: wire.Options, now: float) -> None:
    """A listener got this SYN."""
    become(tcb, Event.PASSIVE_OPEN)
    become(tcb, Event.RECEIVE_SYN)
    take_syn(tcb, seq, options, now)
    tcb.snd.edge = tcb.snd.iss + 1 + window
    tcb.snd.max_window = window
    tcb.timers.syn_sent_at = now
    tcb.timers.syn_due = now
    tcb.layer.want_flush(tcb)


def take_syn(tcb: ControlBlock, seq: int, options: wire.Options, now: float) -> None:
    """The peer's SYN: its initial sequence number and options (window scale, MSS, SACK, timestamps)."""
    rcv, snd = tcb.rcv, tcb.snd
    rcv.irs = seq
    rcv.nxt = seq + 1
    rcv.window.edge = rcv.nxt + min(rcv.window.limit, 0xFFFF)
    snd.wl1 = seq
    tcb.link.size.peer_mss = max(options.mss if options.mss is not None else DEFAULT_PEER_MSS, MIN_MSS)
    if options.window_scale is not None:
        snd.scale = options.window_scale
        rcv.scale = _offered_scale(tcb)
    else:
        snd.scale = 0
        rcv.scale = 0
        rcv.window.limit = min(rcv.window.limit, 0xFFFF)
        rcv.window.maximum = 0xFFFF
    snd.recovery.sack_ok = options.sack_permitted
    if options.timestamps is not None:
        tcb.timestamps.on = True
        tcb.timestamps.take(options.timestamps[0], now)
    tcb.renew_segment_size()
    cc = snd.recovery.cc
    rcv.mss = min(DEFAULT_PEER_MSS, cc.mss)
    cc.cwnd = cc.initial_window() if tcb.timers.syn_retries <= 2 else cc.mss  # RFC 6928 section 2


def _offered_scale(tcb: ControlBlock) -> int:
    """The shift with which 16 bits name our largest window (RFC 7323 section 2.3)."""
    return min(max(tcb.config.receive_buffer_max.bit_length() - 16, 0), wire.MAX_WINDOW_SCALE)


def send_syn(tcb: ControlBlock, now: float) -> float:
    """SYN or SYN-ACK, first or again; when to repeat it."""
    answering = tcb.state is State.SYN_RECEIVED
    timers = tcb.timers
    retries = timers.syn_retries
    if answering:
        interval = INITIAL_RTO * (1 << retries)
    elif retries < len(_SYN_RTO):
        interval = _SYN_RTO[retries]
    else:
        interval = _SYN_RTO[-1] * (1 << (retries - len(_SYN_RTO) + 1))
    again = timers.syn_due = now + (interval if interval < MAX_RTO else MAX_RTO)
    if retries == 0:
        timers.syn_sent_at = now
    window = min(tcb.rcv.window.limit, 0xFFFF)  # RFC 7323 section 2.2: never scaled in a SYN
    flags, ack = (wire.SYN | wire.ACK, tcb.rcv.nxt) if answering else (wire.SYN, 0)
    snd, timestamps = tcb.snd, tcb.timestamps
    mss, tsval = tcb.link.size.offer, timestamps.clock(now)
    if answering and not _has_all(tcb):
        fields = HeaderFields(ack, window, _fewer_options(tcb, mss, tsval))
        frame = snd.writer.control(snd.iss, flags, fields)
    else:
        frame = snd.writer.syn(snd.iss, ack, flags, window, mss, _offered_scale(tcb), tsval, timestamps.recent)
    tcb.link.flow.send((frame,))
    return again


def _has_all(tcb: ControlBlock) -> bool:
    """Whether the peer's SYN had all the options that ours has."""
    return tcb.timestamps.on and tcb.snd.recovery.sack_ok and bool(tcb.rcv.scale or tcb.snd.scale)


def _fewer_options(tcb: ControlBlock, mss: int, tsval: int) -> bytes:
    """Of an answer to a SYN that had not all."""
    return wire.build_options(
        wire.Options(
            mss=mss,
            window_scale=_offered_scale(tcb) if tcb.rcv.scale or tcb.snd.scale else None,
            sack_permitted=tcb.snd.recovery.sack_ok,
            timestamps=(tsval, tcb.timestamps.recent) if tcb.timestamps.on else None,
        )
    )


def established(tcb: ControlBlock, event: Event, now: float) -> None:
    """The handshake is complete. A ``shutdown`` that came too early has waited for this (RFC 9293 section 3.10.4)."""
    snd, timers = tcb.snd, tcb.timers
    shut = snd.fin_queued
    snd.fin_queued = False
    become(tcb, event)
    timers.syn_due = None
    timers.connect_at = None
    if timers.syn_retries == 0:
        snd.rtt.sample(max(now - timers.syn_sent_at, 1e-6), now)
    snd.last_progress = now
    tcb.link.flow.confirm(now)
    if timers.keepalive:
        arm_keepalive(tcb, now)
    if tcb.listener is not None:
        tcb.listener.opened(tcb.link.key)
    tcb.notify()
    tcb.layer.want_flush(tcb)
    if shut:
        shut_down(tcb)
