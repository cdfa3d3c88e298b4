"""A connection on its way out: half-closed, orphaned (its owner closed it), or met by its port's next user."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.netstack.tcp.tcp_script import ACK, FIN, RST, SYN, Script, Sent, state_of
from ztnode.netstack.tcp import arrival
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.netstack.tcp.tcp_config import TcpConfig


def flags(out: Sent) -> list[int]:
    return [header.flags for header, _ in out]


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Flags of the segments that header prediction did not take."""
    seen: list[int] = []
    original = arrival._arrived

    def spy(tcb: ControlBlock, seg: arrival.Arrival, now: float) -> None:
        seen.append(seg.flags)
        original(tcb, seg, now)

    monkeypatch.setattr(arrival, "_arrived", spy)
    return seen


# --- header prediction beyond ESTABLISHED ---
@pytest.mark.parametrize("ts", [False, True])
def test_a_download_after_the_peers_half_close_stays_on_the_fast_path(long_way: list[int], ts: bool) -> None:
    s = Script()
    c = s.established(ts=ts)
    s.say(FIN | ACK, 1, 1)
    assert c.state is State.CLOSE_WAIT
    long_way.clear()
    c.write(b"x" * 100_000)
    out = s.sent()
    while out:
        s.now += 0.01
        out = s.say(ACK, 2, max(header.sequence + len(payload) for header, payload in out))
    assert long_way == []
    assert c.unacknowledged == 0
    assert c.info()["timeouts"] == c.info()["retransmits"] == 0


@pytest.mark.parametrize("state", [State.FIN_WAIT_1, State.LAST_ACK, State.CLOSING])
def test_what_is_left_behind_our_close_goes_out_on_the_fast_path(long_way: list[int], state: State) -> None:
    s = Script()
    c = s.established(window=3000)
    peer = 1
    if state is State.LAST_ACK:
        s.say(FIN | ACK, peer, 1, window=3000)
        peer = 2
    c.write(b"x" * 6000)
    c.shutdown()
    assert len(s.sent()) == 3
    if state is State.CLOSING:
        s.say(FIN | ACK, peer, 1, window=3000)
        peer = 2
    assert c.state is state
    long_way.clear()
    out = s.say(ACK, peer, 3001, window=3000)
    assert [(header.sequence, len(payload)) for header, payload in out] == [(3001, 1000), (4001, 1000), (5001, 1000)]
    assert out[-1][0].flags & FIN
    s.say(ACK, peer, 6001)
    assert long_way == []
    assert c.state is state
    s.say(ACK, peer, 6002)
    after = {State.FIN_WAIT_1: State.FIN_WAIT_2, State.LAST_ACK: State.CLOSED, State.CLOSING: State.TIME_WAIT}
    assert c.state is after[state]


def test_text_after_the_peers_fin_is_not_taken() -> None:
    s = Script()
    c = s.established()
    c.write(b"x" * 1000)
    s.sent()
    s.say(FIN | ACK, 1, 1)
    s.say(ACK, 2, 1001, b"after the end")
    assert c.readable == 0
    assert c.eof
    assert c.unacknowledged == 0  # the acknowledgement counts


def test_a_fin_that_overtook_its_data_is_taken_when_ours_is_acknowledged_first() -> None:
    s = Script()
    c = s.established()
    s.say(FIN | ACK, 101, 1)
    c.shutdown()
    s.sent()
    s.say(ACK, 1, 2)
    assert c.state is State.FIN_WAIT_2
    s.say(ACK, 1, 2, b"x" * 100)
    assert state_of(c) is State.TIME_WAIT
    assert c.readable == 100


def test_text_for_an_owner_that_shut_down_and_then_closed_resets() -> None:
    s = Script()
    c = s.established()
    c.shutdown()
    s.sent()
    s.say(ACK, 1, 2)
    assert c.state is State.FIN_WAIT_2
    c.close()
    assert RST | ACK in flags(s.say(ACK, 1, 2, b"too late"))
    assert state_of(c) is State.CLOSED


def test_a_new_syn_right_behind_the_last_acknowledgement_is_heard() -> None:
    """In one batch: what is put off to its end must not make the connection look alive."""
    s = Script()
    c = s.established()
    s.layer.listen(s.our_port)
    s.say(FIN | ACK, 1, 1)
    c.close()
    s.sent()
    out = s.inject(s.segment(ACK, 2, 2), s.segment(SYN, 70_000))
    assert flags(out) == [SYN | ACK]
    assert c.state is State.CLOSED


# --- orphans ---
def test_an_orphan_that_meets_nothing_but_a_closed_window_ends() -> None:
    """With an owner it stays open for ever (RFC 1122 section 4.2.2.17); without one, what it holds is nobody's."""
    s = Script(TcpConfig(orphan_timeout=100.0))
    c = s.established(window=0)
    c.write(b"x" * 100)
    for _ in range(40):  # more than the limit: what counts is the time as an orphan
        s.wait(10.0)
        s.say(ACK, 1, 1, window=0)
    assert c.established
    c.close()
    closed = s.now
    while c.state is not State.CLOSED:
        for header, _ in s.wait(5.0):
            if header.flags & RST:
                break
            s.say(ACK, 1, 1, window=0)
        assert s.now - closed < 100.0 + 2 * 60.0 + 5.0  # the limit, and the longest pauses between probes
    assert s.now - closed >= 100.0
    assert isinstance(c.error, TimeoutError)
    assert c.unacknowledged == 0
    assert s.layer.next_timer() is None


def test_an_orphan_whose_window_opens_in_time_delivers_everything() -> None:
    s = Script(TcpConfig(orphan_timeout=100.0))
    c = s.established(window=0)
    c.write(b"x" * 300)
    c.close()
    acked = 1
    for _ in range(3):  # every answer is progress: the limit counts from the last one
        for _ in range(16):
            for header, payload in s.wait(5.0):
                assert not header.flags & RST
                acked = max(acked, header.sequence + len(payload))
            s.say(ACK, 1, acked, window=0)
        for header, payload in s.say(ACK, 1, acked, window=100):
            acked = max(acked, header.sequence + len(payload))
        for header, payload in s.wait(2.0):
            acked = max(acked, header.sequence + len(payload))
    s.say(ACK, 1, acked)
    assert acked >= 301
    s.say(ACK, 1, 302)
    assert c.state is State.FIN_WAIT_2
    assert c.error is None


def test_the_time_in_fin_wait_2_counts_from_the_close() -> None:
    """And not from when the layer last heard of the time."""
    s = Script()
    c = s.established()
    c.shutdown()
    s.sent()
    s.say(ACK, 1, 2)
    s.now += 500.0
    c.close()
    s.wait(59.0)
    assert c.state is State.FIN_WAIT_2
    s.wait(2.0)
    assert state_of(c) is State.CLOSED


def test_orphans_are_limited_in_number() -> None:
    s = Script(TcpConfig(orphans_max=3))
    connections = []
    for _ in range(5):
        c = s.established(window=0)
        c.write(b"x" * 100)
        connections.append(c)
        s.peer_port += 1
    s.sent()
    for c in connections:
        c.close()
    assert [c.state is State.CLOSED for c in connections] == [False, False, False, True, True]
    assert flags(s.sent()) == [RST | ACK, RST | ACK]
    assert s.layer.counters["orphans_full"] == 2
    connections[0].abort()  # room for one
    again = s.established(window=0)
    again.write(b"x" * 100)
    again.close()
    assert again.state is State.FIN_WAIT_1


def test_orphans_are_limited_in_what_they_hold() -> None:
    """However few they are. What their peers acknowledge meanwhile makes room."""
    s = Script(TcpConfig(orphan_bytes_max=100_000))
    connections = []
    for _ in range(4):
        c = s.established(window=0)
        c.write(bytes(40_000))
        c.close()
        connections.append(c)
        s.peer_port += 1
    assert [c.state is State.CLOSED for c in connections] == [False, False, True, True]
    assert s.layer.counters["orphans_full"] == 2
    empty = s.established()
    empty.close()
    assert empty.state is State.FIN_WAIT_1
    s.sent()
    s.peer_port += 1
    last = s.established(window=0)
    last.write(bytes(20_000))
    last.close()
    s.sent()
    taken = sum(len(payload) for _, payload in s.say(ACK, 1, 1))
    assert taken >= 10_000
    s.say(ACK, 1, 1 + taken)
    for size, kept in ((taken + 1, False), (taken, True)):
        s.peer_port += 1
        again = s.established(window=0)
        again.write(bytes(size))
        again.close()
        assert (again.state is State.FIN_WAIT_1) == kept


def test_orphans_that_only_wait_for_a_fin_make_room_for_each_other() -> None:
    """A server that closes first, towards clients that never close: no response is cut short for their sake."""
    s = Script(TcpConfig(orphans_max=3))
    connections = []
    for _ in range(5):
        c = s.established()
        c.write(b"x" * 100)
        c.close()
        s.sent()
        s.say(ACK, 1, 102)
        connections.append(c)
        s.peer_port += 1
    assert [c.state is State.CLOSED for c in connections] == [True, True, False, False, False]
    assert all(c.error is None for c in connections)
    assert not s.layer.orphans.delivering
    s.wait(61.0)
    assert not s.layer.orphans.in_fin_wait_2
    assert s.layer.next_timer() is None


def test_no_end_of_a_connection_leaves_an_orphan_counted() -> None:
    s = Script()
    ends = []
    for end in ("reset", "abort", "time-wait", "time-wait through fin-wait-2", "port gone"):
        c = s.established()
        c.close()
        s.sent()
        if end == "time-wait through fin-wait-2":
            s.say(ACK, 1, 2)
            assert list(s.layer.orphans.in_fin_wait_2) == [c]
        if end == "reset":
            s.say(RST, 1)
        elif end == "abort":
            c.abort()
        elif end.startswith("time-wait"):
            s.say(FIN | ACK, 1, 2)
        else:
            s.layer.port_removed(s.port_index, s.now)
        assert c.closed, end
        ends.append(len(s.layer.orphans.delivering) + len(s.layer.orphans.in_fin_wait_2))
        s.peer_port += 1
    assert ends == [0, 0, 0, 0, 0]


def test_an_orphan_in_fin_wait_2_is_kept_by_nothing_the_peer_says() -> None:
    s = Script()
    c = s.established()
    c.keepalive = True
    s.say(ACK, 1, 1, b"x" * 100)
    c.read(100)
    c.close()
    s.sent()
    s.say(ACK, 101, 2)
    assert c.state is State.FIN_WAIT_2
    for _ in range(7):
        s.wait(10.0)
        s.say(ACK, 101, 2)
        s.say(ACK, 1, 2, b"x" * 100)  # once more what it sent long ago
    assert state_of(c) is State.CLOSED
    assert c.error is None


# --- the port's next user ---
def half_way(state: State) -> tuple[Script, int]:
    """A connection in ``state``, and the peer's next sequence number."""
    s = Script()
    c = s.established()
    peer = 1
    if state in (State.CLOSE_WAIT, State.LAST_ACK):
        s.say(FIN | ACK, peer, 1)
        peer = 2
    if state in (State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSING, State.LAST_ACK):
        c.shutdown()
        s.sent()
    if state is State.FIN_WAIT_2:
        s.say(ACK, peer, 2)
    if state is State.CLOSING:
        s.say(FIN | ACK, peer, 1)
        peer = 2
    assert c.state is state
    s.layer.listen(s.our_port)
    return s, peer


@pytest.mark.parametrize("ahead", [-70_000, 0, 500, 70_000], ids=["older", "same", "in the window", "newer"])
@pytest.mark.parametrize(
    "state",
    [State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSE_WAIT, State.CLOSING, State.LAST_ACK],
    ids=lambda state: state.name,
)
def test_rfc5961_a_peer_that_forgot_gets_through_with_its_second_syn(state: State, ahead: int) -> None:
    """SYN, challenge ACK, RST (whose sequence number the challenge names), SYN: one round trip and a repetition."""
    s, peer = half_way(state)
    out = s.say(SYN, peer + ahead)
    assert flags(out) == [ACK]
    challenge = out[0][0]
    assert s.say(RST, challenge.acknowledgement) == []
    assert s.layer.connections() == []
    assert flags(s.say(SYN, peer + ahead)) == [SYN | ACK]


@pytest.mark.parametrize("ts", [False, True])
def test_rfc6191_a_syn_that_time_wait_refuses_gets_through_once_it_is_newer(ts: bool) -> None:
    s = Script()
    c = s.established(ts=ts)
    c.shutdown()
    s.sent()
    s.say(FIN | ACK, 1, 2)
    assert c.state is State.TIME_WAIT
    s.layer.listen(s.our_port)
    old: dict[str, Any] = {"timestamps": (0, 0)} if ts else {}
    out = s.say(SYN, 0, **old)
    assert flags(out) == [ACK]
    assert s.say(RST, out[0][0].acknowledgement) == []  # RFC 1337: no end to TIME-WAIT
    if ts:
        assert flags(s.say(SYN, 0, timestamps=(9, 0))) == [SYN | ACK]
    else:
        assert flags(s.say(SYN, 2)) == [SYN | ACK]
