"""What goes out at the end of a turn: a SYN, or text and FIN, and one acknowledgement for all that arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztnode.netstack.tcp.control_segments import announced_window, timestamps_option, tsval
from ztnode.netstack.tcp.network import Frame
from ztnode.netstack.tcp.opening import send_syn
from ztnode.netstack.tcp.segment_size import renew
from ztnode.netstack.tcp.state import SENDS_TEXT, State
from ztnode.wire import tcp as wire

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection


def flush(connection: TcpConnection, now: float) -> None:
    """Send what there is to send."""
    state = connection.state
    if connection.syn_due is not None:
        if connection.syn_due <= now:
            send_syn(connection, now)
        return
    if state is State.CLOSED:
        return
    rcv = connection.rcv
    frames: list[Frame] = []
    if state in SENDS_TEXT:
        snd = connection.snd
        size = connection.size
        if size.generation != connection.flow.generation:
            renew(connection)
        if size.cap is not None and now >= size.cap_until:
            size.cap = None
            renew(connection)
        recovery = snd.recovery
        if (
            recovery.nxt < snd.buffer.end
            or recovery.board.lost
            or (snd.fin_queued and recovery.nxt == snd.buffer.end)
            or snd.persist_at is not None
        ):
            window = announced_window(connection)
            options = timestamps_option(connection, now)
            snd.output(frames, rcv.nxt, window, options, tsval(connection, now), now)
            if frames:
                rcv.sent_with_data()
        recovery.output_una = recovery.una
    elif state is State.FIN_WAIT_2 and connection.orphaned and connection.state_timer_at is None:
        connection.state_timer_at = now + connection.config.fin_wait_2_timeout
    if rcv.ack_now:
        recovery = connection.snd.recovery
        window = announced_window(connection)
        options = timestamps_option(connection, now)
        writer = connection.snd.writer
        for sack in rcv.acknowledgements(recovery.sack_ok):
            frames.append(writer.control(recovery.nxt, rcv.nxt, wire.ACK, window, options + sack))
    if frames:
        connection.flow.send(frames)
