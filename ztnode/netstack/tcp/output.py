"""What goes out at the end of a turn: a SYN, or text and FIN, and one acknowledgement for all that arrived."""

from __future__ import annotations

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.control_segments import header_fields
from ztnode.netstack.tcp.fin_wait_2 import arm as arm_fin_wait_2
from ztnode.netstack.tcp.opening import send_syn
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
