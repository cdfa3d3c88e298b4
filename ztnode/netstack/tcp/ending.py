"""How connections end (RFC 9293 section 3.6), and every step of the state diagram."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ztnode.netstack.tcp.control_segments import send_reset
from ztnode.netstack.tcp.state import SENDS_TEXT, Event, State, next_state

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

PREDICTS_NOTHING = 0
PREDICTS_ACKS = 1
PREDICTS_TEXT = 2
"""Values of `TcpConnection.predicts`; text includes acknowledgements."""


def error_of(code: int) -> OSError:
    """The exception of an errno (ConnectionResetError, TimeoutError ...), with its text."""
    return OSError(code, os.strerror(code))


def become(connection: TcpConnection, event: Event) -> None:
    """Take an edge of the state diagram, with what entering the new state brings (RFC 9293 section 3.3.2)."""
    state = connection.state = next_state(connection.state, event)
    predict(connection)
    if state is State.TIME_WAIT:
        connection.layer.enter_time_wait(connection)
        _end_timers(connection)
        connection.notify()
    elif state is State.CLOSED and event is Event.RECEIVE_ACK_OF_FIN:
        finish(connection, None)


def predict(connection: TcpConnection) -> None:
    """What header prediction may settle from here on (`arrival.segment`).

    Text, but not once a FIN is known, which it does not watch for, nor when nobody reads. Acknowledgements wherever
    something of ours may be under way: a client that half-closes after its request and then downloads keeps us in
    CLOSE-WAIT.
    """
    state = connection.state
    readable = state is State.ESTABLISHED or (state is State.FIN_WAIT_2 and not connection.orphaned)
    if readable and connection.rcv.fin is None:
        connection.predicts = PREDICTS_TEXT
    elif state in SENDS_TEXT:
        connection.predicts = PREDICTS_ACKS
    else:
        connection.predicts = PREDICTS_NOTHING


def fin_acknowledged(connection: TcpConnection) -> None:
    """The peer has everything that we will ever send."""
    state = connection.state
    if state in (State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK):
        become(connection, Event.RECEIVE_ACK_OF_FIN)
        if connection.state is State.FIN_WAIT_2:
            watch_fin_wait_2(connection)


def watch_fin_wait_2(connection: TcpConnection) -> None:
    """Nobody reads any more: do not wait for the peer's FIN for ever, whatever else it says."""
    if connection.orphaned and connection.state is State.FIN_WAIT_2:
        connection.state_timer_at = None  # `output.flush`, which knows the time, sets it
        connection.layer.orphan_waits_for_fin(connection)
        connection.layer.want_flush(connection)


def timed_out(connection: TcpConnection) -> None:
    """The peer has been silent, or deaf, for too long (RFC 9293 section 3.10.8, user timeout)."""
    if connection.state > State.SYN_RECEIVED:
        send_reset(connection)
    finish(connection, error_of(errno.ETIMEDOUT))


def fail(connection: TcpConnection, error: OSError) -> None:
    """The network went away."""
    if not connection.closed:
        finish(connection, error)


def finish(connection: TcpConnection, error: OSError | None) -> None:
    """CLOSED: no timers, no memory, out of the tables."""
    if connection.state is not State.CLOSED:
        connection.state = next_state(connection.state, Event.RESET)
    if error is not None:
        connection.error = error
    connection.predicts = PREDICTS_NOTHING
    connection.ack_pending = -1
    _end_timers(connection)
    connection.snd.buffer.acknowledge(connection.snd.buffer.end)
    connection.rcv.reassembly.clear()
    connection.layer.remove(connection)
    if connection.listener is not None:
        connection.listener.failed(connection)
    connection.notify()


def _end_timers(connection: TcpConnection) -> None:
    connection.rcv.delayed_at = None
    connection.snd.persist_at = None
    connection.snd.recovery.deadline = None
    connection.state_timer_at = None
    connection.syn_due = None
