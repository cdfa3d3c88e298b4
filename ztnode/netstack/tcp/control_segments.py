"""What every header of a connection says, and the segments without text that stand alone: RST and challenge ACK."""

from __future__ import annotations

from ztnode.netstack.tcp.framing import HeaderFields
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.wire import tcp as wire


def header_fields(tcb: ControlBlock, now: float) -> HeaderFields:
    """What a segment sent now says beside its own place and text. The window that it names is promised from here on."""
    rcv, timestamps = tcb.rcv, tcb.timestamps
    window = rcv.window.announce(rcv.nxt, rcv.unread, rcv.mss, rcv.scale)
    tsval = timestamps.clock(now)
    return HeaderFields(rcv.nxt, window, timestamps.option(tsval), tsval)


def send_reset(tcb: ControlBlock) -> None:
    """<SEQ=SND.NXT><CTL=RST> (RFC 9293 section 3.10.5), with the acknowledgement, as everybody sends it."""
    snd = tcb.snd
    if tcb.state >= State.SYN_RECEIVED:
        flags = wire.RST | wire.ACK
        tcb.link.flow.send([snd.writer.control(snd.recovery.nxt, flags, HeaderFields(tcb.rcv.nxt))])
        tcb.layer.count("resets_sent")


def challenge(tcb: ControlBlock, now: float) -> None:
    """A challenge ACK (RFC 5961), rate-limited for the whole host (section 7)."""
    layer = tcb.layer
    if layer.challenge_allowed(now):
        layer.count("challenge_acks")
        snd = tcb.snd
        tcb.link.flow.send([snd.writer.control(snd.recovery.nxt, wire.ACK, header_fields(tcb, now))])


def refuse_ack(tcb: ControlBlock, ack: int) -> None:
    """<SEQ=SEG.ACK><CTL=RST>: an acknowledgement of what we never sent during the handshake (section 3.10.7.4)."""
    link = tcb.link
    tcb.layer.send_reset(link.flow, link.local_port, link.remote_port, ack, 0, 0)
