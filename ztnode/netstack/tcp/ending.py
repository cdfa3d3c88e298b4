"""How connections end (RFC 9293 section 3.6), and every step of the state diagram."""

from __future__ import annotations

import errno

from ztnode.netstack.tcp.control_segments import send_reset
from ztnode.netstack.tcp.fin_wait_2 import watch as watch_fin_wait_2
from ztnode.netstack.tcp.state import SENDS_TEXT, Event, State, next_state
from ztnode.netstack.tcp.tcb import PREDICTS_ACKS, PREDICTS_NOTHING, PREDICTS_TEXT, ControlBlock
from ztnode.os_error import os_error


def become(tcb: ControlBlock, event: Event) -> None:
    """Take an edge of the state diagram, with what entering the new state brings (RFC 9293 section 3.3.2)."""
    state = tcb.state = next_state(tcb.state, event)
    predict(tcb)
    if state is State.TIME_WAIT:
        tcb.layer.enter_time_wait(tcb)
        _end_timers(tcb)
        tcb.notify()
    elif state is State.CLOSED and event is Event.RECEIVE_ACK_OF_FIN:
        finish(tcb, None)


def predict(tcb: ControlBlock) -> None:
    """What header prediction may take from here on (``arrival.segment``), and whether there are short ways.

    Text, but not once a FIN is known, which it does not watch for, nor when nobody reads. Acknowledgements wherever
    something of ours may be under way: a client that half-closes after its request and then downloads keeps us in
    CLOSE-WAIT.
    """
    state = tcb.state
    tcb.brief = state is State.ESTABLISHED and tcb.timestamps.on and not tcb.snd.recovery.measures_rate
    readable = state is State.ESTABLISHED or (state is State.FIN_WAIT_2 and not tcb.orphaned)
    if readable and tcb.rcv.fin is None:
        tcb.predicts = PREDICTS_TEXT
    elif state in SENDS_TEXT:
        tcb.predicts = PREDICTS_ACKS
    else:
        tcb.predicts = PREDICTS_NOTHING


def shut_down(tcb: ControlBlock) -> None:
    """Our FIN follows what is queued (RFC 9293 section 3.10.4). Before the handshake is complete it is only noted."""
    tcb.snd.fin_queued = True
    if tcb.state >= State.ESTABLISHED:
        become(tcb, Event.CLOSE)
        tcb.layer.want_flush(tcb)


def fin_acknowledged(tcb: ControlBlock) -> None:
    """The peer has everything that we will ever send."""
    if tcb.state in (State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK):
        become(tcb, Event.RECEIVE_ACK_OF_FIN)
        watch_fin_wait_2(tcb)


def timed_out(tcb: ControlBlock) -> None:
    """The peer has been silent, or deaf, for too long (RFC 9293 section 3.10.8, user timeout)."""
    if tcb.state > State.SYN_RECEIVED:
        send_reset(tcb)
    finish(tcb, os_error(errno.ETIMEDOUT))


def fail(tcb: ControlBlock, error: OSError) -> None:
    """The network went away."""
    if not tcb.closed:
        finish(tcb, error)


def finish(tcb: ControlBlock, error: OSError | None) -> None:
    """CLOSED: no timers, no memory, out of the tables."""
    if tcb.state is not State.CLOSED:
        tcb.state = next_state(tcb.state, Event.RESET)
    if error is not None:
        tcb.error = error
    tcb.predicts = PREDICTS_NOTHING
    tcb.brief = False
    tcb.ack_pending = -1
    _end_timers(tcb)
    tcb.snd.buffer.acknowledge(tcb.snd.buffer.end)
    tcb.rcv.reassembly.clear()
    tcb.layer.remove(tcb)
    if tcb.listener is not None:
        tcb.listener.failed(tcb.link.key)
    tcb.notify()


def _end_timers(tcb: ControlBlock) -> None:
    tcb.timers.stop()
    tcb.rcv.acks.delayed_at = None
    tcb.snd.persist_at = None
    tcb.snd.recovery.deadline = None
