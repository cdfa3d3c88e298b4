"""A connection on its way out: half-closed, orphaned (its owner closed it), or met by its port's next user."""

from __future__ import annotations

import pytest
from tcp_script import ACK, FIN, RST, SYN, Script

from ztnode.netstack.tcp import arrival
from ztnode.netstack.tcp.state import State


def flags(out) -> list[int]:
    return [header.flags for header, _ in out]


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Flags of the segments that header prediction did not settle."""
    seen: list[int] = []
    original = arrival._arrived

    def spy(connection, seq, ack, flags, *rest) -> None:
        seen.append(flags)
        original(connection, seq, ack, flags, *rest)

    monkeypatch.setattr(arrival, "_arrived", spy)
    return seen


# ------------------------------------------------------------------ header prediction beyond ESTABLISHED
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
    assert c.unsent == 0
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
    assert c.unsent == 0  # the acknowledgement counts


def test_a_fin_that_overtook_its_data_is_taken_when_ours_is_acknowledged_first() -> None:
    s = Script()
    c = s.established()
    s.say(FIN | ACK, 101, 1)
    c.shutdown()
    s.sent()
    s.say(ACK, 1, 2)
    assert c.state is State.FIN_WAIT_2
    s.say(ACK, 1, 2, b"x" * 100)
    assert c.state is State.TIME_WAIT
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
    assert c.state is State.CLOSED


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
