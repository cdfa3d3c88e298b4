"""The state diagram of RFC 9293 section 3.3.2 (figure 5) as a table that a person can check against the RFC.

Theory of operation: the connection turns what happens (a call of its owner, a segment, a timer) into one ``Event``
and asks ``next_state``. A pair that is not in the table is not a transition of the diagram; asking for one is a bug
of ours and raises, because a silent wrong state costs somebody a connection much later.

Three conventions of the diagram are spelt out here. "rcv FIN" while our own FIN is acknowledged by the same segment is
two events, in the order of section 3.10.7.4: the ACK (fifth step) and then the FIN (eighth step). And LISTEN is a
state of the listener, which stays; the connection that a SYN makes begins in LISTEN and leaves it at once. And the
table is the whole diagram, a model: what of it no connection ever does, and who does it, is ``TAKEN_ELSEWHERE``.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.IntEnum):
    """The states of RFC 9293 section 3.3.2. Ordered, so that a comparison can say "synchronised or later"."""

    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    ESTABLISHED = 4
    FIN_WAIT_1 = 5
    FIN_WAIT_2 = 6
    CLOSE_WAIT = 7
    CLOSING = 8
    LAST_ACK = 9
    TIME_WAIT = 10


class Event(enum.Enum):
    """What moves a connection from state to state."""

    __hash__ = object.__hash__
    """Enum's own is written in Python, and each step asks for it."""

    ACTIVE_OPEN = "active OPEN / snd SYN"
    PASSIVE_OPEN = "passive OPEN"
    RECEIVE_SYN = "rcv SYN"
    RECEIVE_SYN_ACK = "rcv SYN,ACK"
    RECEIVE_ACK_OF_SYN = "rcv ACK of SYN"
    CLOSE = "CLOSE / snd FIN"
    RECEIVE_ACK_OF_FIN = "rcv ACK of FIN"
    RECEIVE_FIN = "rcv FIN"
    RESET = "rcv RST, ABORT or user timeout"
    TWO_MSL = "timeout = 2MSL"


_S, _E = State, Event

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (_S.CLOSED, _E.ACTIVE_OPEN): _S.SYN_SENT,
    (_S.CLOSED, _E.PASSIVE_OPEN): _S.LISTEN,
    (_S.LISTEN, _E.RECEIVE_SYN): _S.SYN_RECEIVED,
    (_S.LISTEN, _E.RESET): _S.CLOSED,
    (_S.SYN_SENT, _E.RECEIVE_SYN): _S.SYN_RECEIVED,  # simultaneous open
    (_S.SYN_SENT, _E.RECEIVE_SYN_ACK): _S.ESTABLISHED,
    (_S.SYN_SENT, _E.RESET): _S.CLOSED,
    (_S.SYN_RECEIVED, _E.RECEIVE_ACK_OF_SYN): _S.ESTABLISHED,
    (_S.SYN_RECEIVED, _E.CLOSE): _S.FIN_WAIT_1,
    (_S.SYN_RECEIVED, _E.RECEIVE_FIN): _S.CLOSE_WAIT,
    (_S.SYN_RECEIVED, _E.RESET): _S.CLOSED,
    (_S.ESTABLISHED, _E.CLOSE): _S.FIN_WAIT_1,
    (_S.ESTABLISHED, _E.RECEIVE_FIN): _S.CLOSE_WAIT,
    (_S.ESTABLISHED, _E.RESET): _S.CLOSED,
    (_S.FIN_WAIT_1, _E.RECEIVE_ACK_OF_FIN): _S.FIN_WAIT_2,
    (_S.FIN_WAIT_1, _E.RECEIVE_FIN): _S.CLOSING,
    (_S.FIN_WAIT_1, _E.RESET): _S.CLOSED,
    (_S.FIN_WAIT_2, _E.RECEIVE_FIN): _S.TIME_WAIT,
    (_S.FIN_WAIT_2, _E.RESET): _S.CLOSED,
    (_S.CLOSE_WAIT, _E.CLOSE): _S.LAST_ACK,
    (_S.CLOSE_WAIT, _E.RESET): _S.CLOSED,
    (_S.CLOSING, _E.RECEIVE_ACK_OF_FIN): _S.TIME_WAIT,
    (_S.CLOSING, _E.RESET): _S.CLOSED,
    (_S.LAST_ACK, _E.RECEIVE_ACK_OF_FIN): _S.CLOSED,
    (_S.LAST_ACK, _E.RESET): _S.CLOSED,
    (_S.TIME_WAIT, _E.TWO_MSL): _S.CLOSED,
    (_S.TIME_WAIT, _E.RESET): _S.CLOSED,
}


TAKEN_ELSEWHERE: Final[dict[tuple[State, Event], str]] = {
    (_S.LISTEN, _E.RESET): "the listener's: TcpListener.close ends it, a RST never does",
    (
        _S.SYN_RECEIVED,
        _E.CLOSE,
    ): "put off until ESTABLISHED, as section 3.10.4 allows (opening.established)",
    (_S.SYN_RECEIVED, _E.RECEIVE_FIN): "never alone: the ACK of the same segment comes first and leads to ESTABLISHED",
    (_S.TIME_WAIT, _E.TWO_MSL): "the TimeWaitTable's: a record that expires stands for the connection by then",
    (_S.TIME_WAIT, _E.RESET): "nobody's: RFC 1337 lets no RST end it, and an owner has nothing left to abort",
}
"""Edges of the diagram that a connection does not take, and whose they are."""


def next_state(state: State, event: Event) -> State:
    """The state after ``event``. Raises KeyError when the diagram has no such edge."""
    return TRANSITIONS[state, event]


RECEIVES_TEXT: Final = frozenset({_S.ESTABLISHED, _S.FIN_WAIT_1, _S.FIN_WAIT_2})
"""States in which segment text is taken (RFC 9293 section 3.10.7.4, seventh step)."""

SENDS_TEXT: Final = frozenset({_S.ESTABLISHED, _S.CLOSE_WAIT, _S.FIN_WAIT_1, _S.CLOSING, _S.LAST_ACK})
"""States in which queued data, or its retransmission, may go out."""
