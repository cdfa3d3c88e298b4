"""A segment arrives (RFC 9293 section 3.10.7), in the order of the RFC.

Driven per batch. ``segment`` takes one segment and only notes what follows from it; ``batch_end`` draws the conclusions
once (acknowledgements are cumulative), and ``output.flush`` sends. The body of ``segment`` is the fast path (header
prediction): the next segment in order, or an acknowledgement of new data, in the states where nothing else can follow
from it (``ending.predict``). It works on plain arguments, because making a value of them would cost as much as the
rest. Everything else becomes an ``Arrival`` and takes the long way, one function for each step of section 3.10.7.4.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from ztnode.netstack.tcp.control_segments import challenge, refuse_ack, send_reset
from ztnode.netstack.tcp.ending import become, finish, predict
from ztnode.netstack.tcp.incoming_ack import all_arrived, process_ack
from ztnode.netstack.tcp.opening import established, take_syn
from ztnode.netstack.tcp.sequence import HALF, MASK, unwrap
from ztnode.netstack.tcp.state import RECEIVES_TEXT, Event, State
from ztnode.netstack.tcp.tcb import PREDICTS_TEXT, ControlBlock
from ztnode.netstack.tcp.timers import arm_keepalive
from ztnode.os_error import os_error
from ztnode.wire import tcp as wire

_ACK: Final = wire.ACK
_NOT_PSH: Final = 0xFF & ~wire.PSH
_OLD_ACK: Final = 1 << 30
"""How far behind the window an unacceptable segment may begin and its acknowledgement still be believed, bytes."""


def segment(
    tcb: ControlBlock,
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
    """One segment with a good checksum. Numbers as on the wire; ``tsval`` is -1 without timestamps option."""
    rcv = tcb.rcv
    predicts = tcb.predicts
    timestamps = tcb.timestamps
    if (
        predicts
        and flags & _NOT_PSH == _ACK
        and seq == rcv.nxt & MASK
        and not options.sack
        and (not timestamps.on or (tsval >= 0 and not (tsval - timestamps.recent) & HALF))
    ):
        snd = tcb.snd
        recovery = snd.recovery
        una = tcb.ack_pending
        if una < 0:
            una = recovery.una
        advance = (ack - una) & MASK
        if advance <= recovery.nxt - una and (advance or payload is not None):
            if payload is not None:
                length = len(payload)
                end = rcv.nxt + length
                if rcv.reassembly.cost or end > rcv.window.edge or predicts != PREDICTS_TEXT:
                    _arrived(tcb, Arrival(seq, ack, flags, window, tsval, tsecr, payload, options), now)
                    return
                rcv.queue.push(payload)
                rcv.nxt = end
                acks = rcv.acks
                acks.unacked += length
                acks.short = length < recovery.cc.mss
                if length > rcv.mss:
                    rcv.mss = length
            elif predicts != PREDICTS_TEXT and una + advance > snd.buffer.end:
                # The acknowledgement of our FIN: the state changes now, for what comes behind it in this batch.
                _arrived(tcb, Arrival(seq, ack, flags, window, tsval, tsecr, payload, options), now)
                return
            if tsval >= 0:
                timestamps.recent = tsval
                timestamps.recent_at = now
            una += advance
            if advance:
                tcb.ack_pending = una
                tcb.ack_echo = tsecr if tsval >= 0 else None
            window <<= snd.scale
            snd.wl1 = rcv.nxt
            snd.wl2 = una
            if window > snd.max_window:
                snd.max_window = window
            snd.edge = una + window
            return
    _arrived(tcb, Arrival(seq, ack, flags, window, tsval, tsecr, payload, options), now)


def batch_end(tcb: ControlBlock, now: float) -> None:
    """The batch is over: draw the conclusions that were put off."""
    marks = tcb.marks
    marks.touched = False
    ack = tcb.ack_pending
    if ack >= 0:
        if all_arrived(tcb, ack, now):
            tcb.ack_pending = -1
        else:
            _process_pending(tcb, now)
    rcv = tcb.rcv
    acks = rcv.acks
    if acks.unacked:
        rcv.arrived_at = now
        delay = acks.decide(now, rcv.mss)
        if delay:
            tcb.layer.delay_ack(tcb, delay, now)
    if (acks.unacked or rcv.queue.size) and not tcb.noticed:
        tcb.layer.notify(tcb)
    if acks.due:
        tcb.layer.want_flush(tcb)


def _process_pending(tcb: ControlBlock, now: float) -> None:
    """The acknowledgements that header prediction collected, as one."""
    ack = tcb.ack_pending
    tcb.ack_pending = -1
    process_ack(tcb, ack, (), tcb.ack_echo, False, now)


@dataclass(slots=True)
class Arrival:
    """The parsed header of one segment, and its text. The steps below take from it what they have dealt with."""

    seq: int
    """As on the wire; unwrapped once the connection is synchronized."""
    ack: int
    """Likewise."""
    flags: int
    window: int
    """As on the wire."""
    tsval: int
    """-1 without timestamps option."""
    tsecr: int
    payload: memoryview | None
    options: wire.Options
    end: int = 0
    """Behind text and FIN, unwrapped."""

    @property
    def echo(self) -> int | None:
        """The timestamp of ours that came back."""
        return self.tsecr if self.tsval >= 0 else None

    def unwrap(self, rcv_nxt: int, una: int) -> None:
        """Replace the numbers by growing integers near those expected."""
        self.seq = unwrap(self.seq, rcv_nxt)
        self.ack = unwrap(self.ack, una)
        length = len(self.payload) if self.payload is not None else 0
        self.end = self.seq + length + (1 if self.flags & wire.FIN else 0)


def _arrived(tcb: ControlBlock, seg: Arrival, now: float) -> None:
    """Everything that header prediction did not take: section 3.10.7.4, and the way to 3.10.7.3."""
    if tcb.ack_pending >= 0:
        _process_pending(tcb, now)
    if tcb.state is State.SYN_SENT:
        _arrived_in_syn_sent(tcb, seg, now)
        return
    if tcb.closed:
        return
    seg.unwrap(tcb.rcv.nxt, tcb.snd.recovery.una)
    # RFC 7323 section 5.3: PAWS comes before everything else, but a RST may lack or repeat a timestamp.
    if not seg.flags & wire.RST and tcb.timestamps.is_old(seg.tsval, now):
        tcb.layer.count("paws")
        if seg.end > seg.seq:  # a pure ACK that another overtook is no reason to answer
            _acknowledge_soon(tcb, seg)
        return
    # Each step says whether the next one is to be taken. The third, security, does not exist here; the sixth, URG,
    # neither: urgent data is data (RFC 6093 recommends not to use it).
    if (
        _first_check_sequence(tcb, seg, now)
        and _second_check_reset(tcb, seg, now)
        and _fourth_check_syn(tcb, seg, now)
        and _fifth_check_ack(tcb, seg, now)
        and _seventh_take_text(tcb, seg)
    ):
        _eighth_take_fin(tcb, seg)


def _first_check_sequence(tcb: ControlBlock, seg: Arrival, now: float) -> bool:
    rcv = tcb.rcv
    if tcb.state is State.SYN_RECEIVED and seg.flags & wire.SYN and seg.seq == rcv.irs:
        if not (seg.flags & _ACK and seg.ack == tcb.snd.iss + 1):
            tcb.timers.syn_due = now  # our SYN-ACK was lost
            tcb.layer.want_flush(tcb)
            return False
        # Simultaneous open: the peer's SYN-ACK crossed ours. Its ACK part is what counts.
        seg.flags &= ~wire.SYN
        seg.seq += 1
        seg.end += 1
    edge = max(rcv.window.edge, rcv.nxt)
    if not _acceptable(seg, rcv.nxt, edge):
        if not _unacceptable_but_acknowledges(tcb, seg, edge, now):
            return False
        seg.payload = None
        seg.flags &= ~wire.FIN
    elif tcb.timestamps.on and seg.tsval >= 0 and seg.seq <= rcv.nxt and not seg.flags & wire.RST:
        tcb.timestamps.take(seg.tsval, now)
    return True


def _acceptable(seg: Arrival, nxt: int, edge: int) -> bool:
    """Table 6 of section 3.10.7.4: the segment [seq, end) against the receive window [nxt, edge)."""
    if seg.end == seg.seq:
        return seg.seq == nxt if edge == nxt else nxt <= seg.seq < edge
    return edge > nxt and seg.seq < edge and seg.end > nxt


def _unacceptable_but_acknowledges(tcb: ControlBlock, seg: Arrival, edge: int, now: float) -> bool:
    """Answer a segment outside of the window; True when its acknowledgement counts nevertheless.

    "Special allowance should be made to accept valid ACKs": a full window must not deafen us.
    """
    if seg.flags & wire.RST:
        return False
    if seg.flags & wire.SYN:
        challenge(tcb, now)  # RFC 5961 section 4: whatever its sequence number is
        return False
    if not (seg.end == seg.seq and seg.seq == edge):
        _acknowledge_soon(tcb, seg)
    return bool(seg.flags & _ACK) and tcb.rcv.nxt - _OLD_ACK < seg.seq <= edge


def _acknowledge_soon(tcb: ControlBlock, seg: Arrival) -> None:
    """Say where we are; what came again goes into a DSACK (RFC 2883)."""
    acks = tcb.rcv.acks
    acks.due = True
    if seg.end > seg.seq and seg.end <= tcb.rcv.nxt:
        acks.dsack = (seg.seq, seg.end)
        acks.duplicates += 1
    tcb.layer.want_flush(tcb)


def _second_check_reset(tcb: ControlBlock, seg: Arrival, now: float) -> bool:
    """RFC 5961 section 3: only a RST with exactly the expected number is believed."""
    if not seg.flags & wire.RST:
        return True
    if seg.seq != tcb.rcv.nxt:
        challenge(tcb, now)
    elif tcb.state is State.SYN_RECEIVED and tcb.listener is None:
        finish(tcb, os_error(errno.ECONNREFUSED))
    elif tcb.state in (State.CLOSING, State.LAST_ACK) and not tcb.snd.buffer:
        finish(tcb, None)  # both directions were complete
    else:
        finish(tcb, os_error(errno.ECONNRESET))
    return False


def _fourth_check_syn(tcb: ControlBlock, seg: Arrival, now: float) -> bool:
    """RFC 5961 section 4."""
    if seg.flags & wire.SYN:
        challenge(tcb, now)
        return False
    return True


def _fifth_check_ack(tcb: ControlBlock, seg: Arrival, now: float) -> bool:
    if not seg.flags & _ACK:
        return False
    if tcb.state is State.SYN_RECEIVED and not _handshake_completed(tcb, seg, now):
        return False
    snd, ack = tcb.snd, seg.ack
    recovery = snd.recovery
    if ack > recovery.nxt or ack < recovery.una - max(snd.max_window, 65535):
        challenge(tcb, now)  # RFC 5961 section 5
        return False
    moved = snd.open_window(seg.seq, ack, seg.window << snd.scale) if ack >= recovery.una else False
    duplicate = ack == recovery.una and seg.payload is None and not moved and recovery.flight > 0
    if ack > recovery.una or seg.options.sack or duplicate:
        process_ack(tcb, ack, seg.options.sack, seg.echo, duplicate, now)
        if tcb.closed:
            return False
    elif moved:
        tcb.layer.want_flush(tcb)
    if snd.persist_at is not None:
        snd.window_answered(now)
    if tcb.timers.keepalive_at is not None and tcb.timers.keepalive:
        arm_keepalive(tcb, now)
    return True


def _handshake_completed(tcb: ControlBlock, seg: Arrival, now: float) -> bool:
    snd = tcb.snd
    if seg.ack != snd.iss + 1:
        refuse_ack(tcb, seg.ack)
        return False
    window = seg.window << snd.scale
    snd.edge = seg.ack + window
    snd.max_window = max(snd.max_window, window)
    snd.wl1, snd.wl2 = seg.seq, seg.ack
    established(tcb, Event.RECEIVE_ACK_OF_SYN, now)
    return True


def _seventh_take_text(tcb: ControlBlock, seg: Arrival) -> bool:
    payload, rcv = seg.payload, tcb.rcv
    if payload is None or tcb.state not in RECEIVES_TEXT:
        return True
    if tcb.orphaned and seg.seq + len(payload) > rcv.nxt:
        # RFC 1122 section 4.2.2.13: data for nobody.
        send_reset(tcb)
        finish(tcb, os_error(errno.ECONNRESET))
        return False
    rcv.text(seg.seq, payload)
    rcv.acks.short = len(payload) < tcb.snd.recovery.cc.mss
    return True


def _eighth_take_fin(tcb: ControlBlock, seg: Arrival) -> None:
    rcv = tcb.rcv
    edge = max(rcv.window.edge, rcv.nxt)
    if seg.flags & wire.FIN and tcb.state in RECEIVES_TEXT and rcv.fin is None and seg.end - 1 <= edge:
        rcv.fin = seg.end - 1
        predict(tcb)
        rcv.acks.due = True
    if rcv.fin is not None and rcv.nxt == rcv.fin:
        rcv.nxt += 1
        rcv.acks.due = True
        rcv.reassembly.clear()
        become(tcb, Event.RECEIVE_FIN)
        tcb.notify()


def _arrived_in_syn_sent(tcb: ControlBlock, seg: Arrival, now: float) -> None:
    """Section 3.10.7.3. Text or FIN beside the SYN is legal but unheard of; unacknowledged, the peer repeats it."""
    snd, flags = tcb.snd, seg.flags
    good_ack = bool(flags & _ACK) and seg.ack == (snd.iss + 1) & MASK
    # First: ACK.
    if flags & _ACK and not good_ack:
        if not flags & wire.RST:
            refuse_ack(tcb, seg.ack)
        return
    # Second: RST.
    if flags & wire.RST:
        if good_ack:
            finish(tcb, os_error(errno.ECONNREFUSED))
        return
    # Fourth: SYN.
    if not flags & wire.SYN:
        return
    take_syn(tcb, seg.seq, seg.options, now)
    snd.max_window = seg.window  # never scaled in a SYN
    snd.edge = snd.iss + 1 + seg.window
    snd.wl2 = snd.iss + 1
    if good_ack:
        tcb.rcv.acks.due = True
        established(tcb, Event.RECEIVE_SYN_ACK, now)
    else:
        # Simultaneous open: both sent a SYN. Answer with SYN-ACK.
        become(tcb, Event.RECEIVE_SYN)
        tcb.timers.syn_retries = 0
        tcb.timers.syn_due = now
        tcb.layer.want_flush(tcb)
