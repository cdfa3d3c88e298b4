"""The state table against RFC 9293 figure 5."""

from __future__ import annotations

import pytest

from ztnode.netstack.tcp.state import TAKEN_ELSEWHERE, TRANSITIONS, Event, State, next_state

# Read off figure 5, edge by edge, independently of the table under test.
FIGURE_5 = """
CLOSED        ACTIVE_OPEN         SYN_SENT
CLOSED        PASSIVE_OPEN        LISTEN
LISTEN        RECEIVE_SYN         SYN_RECEIVED
SYN_SENT      RECEIVE_SYN         SYN_RECEIVED
SYN_SENT      RECEIVE_SYN_ACK     ESTABLISHED
SYN_RECEIVED  RECEIVE_ACK_OF_SYN  ESTABLISHED
SYN_RECEIVED  CLOSE               FIN_WAIT_1
ESTABLISHED   CLOSE               FIN_WAIT_1
ESTABLISHED   RECEIVE_FIN         CLOSE_WAIT
FIN_WAIT_1    RECEIVE_ACK_OF_FIN  FIN_WAIT_2
FIN_WAIT_1    RECEIVE_FIN         CLOSING
FIN_WAIT_2    RECEIVE_FIN         TIME_WAIT
CLOSE_WAIT    CLOSE               LAST_ACK
CLOSING       RECEIVE_ACK_OF_FIN  TIME_WAIT
LAST_ACK      RECEIVE_ACK_OF_FIN  CLOSED
TIME_WAIT     TWO_MSL             CLOSED
"""


@pytest.mark.parametrize("line", FIGURE_5.strip().splitlines())
def test_every_edge_of_the_figure(line: str) -> None:
    state, event, after = line.split()
    assert next_state(State[state], Event[event]) is State[after]


def test_nothing_but_the_figure_resets_and_a_fin_while_opening() -> None:
    drawn = {tuple(line.split()[:2]) for line in FIGURE_5.strip().splitlines()}
    extra = {(s.name, e.name) for s, e in TRANSITIONS} - drawn
    # Section 3.10.7.4, eighth step: "SYN-RECEIVED ... enter the CLOSE-WAIT state".
    assert extra == {("SYN_RECEIVED", "RECEIVE_FIN")} | {
        (state.name, "RESET") for state in State if state is not State.CLOSED
    }
    assert all(TRANSITIONS[s, e] is State.CLOSED for s, e in TRANSITIONS if e is Event.RESET)


def test_an_edge_that_is_not_there_raises() -> None:
    with pytest.raises(KeyError):
        next_state(State.TIME_WAIT, Event.CLOSE)


def test_every_state_can_be_left_and_reached() -> None:
    assert {s for s, _ in TRANSITIONS} == set(State)
    assert set(TRANSITIONS.values()) == set(State)


def test_what_no_connection_takes_is_of_the_diagram_too() -> None:
    """That none takes it is watched over by every TCP test (conftest)."""
    assert set(TAKEN_ELSEWHERE) < set(TRANSITIONS)
    assert all(whose for whose in TAKEN_ELSEWHERE.values())
