"""A segment arrives (RFC 9293 section 3.10.7), in the order of the RFC.

Driven per batch. `segment` takes one segment and only notes what follows from it; `batch_end` draws the conclusions
once (acknowledgements are cumulative), and `output.flush` sends. The body of `segment` is the fast path (header
prediction): the next segment in order, or an acknowledgement of new data, in the states where nothing else can follow
from it (`ending.predict`). Everything else takes the long way, `_arrived`, with the steps of section 3.10.7.4.

Sequence numbers come as 32-bit values and are unwrapped at once into growing integers, so that every comparison
below is plain arithmetic.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ztnode.netstack.tcp import acknowledgement
from ztnode.netstack.tcp.control_segments import challenge, send_reset
from ztnode.netstack.tcp.ending import PREDICTS_TEXT, become, error_of, finish, predict
from ztnode.netstack.tcp.opening import established, take_syn
from ztnode.netstack.tcp.state import RECEIVES_TEXT, Event, State
from ztnode.netstack.tcp.timers import arm_keepalive
from ztnode.wire import tcp as wire

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
_ACK = wire.ACK
_NOT_PSH = 0xFF & ~wire.PSH
_PAWS_IDLE = 24 * 86400.0
_OLD_ACK = 1 << 30
"""How far behind the window an unacceptable segment may begin and its acknowledgement still be believed, bytes."""


def segment(
    connection: TcpConnection,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    tsval: int,
    tsecr: int,
    payload: memoryview | None,
    options: wire.Options,
    now: float,
) -> None:
    """One segment with a good checksum. Numbers as on the wire; `tsval` is -1 without timestamps option."""
    rcv = connection.rcv
    predicts = connection.predicts
    if (
        predicts
        and flags & _NOT_PSH == _ACK
        and seq == rcv.nxt & _MASK
        and not options.sack
        and (not connection.ts_ok or (tsval >= 0 and not (tsval - rcv.ts_recent) & _HALF))
    ):
        snd = connection.snd
        recovery = snd.recovery
        una = connection.ack_pending if connection.ack_pending >= 0 else recovery.una
        advance = (ack - una) & _MASK
        if advance <= recovery.nxt - una and (advance or payload is not None):
            if payload is not None:
                length = len(payload)
                end = rcv.nxt + length
                if rcv.reassembly or end > rcv.window.edge or predicts != PREDICTS_TEXT:
                    _arrived(connection, seq, ack, flags, window, tsval, tsecr, payload, options, now)
                    return
                rcv.queue.push(payload)
                rcv.nxt = end
                rcv.unacked += length
                if length > rcv.mss:
                    rcv.mss = length
                connection.small = length < snd.mss
            elif predicts != PREDICTS_TEXT and una + advance > snd.buffer.end:
                # The acknowledgement of our FIN: the state changes now, for what comes behind it in this batch.
                _arrived(connection, seq, ack, flags, window, tsval, tsecr, payload, options, now)
                return
            if tsval >= 0:
                rcv.ts_recent = tsval
                rcv.ts_recent_at = now
            una += advance
            if advance:
                connection.ack_pending = una
                connection.ack_echo = tsecr if tsval >= 0 else None
            window <<= snd.scale
            snd.wl1 = rcv.nxt
            snd.wl2 = una
            if window > snd.max_window:
                snd.max_window = window
            snd.edge = una + window
            return
    _arrived(connection, seq, ack, flags, window, tsval, tsecr, payload, options, now)


def batch_end(connection: TcpConnection, now: float) -> None:
    """The batch is over: draw the conclusions that were put off."""
    connection.touched = False
    if connection.ack_pending >= 0:
        _process_pending(connection, now)
    rcv = connection.rcv
    if rcv.unacked:
        rcv.decide(connection.config.delayed_ack, now, connection.small)
        connection.notify()
    if rcv.queue.size:
        connection.notify()
    if rcv.ack_now or rcv.delayed_at is not None:  # flush also enters the timer of a delayed acknowledgement
        connection.layer.want_flush(connection)


def _process_pending(connection: TcpConnection, now: float) -> None:
    """The acknowledgements that header prediction collected, as one."""
    ack = connection.ack_pending
    connection.ack_pending = -1
    acknowledgement.process(connection, ack, (), connection.ack_echo, False, now)


def _arrived(
    connection: TcpConnection,
    seq32: int,
    ack32: int,
    flags: int,
    window: int,
    tsval: int,
    tsecr: int,
    payload: memoryview | None,
    options: wire.Options,
    now: float,
) -> None:
    """Everything that header prediction did not settle: section 3.10.7.4, and the way to 3.10.7.3."""
    if connection.ack_pending >= 0:
        _process_pending(connection, now)
    state = connection.state
    if state is State.SYN_SENT:
        _arrived_in_syn_sent(connection, seq32, ack32, flags, window, options, now)
        return
    if state is State.CLOSED or state is State.TIME_WAIT:
        return
    rcv, snd = connection.rcv, connection.snd
    recovery = snd.recovery
    seq = rcv.nxt + ((seq32 - rcv.nxt + _HALF) & _MASK) - _HALF
    end = seq + (len(payload) if payload is not None else 0) + (1 if flags & wire.FIN else 0)
    ack = recovery.una + ((ack32 - recovery.una + _HALF) & _MASK) - _HALF

    # RFC 7323 section 5.3: PAWS comes before everything else, but a RST may lack or repeat a timestamp.
    if (
        connection.ts_ok
        and tsval >= 0
        and (tsval - rcv.ts_recent) & _HALF
        and not flags & wire.RST
        and now - rcv.ts_recent_at < _PAWS_IDLE
    ):
        connection.layer.count("paws")
        if end > seq:  # a pure ACK that another overtook is no reason to answer
            _acknowledge_soon(connection, seq, end)
        return
    # First: the sequence number.
    if state is State.SYN_RECEIVED and flags & wire.SYN and seq == rcv.irs:
        if flags & _ACK and ack == snd.iss + 1:
            # Simultaneous open: the peer's SYN-ACK crossed ours. Its ACK part is what counts.
            flags &= ~wire.SYN
            seq += 1
            end += 1
        else:
            connection.syn_due = now  # our SYN-ACK was lost
            connection.layer.want_flush(connection)
            return
    edge = max(rcv.window.edge, rcv.nxt)
    if not _acceptable(seq, end, rcv.nxt, edge):
        if not _unacceptable_but_acknowledges(connection, seq, end, edge, flags, now):
            return
        payload = None
        flags &= ~wire.FIN
    elif connection.ts_ok and tsval >= 0 and seq <= rcv.nxt and not flags & wire.RST:
        rcv.ts_recent = tsval  # RFC 7323 section 4.3
        rcv.ts_recent_at = now
    # Second: RST (RFC 5961 section 3).
    if flags & wire.RST:
        if seq != rcv.nxt:
            challenge(connection, now)
        else:
            _reset_arrived(connection)
        return
    # Third: security does not exist here. Fourth: SYN (RFC 5961 section 4).
    if flags & wire.SYN:
        challenge(connection, now)
        return
    # Fifth: ACK.
    if not flags & _ACK:
        return
    if state is State.SYN_RECEIVED:
        if ack != snd.iss + 1:
            connection.layer.send_reset(connection.flow, connection.local_port, connection.remote_port, ack32, 0, 0)
            return
        snd.edge = ack + (window << snd.scale)
        snd.max_window = max(snd.max_window, window << snd.scale)
        snd.wl1, snd.wl2 = seq, ack
        established(connection, Event.RECEIVE_ACK_OF_SYN, now)
    if ack > recovery.nxt or ack < recovery.una - max(snd.max_window, 65535):
        challenge(connection, now)  # RFC 5961 section 5
        return
    moved = snd.open_window(seq, ack, window << snd.scale) if ack >= recovery.una else False
    duplicate = ack == recovery.una and payload is None and not moved and recovery.flight > 0
    if ack > recovery.una or options.sack or duplicate:
        acknowledgement.process(connection, ack, options.sack, tsecr if tsval >= 0 else None, duplicate, now)
        if connection.closed:
            return
    elif moved:
        connection.layer.want_flush(connection)
    if snd.persist_at is not None:
        snd.window_answered(now)
    if connection.state_timer_at is not None and connection.keepalive:
        arm_keepalive(connection, now)
    # Sixth: URG is not supported; urgent data is data (RFC 6093 recommends not to use it).
    # Seventh: the text.
    state = connection.state
    if payload is not None and state in RECEIVES_TEXT:
        if connection.orphaned and seq + len(payload) > rcv.nxt:
            # RFC 1122 section 4.2.2.13: data for nobody.
            send_reset(connection)
            finish(connection, error_of(errno.ECONNRESET))
            return
        rcv.text(seq, payload)
        connection.small = len(payload) < snd.mss
    # Eighth: FIN.
    if flags & wire.FIN and state in RECEIVES_TEXT and rcv.fin is None and end - 1 <= edge:
        rcv.fin = end - 1
        predict(connection)
        rcv.ack_now = True
    if rcv.fin is not None and rcv.nxt == rcv.fin:
        rcv.nxt += 1
        rcv.ack_now = True
        rcv.reassembly.clear()
        become(connection, Event.RECEIVE_FIN)
        connection.notify()


def _acceptable(seq: int, end: int, nxt: int, edge: int) -> bool:
    """Table 6 of section 3.10.7.4: the segment [seq, end) against the receive window [nxt, edge)."""
    if end == seq:
        return seq == nxt if edge == nxt else nxt <= seq < edge
    return edge > nxt and seq < edge and end > nxt


def _unacceptable_but_acknowledges(
    connection: TcpConnection, seq: int, end: int, edge: int, flags: int, now: float
) -> bool:
    """Answer a segment outside of the window; True when its acknowledgement counts nevertheless.

    "Special allowance should be made to accept valid ACKs": a full window must not deafen us.
    """
    if flags & wire.RST:
        return False
    if flags & wire.SYN:
        challenge(connection, now)  # RFC 5961 section 4: whatever its sequence number is
        return False
    if not (end == seq and seq == edge):
        _acknowledge_soon(connection, seq, end)
    return bool(flags & _ACK) and connection.rcv.nxt - _OLD_ACK < seq <= edge


def _acknowledge_soon(connection: TcpConnection, seq: int, end: int) -> None:
    """Say where we are; what came again goes into a DSACK (RFC 2883)."""
    rcv = connection.rcv
    rcv.ack_now = True
    if end > seq and end <= rcv.nxt:
        rcv.dsack = (seq, end)
        rcv.duplicates += 1
    connection.layer.want_flush(connection)


def _reset_arrived(connection: TcpConnection) -> None:
    """A RST that is believed."""
    state = connection.state
    if state is State.SYN_RECEIVED and connection.listener is None:
        finish(connection, error_of(errno.ECONNREFUSED))
    elif state in (State.CLOSING, State.LAST_ACK) and not connection.snd.buffer:
        finish(connection, None)  # both directions were complete
    else:
        finish(connection, error_of(errno.ECONNRESET))


def _arrived_in_syn_sent(
    connection: TcpConnection, seq: int, ack: int, flags: int, window: int, options: wire.Options, now: float
) -> None:
    """Section 3.10.7.3. Text or FIN beside the SYN is legal but unheard of; unacknowledged, the peer repeats it."""
    snd = connection.snd
    good_ack = bool(flags & _ACK) and ack == (snd.iss + 1) & _MASK
    # First: ACK.
    if flags & _ACK and not good_ack:
        if not flags & wire.RST:
            connection.layer.send_reset(connection.flow, connection.local_port, connection.remote_port, ack, 0, 0)
        return
    # Second: RST.
    if flags & wire.RST:
        if good_ack:
            finish(connection, error_of(errno.ECONNREFUSED))
        return
    # Fourth: SYN.
    if not flags & wire.SYN:
        return
    take_syn(connection, seq, options, now)
    snd.max_window = window  # never scaled in a SYN
    snd.edge = snd.iss + 1 + window
    snd.wl2 = snd.iss + 1
    if good_ack:
        connection.rcv.ack_now = True
        established(connection, Event.RECEIVE_SYN_ACK, now)
    else:
        # Simultaneous open: both sent a SYN. Answer with SYN-ACK.
        become(connection, Event.RECEIVE_SYN)
        connection.syn_retries = 0
        connection.syn_due = now
        connection.layer.want_flush(connection)
