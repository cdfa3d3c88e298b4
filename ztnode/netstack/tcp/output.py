"""What goes out at the end of a turn: a SYN, or text and FIN, and one acknowledgement for all that arrived."""

from __future__ import annotations

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.control_segments import header_fields
from ztnode.netstack.tcp.fin_wait_2 import arm as arm_fin_wait_2
from ztnode.netstack.tcp.opening import send_syn
from ztnode.netstack.tcp.rtt import MIN_RTO
from ztnode.netstack.tcp.sequence import MASK
from ztnode.netstack.tcp.state import SENDS_TEXT, State
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.wire import tcp as wire


def flush(tcb: ControlBlock, now: float) -> None:
    """Send what there is to send."""
    if tcb.timers.syn_due is not None:
        if tcb.timers.syn_due <= now:
            send_syn(tcb, now)
        return
    state = tcb.state
    if state is State.CLOSED:
        return
    frames: list[Frame] = []
    if state in SENDS_TEXT:
        _text(tcb, frames, now)
    else:
        arm_fin_wait_2(tcb, now)
    rcv = tcb.rcv
    if rcv.acks.due:
        snd = tcb.snd
        fields = header_fields(tcb, now)
        options = fields.options
        for sack in rcv.acknowledgements(snd.recovery.sack_ok):
            if sack:
                fields = fields._replace(options=options + sack)
            frames.append(snd.writer.control(snd.recovery.nxt, wire.ACK, fields))
    if frames:
        tcb.link.flow.send(frames)


def alone(tcb: ControlBlock, now: float) -> Frame | None:
    """A request, or a short answer: text for one segment where nothing is in flight, and no window, pace or repair says
    anything about it. What ``flush`` would do, in a fraction of its steps, but for the sending: the frame. None: it is
    not so, and nothing was done. No timer is due within ``MIN_RTO`` for its sake."""
    snd = tcb.snd
    recovery, buffer = snd.recovery, snd.buffer
    nxt, end = recovery.nxt, buffer.end
    if nxt == end or nxt != recovery.una or not tcb.brief:
        return None
    cc, link, rcv = recovery.cc, tcb.link, tcb.rcv
    length = end - nxt
    size, acks = link.size, rcv.acks
    if (
        length > cc.mss
        or length > snd.edge - nxt
        or length > cc.cwnd
        or recovery.phase
        or snd.persist_at is not None
        or size.generation != link.flow.generation
        or size.cap is not None
        or (acks.due and (acks.duplicates or acks.dsack is not None))
        or rcv.reassembly.cost
    ):
        return None
    text = buffer.rest(nxt)
    if text is None:
        return None
    idle = now - snd.last_sent
    if idle > MIN_RTO and idle > snd.rtt.rto and snd.last_sent:
        cc.on_idle()
    timestamps = tcb.timestamps
    window = rcv.window.announce(rcv.nxt, rcv.queue.size + rcv.aside, rcv.mss, rcv.scale)
    tsval = int(now * 1000) + timestamps.offset & MASK
    recovery.sent_alone(end, now)
    recovery.output_una = nxt
    snd.last_progress = snd.last_sent = now
    snd.persist_backoff = 0
    if length < cc.mss:
        snd.small_end = end
    acks.carried(now, owes_more=False)
    return snd.writer.text(text, nxt, rcv.nxt, window, tsval, timestamps.recent)


def _text(tcb: ControlBlock, frames: list[Frame], now: float) -> None:
    """Text and FIN, as far as windows and pace allow."""
    snd, link = tcb.snd, tcb.link
    size = link.size
    if size.generation != link.flow.generation:
        tcb.renew_segment_size()
    if size.cap is not None and now >= size.cap_until:
        size.cap = None
        tcb.renew_segment_size()
    recovery = snd.recovery
    if (
        recovery.nxt < snd.buffer.end
        or recovery.board.lost
        or (snd.fin_queued and recovery.nxt == snd.buffer.end)
        or snd.persist_at is not None
    ):
        snd.output(frames, header_fields(tcb, now), now)
        if frames:
            tcb.rcv.sent_with_data(now)
    recovery.output_una = recovery.una
