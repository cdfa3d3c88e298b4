"""Each feature by itself, segment by segment, under a fake clock. The RFC is in the name."""

from __future__ import annotations

import errno
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from tests.unit.netstack.tcp.tcp_script import ACK, FIN, PSH, RST, SYN, Script, Sent, state_of
from tests.unit.netstack.tcp.tcp_sim import PORT, SimFlow, World, transfer
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcp_config import TcpConfig


def flags(out: Sent) -> list[int]:
    return [header.flags for header, _ in out]


def next_timer(s: Script) -> float:
    due = s.layer.next_timer()
    assert due is not None
    return due


def all_answered(connections: list[TcpConnection]) -> bool:
    return all(connection.readable == 3 or connection.error for connection in connections)


def spans(out: Sent) -> list[tuple[int, int]]:
    return [(header.sequence, header.sequence + len(payload)) for header, payload in out if payload]


# --- opening ---
def test_rfc9293_active_open_offers_every_option() -> None:
    s = Script()
    s.connect()
    ((header, _),) = s.sent()
    assert header.flags == SYN
    assert header.options.mss == 1460
    assert header.options.sack_permitted
    assert header.options.window_scale == 8
    assert header.options.timestamps is not None


def test_rfc9293_refused_in_one_round_trip() -> None:
    s = Script()
    c = s.connect()
    s.sent()
    s.say(RST | ACK, 0, 1)
    assert isinstance(c.error, ConnectionRefusedError)
    assert c.closed
    assert s.layer.next_timer() is None


def test_rfc9293_a_reset_that_acknowledges_nothing_of_ours_is_ignored() -> None:
    s = Script()
    c = s.connect()
    s.sent()
    s.say(RST | ACK, 0, 7)
    s.say(RST, 0)
    assert c.state is State.SYN_SENT


def test_rfc9293_half_open_discovery_answers_a_wrong_ack_with_reset() -> None:
    s = Script()
    c = s.connect()
    s.sent()
    ((header, _),) = s.say(ACK, 700, 300)
    assert (header.flags, header.sequence) == (RST, 300)
    assert c.state is State.SYN_SENT


def test_syn_is_repeated_quickly_at_first_and_gives_up_in_time() -> None:
    s = Script()
    c = s.connect(timeout=5.0)
    start = s.now
    times = []
    s.sent()
    while (due := s.layer.next_timer()) is not None:
        s.now = due
        s.layer.handle_timer(s.now)
        times += [round(s.now - start, 3)] * len(s.sent())
    assert times == [0.25, 0.75, 1.75, 3.75]
    assert isinstance(c.error, TimeoutError)
    assert c.error.errno == errno.ETIMEDOUT


def test_rfc5461_unreachable_ends_only_an_attempt() -> None:
    s = Script()
    c = s.connect()
    s.sent()
    key = s.segment(ACK, 0)[0]
    quoted = key[4:8] + key[:4] + key[10:12] + key[8:10]
    s.layer.icmp_error(PORT, quoted, s.isn + 500, errno.EHOSTUNREACH, s.now)
    assert c.error is None  # RFC 5927: not a sequence number of ours
    s.layer.icmp_error(PORT, quoted, s.isn, errno.EHOSTUNREACH, s.now)
    assert c.error is not None
    assert c.error.errno == errno.EHOSTUNREACH
    c = s.established()
    key = s.segment(ACK, 0)[0]
    s.layer.icmp_error(PORT, key[4:8] + key[:4] + key[10:12] + key[8:10], s.isn + 1, errno.ECONNREFUSED, s.now)
    assert c.established


def test_next_hop_that_does_not_answer() -> None:
    s = Script()
    c = s.connect()
    s.layer.flow_failed(s, errno.EHOSTUNREACH, s.now)
    assert c.error is not None
    assert c.error.errno == errno.EHOSTUNREACH


def test_data_written_before_the_handshake_follows_it() -> None:
    s = Script()
    c = s.connect()
    c.write(b"hello")
    c.shutdown()
    assert flags(s.sent()) == [SYN]
    out = s.say(SYN | ACK, 0, 1)
    assert [(h.flags, p) for h, p in out] == [(ACK | PSH | FIN, b"hello")]


def test_rfc9293_passive_open_and_a_repeated_syn() -> None:
    s = Script()
    listener = s.listen()
    ((first, _),) = s.say(SYN, 0, mss=1200, window_scale=3)
    assert first.flags == SYN | ACK
    assert first.acknowledgement == 1
    assert first.options.window_scale == 8
    assert not first.options.sack_permitted
    assert first.options.timestamps is None
    ((again, _),) = s.say(SYN, 0, mss=1200, window_scale=3)
    assert again.flags == SYN | ACK
    s.say(ACK, 1, 1)
    c = listener.accept()
    assert c is not None
    assert c.established
    assert c.info()["mss"] == 1200


def test_rfc7323_no_scaling_unless_both_ask() -> None:
    s = Script()
    s.listen()
    ((header, _),) = s.say(SYN, 0, mss=1200)
    assert header.options.window_scale is None


def test_syn_queue_is_bounded_and_the_oldest_makes_room() -> None:
    s = Script(TcpConfig(syn_queue=10))
    listener = s.listen(backlog=20)
    for port in range(2000, 3000):
        s.peer_port = port
        assert [header.flags for header, _ in s.say(SYN, 0)] == [SYN | ACK]  # and no reset for the one that goes
    assert len(listener.half_open) == 10
    assert len(s.layer.connections()) == 10
    s.say(ACK, 1, 1)  # the last one completes: a flood does not keep honest peers out
    assert listener.pending == 1


def test_a_burst_of_dials_above_the_backlog_is_no_flood() -> None:
    s = Script()
    listener = s.listen(backlog=1)
    isns = {}
    for s.peer_port in range(2000, 2600):
        s.say(SYN, 0)
        isns[s.peer_port] = s.isn
    for s.peer_port, s.isn in isns.items():
        s.say(ACK, 1, 1)
    assert listener.pending == 600


def test_backlog_is_a_limit() -> None:
    s = Script()
    listener = s.listen(backlog=3)
    for port in range(2000, 2010):
        s.peer_port = port
        if s.say(SYN, 0):
            s.say(ACK, 1, 1)
    assert listener.pending == 3
    assert s.layer.counters["accept_queue_full"] == 7
    listener.close()
    assert not s.layer.connections()


def test_rfc9293_simultaneous_open() -> None:
    w = World()
    a = w.a.connect(5001, local_port=5000)
    b = w.b.connect(5000, local_port=5001)
    assert w.run(lambda: a.established and b.established, 5.0)
    transfer(w, a, b, 100_000)


def test_rfc9293_closed_port_resets_what_comes() -> None:
    s = Script()
    ((header, _),) = s.say(SYN, 0)
    assert (header.flags, header.acknowledgement) == (RST | ACK, 1)
    ((header, _),) = s.say(ACK, 10, 77)
    assert (header.flags, header.sequence) == (RST, 77)
    ((header, _),) = s.say(FIN, 10, payload=b"abc")
    assert (header.flags, header.acknowledgement) == (RST | ACK, 14)
    assert s.say(RST, 10) == []


def test_addresses_in_use() -> None:
    s = Script()
    s.listen()
    with pytest.raises(OSError, match="in use"):
        s.listen()
    s.connect(local_port=1234)
    with pytest.raises(OSError, match="in use"):
        s.connect(local_port=1234)


# --- RFC 5961 ---
def test_rfc5961_reset_only_for_the_exact_sequence_number() -> None:
    s = Script()
    c = s.established()
    ((header, _),) = s.say(RST, 100)
    assert header.flags == ACK  # a challenge
    assert s.say(RST, 200_000) == []
    assert c.established
    s.say(RST, 1)
    assert isinstance(c.error, ConnectionResetError)
    with pytest.raises(ConnectionResetError):
        c.write(b"x")


def test_rfc5961_syn_and_unheard_of_acks_are_challenged() -> None:
    s = Script()
    c = s.established()
    assert flags(s.say(SYN, 1)) == [ACK]
    assert flags(s.say(ACK, 1, 5000, b"data")) == [ACK]
    assert c.readable == 0
    assert c.established


def test_rfc5961_challenges_are_limited() -> None:
    s = Script(TcpConfig(challenge_acks_per_second=5))
    s.established()
    assert sum(len(s.say(RST, 100)) for _ in range(50)) == 5


def test_bad_checksum_and_nonsense_are_counted_and_dropped() -> None:
    s = Script()
    c = s.established()
    key, data = s.segment(ACK, 1, 1, b"payload")
    assert s.inject((key, data[:-1] + b"?")) == []
    assert s.inject((key, data[:15])) == []
    assert s.layer.counters["bad_checksum"] == 1
    assert s.layer.counters["short"] == 1
    assert c.readable == 0
    s.inject(*[(key, data[:15])] * 5000, (key, data))  # a batch of little else
    assert s.layer.counters["short"] == 5001
    assert c.readable == len(b"payload")


# --- receiving ---
def test_rfc7323_paws_and_its_exception_for_resets() -> None:
    s = Script()
    c = s.established(ts=True)
    s.ts = 1000
    s.say(ACK, 1, 1, b"new")
    s.ts = 500
    ((header, _),) = s.say(ACK, 4, 1, b"old duplicate")
    assert header.acknowledgement == 4
    assert c.readable == 3
    assert s.layer.counters["paws"] == 1
    s.say(RST, 4)
    assert c.error is not None


def test_rfc7323_timestamp_echo_is_of_the_last_segment_in_order() -> None:
    s = Script()
    s.established(ts=True)
    s.ts = 10
    s.say(ACK, 1, 1, b"a" * 10)
    s.ts = 30
    out = s.say(ACK, 21, 1, b"c" * 10)  # out of order: section 4.3 keeps 10
    timestamps = out[-1][0].options.timestamps
    assert timestamps is not None and timestamps[1] == 10


def test_rfc2018_and_rfc2883_blocks() -> None:
    s = Script()
    s.established(mss=1000)
    (first,) = s.say(ACK, 1001, 1, b"b" * 1000)
    rel = s.peer_isn
    assert [(a - rel, b - rel) for a, b in first[0].options.sack] == [(1001, 2001)]
    (second,) = s.say(ACK, 3001, 1, b"d" * 1000)
    assert [(a - rel, b - rel) for a, b in second[0].options.sack] == [(3001, 4001), (1001, 2001)]
    (third,) = s.say(ACK, 1001, 1, b"b" * 1000)
    assert next((a - rel, b - rel) for a, b in third[0].options.sack) == (1001, 2001)  # DSACK
    (fourth,) = s.say(ACK, 1, 1, b"a" * 1000)
    assert fourth[0].acknowledgement == 2001
    (fifth,) = s.say(ACK, 1, 1, b"a" * 1000)
    assert next((a - rel, b - rel) for a, b in fifth[0].options.sack) == (1, 1001)
    assert fifth[0].acknowledgement == 2001


@pytest.mark.parametrize("sack", [True, False])
def test_rfc5681_one_ack_per_batch_but_a_duplicate_ack_for_every_segment_out_of_order(sack: bool) -> None:
    s = Script()
    s.established(sack=sack)
    in_order = [s.segment(ACK, 1 + 1000 * n, 1, b"x" * 1000) for n in range(20)]
    assert len(s.inject(*in_order)) == 1
    holes = [s.segment(ACK, 21001 + 1000 * n, 1, b"x" * 1000) for n in range(5)]
    out = s.inject(*holes)
    assert [h.acknowledgement for h, _ in out] == [20001] * 5
    assert all(bool(h.options.sack) is sack for h, _ in out)


def test_delayed_ack_never_stalls_a_request_response_exchange() -> None:
    s = Script()
    c = s.established()
    position = 1
    for number in range(40):  # the owner does not answer: the last small segment is acknowledged at once
        out = s.say(ACK | PSH, position, 1, b"r" * 100)
        position += 100
        assert [h.acknowledgement for h, _ in out] == [position], number
        c.read(1000)


def test_delayed_ack_travels_with_data_of_ours_and_waits_40_ms_at_most() -> None:
    s = Script()
    c = s.established()
    full = c.info()["mss"]
    theirs = 1
    while s.say(ACK, theirs, 1, b"b" * full):  # slow start of the peer: at once
        theirs += full
        c.read(full)
    theirs += full
    c.write(b"a" * 50)
    ((header, payload),) = s.sent()
    assert (header.acknowledgement, len(payload)) == (theirs, 50)
    before = s.now
    assert s.say(ACK, theirs, 51, b"b" * full) == []
    assert next_timer(s) <= before + 0.041
    ((header, _),) = s.wait(0.05)
    assert header.acknowledgement == theirs + full


def test_the_acknowledgment_of_an_answer_leaves_with_the_next_request() -> None:
    s = Script()
    c = s.established()
    ours = theirs = 1

    def turn() -> list[int]:
        """Acknowledgment numbers of what went out at once for one answer, after one request."""
        nonlocal ours, theirs
        c.write(b"q" * 50)
        ((header, payload),) = s.sent()
        assert (header.acknowledgement, len(payload)) == (theirs, 50)
        ours += 50
        theirs += 700
        out = [header.acknowledgement for header, _ in s.say(ACK | PSH, theirs - 700, ours, b"a" * 700)]
        c.read(1000)
        return out

    assert [bool(turn()) for _ in range(6)] == [True, True, False, False, False, False]
    # No request follows: it is told a little later, and from then on at once until they take turns again.
    before = s.now
    assert next_timer(s) <= before + 0.003
    ((header, _),) = s.wait(0.004)
    assert header.acknowledgement == theirs
    s.wait(0.05)
    assert [bool(turn()) for _ in range(3)] == [True, True, False]
    # More of the answer comes: that is not what we took it for.
    theirs += 300
    ((header, _),) = s.say(ACK | PSH, theirs - 300, ours, b"m" * 300)
    assert header.acknowledgement == theirs
    c.read(1000)
    assert turn() == [theirs]


def test_where_our_owner_is_slow_the_acknowledgment_waits_longer_and_no_longer_than_that() -> None:
    s = Script()
    c = s.established()
    ours = theirs = 1

    def acknowledged_alone(seconds: float) -> int:
        """Acknowledgments without text for one answer, after one request that came so late."""
        nonlocal ours, theirs
        alone = len(s.wait(seconds))
        c.write(b"q" * 50)
        s.sent()
        ours += 50
        theirs += 700
        alone += len(s.say(ACK | PSH, theirs - 700, ours, b"a" * 700))
        c.read(1000)
        return alone

    assert [acknowledged_alone(0.0) for _ in range(4)] == [1, 1, 0, 0]
    assert [acknowledged_alone(0.01) for _ in range(6)] == [1, 1, 1, 0, 0, 0], "2, 4, 8, then 16 ms"
    # What comes in two parts is not held up for that long: the first of them waited for 2 ms when it was new to us.
    theirs += 300
    assert len(s.say(ACK | PSH, theirs - 300, ours, b"m" * 300)) == 1
    c.read(1000)
    assert [acknowledged_alone(0.0) for _ in range(3)] == [1, 0, 0]
    assert next_timer(s) <= s.now + 0.003


def test_the_head_of_an_answer_that_nagle_holds_back_is_acknowledged_at_once() -> None:
    """A server that writes head and body apart sends the body only when the head is acknowledged."""
    s = Script()
    c = s.established()
    ours, theirs = 1, 1
    for _ in range(20):
        c.write(b"q" * 50)
        s.sent()
        ours += 50
        for part in (b"h" * 200, b"b" * 600):
            theirs += len(part)
            out = s.say(ACK | PSH, theirs - len(part), ours, part)
            assert [header.acknowledgement for header, _ in out] == [theirs]
        c.read(1000)


def test_rfc9293_receive_window_closes_and_reopens_with_an_update() -> None:
    s = Script(TcpConfig(receive_buffer=8000, receive_buffer_max=8000))
    c = s.established()
    for n in range(8):
        out = s.say(ACK, 1 + 1000 * n, 1, b"x" * 1000)
    assert out[-1][0].window == 0
    ((header, _),) = s.say(ACK, 8001, 1, b"y")  # a window probe
    assert (header.acknowledgement, header.window) == (8001, 0)
    c.read(100)
    assert s.sent() == []  # silly window avoidance
    c.read(8000)
    ((header, _),) = s.sent()
    assert header.window == 8000


def test_text_beyond_the_window_is_not_stored() -> None:
    s = Script(TcpConfig(receive_buffer=4000, receive_buffer_max=4000))
    c = s.established()
    s.say(ACK, 1, 1, b"x" * 6000)
    assert c.readable == 4000
    s.say(ACK, 30001, 1, b"x" * 1000)
    assert not c.rcv.reassembly


def test_sequence_numbers_wrap_on_both_sides() -> None:
    s = Script(peer_isn=0xFFFFFF00)
    c = s.established()
    s.say(ACK, 1, 1, b"a" * 200)
    s.say(ACK, 401, 1, b"c" * 200)
    s.say(ACK, 201, 1, b"b" * 200)
    assert b"".join(c.read(1000)) == b"a" * 200 + b"b" * 200 + b"c" * 200


# --- sending ---
def test_nagle_in_minshalls_form_and_nodelay() -> None:
    s = Script()
    c = s.established(mss=1000)
    c.nodelay = False
    c.write(b"1" * 10)
    assert spans(s.sent()) == [(1, 11)]
    c.write(b"2" * 10)
    assert s.sent() == []  # a small one is under way
    c.write(b"3" * 1000)
    assert spans(s.sent()) == [(11, 1011)]  # full segments go
    assert spans(s.say(ACK, 1, 11)) == [(1011, 1021)]
    c.nodelay = True
    c.write(b"4" * 10)
    c.write(b"5" * 10)
    assert spans(s.sent()) == [(1021, 1041)]


def test_an_answer_in_two_parts_does_not_wait_for_the_acknowledgment_of_the_first() -> None:
    s = Script()
    c = s.established(mss=1000)
    c.write(b"head" * 10)
    assert spans(s.sent()) == [(1, 41)]
    c.write(b"body" * 10)
    assert spans(s.sent()) == [(41, 81)]
    c.write(b"x" * 1010)  # nor does the end of what comes next
    assert spans(s.sent()) == [(81, 1081), (1081, 1091)]


def test_rfc6928_ten_segments_at_first() -> None:
    s = Script()
    c = s.established(mss=1000)
    c.write(b"x" * 50_000)
    assert len(s.sent()) == 10


def test_rfc9293_zero_window_probes_go_on_for_ever_while_answered() -> None:
    s = Script()
    c = s.established(window=0)
    c.write(b"x" * 100)
    out = s.wait(0.9)
    assert len(out) >= 1
    probes = 0
    for _ in range(40):
        for header, payload in s.wait(30.0):
            assert payload == b""
            assert header.sequence == 0
            probes += 1
            s.say(ACK, 1, 1, window=0)
    assert probes >= 15
    assert c.established
    assert spans(s.say(ACK, 1, 1, window=65535)) == [(1, 101)]


def test_zero_window_of_a_dead_peer_ends() -> None:
    s = Script()
    c = s.established(window=0)
    c.write(b"x" * 100)
    s.wait(400)
    assert c.error is not None
    assert c.error.errno == errno.ETIMEDOUT


def test_rfc9293_sender_avoids_silly_windows() -> None:
    s = Script()
    c = s.established(window=5000, mss=1000)
    c.write(b"x" * 20_000)
    assert len(s.sent()) == 5
    assert s.say(ACK, 1, 5001, window=100) == []  # 100 bytes are not worth a segment
    (probe,) = spans(s.wait(1.0))[:1]
    assert probe == (5001, 5101)  # the override timeout


def test_user_timeout() -> None:
    s = Script()
    c = s.established()
    c.write(b"x")
    s.wait(300)
    assert isinstance(c.error, TimeoutError)
    assert c.closed
    assert s.layer.next_timer() is None


def test_rfc6298_back_off_doubles() -> None:
    s = Script()
    c = s.established(sack=False)
    c.write(b"x" * 10)
    s.sent()
    start = s.now
    times = []
    while s.now - start < 8:
        s.now = next_timer(s)
        s.layer.handle_timer(s.now)
        times += [s.now] * len(s.sent())
    gaps = [b - a for a, b in zip([start, *times], times, strict=False)]
    assert gaps[0] == pytest.approx(0.21, abs=0.02)
    assert all(b == pytest.approx(2 * a, rel=0.01) for a, b in pairwise(gaps))


def test_keepalive() -> None:
    s = Script(TcpConfig(keepalive_idle=100, keepalive_interval=10, keepalive_probes=3))
    c = s.established()
    c.keepalive = True
    ((header, payload),) = s.wait(101)
    assert (header.sequence, payload) == (0, b"")
    s.say(ACK, 1, 1)
    assert c.established
    assert len([h for h, _ in s.wait(200) if h.flags == ACK]) == 3
    assert isinstance(c.error, TimeoutError)


def test_rfc5681_restart_after_idle() -> None:
    s = Script()
    c = s.established(mss=1000)
    c.write(b"x" * 40_000)
    una = 1
    while una < 40_001:
        out = s.sent()
        una = max([e for _, e in spans(out)], default=una)
        s.now += 0.01
        s.frames.clear()
        s.layer.receive(PORT, [(k, memoryview(d)) for k, d in [s.segment(ACK, 1, una)]], s.now)
    assert c.info()["cwnd"] > 20_000
    s.wait(5.0)
    c.write(b"y" * 40_000)
    assert len(s.sent()) == 10


# --- loss ---
def burst(s: Script, count: int = 10) -> TcpConnection:
    c = s.established(mss=1000)
    c.write(b"x" * 1000 * count)
    assert len(s.sent()) == min(count, 10)
    s.now += 0.01
    return c


def test_rfc8985_a_lost_retransmission_is_found_by_a_later_one_beyond_the_hole() -> None:
    """The second retransmission is only SACKed, with the old timestamp of what came before the hole (RFC 7323)."""
    world = World(seed=1)
    client, server = world.pair()
    first = client.snd.iss + 1
    lose = {first: 2, first + 4 * client.snd.mss: 1}  # how often which segment is lost

    def arrives(segment: bytes) -> bool:
        seq = int.from_bytes(segment[4:8], "big")
        if len(segment) > 100 and lose.get(seq, 0):
            lose[seq] -= 1
            return False
        return True

    world.a.filter = arrives
    began = world.now
    transfer(world, client, server, 10 * client.snd.mss)
    assert not any(lose.values())
    assert client.info()["timestamps"]
    assert client.info()["retransmits"] == 3
    assert client.info()["timeouts"] == 0
    assert world.now - began < 0.1


def test_rfc2018_a_fin_beyond_a_hole_is_reported() -> None:
    world = World(seed=1, keep_log=True)
    client, server = world.pair()
    first = client.snd.iss + 1
    lose = iter([False])
    world.a.filter = lambda segment: int.from_bytes(segment[4:8], "big") != first or next(lose, True)
    transfer(world, client, server, 5 * client.snd.mss)
    blocks = [block for _, header, _ in world.b.log for block in header.options.sack]
    assert max(right for _, right in blocks) == (first + 5 * client.snd.mss + 1) & 0xFFFFFFFF
    assert client.info()["retransmits"] == 1


def test_what_the_peer_has_beyond_a_hole_does_not_fill_the_send_buffer() -> None:
    s = Script(TcpConfig(send_buffer=20_000))
    c = burst(s, 20)
    s.layer.ready()
    assert c.writable == 0
    s.say(ACK, 1, 1, sack=((1001, 9001),))
    assert c.writable == 8000
    assert s.layer.ready() == [c]  # and its owner hears of it


def test_rfc8985_rack_retransmits_once_three_segments_are_sacked() -> None:
    s = Script()
    c = burst(s)
    assert spans(s.say(ACK, 1, 1, sack=((1001, 2001),))) == []
    assert spans(s.say(ACK, 1, 1, sack=((1001, 4001),))) == [(1, 1001)]
    assert c.info()["phase"] == "RECOVERY"
    assert c.info()["timeouts"] == 0


def test_rfc8985_rack_waits_the_reordering_window_for_fewer() -> None:
    s = Script()
    burst(s)
    before = s.now
    assert spans(s.say(ACK, 1, 1, sack=((1001, 2001),))) == []
    out = s.wait(0.02)
    assert spans(out)[0] == (1, 1001)
    assert next_timer(s) > before


def test_rfc8985_reordering_is_not_loss() -> None:
    s = Script()
    c = burst(s)
    s.say(ACK, 1, 1, sack=((1001, 2001),))
    s.now += 0.0005
    s.say(ACK, 1, 2001)
    assert c.info()["retransmits"] == 0
    assert c.info()["phase"] == "OPEN"


def test_rfc8985_tail_loss_probe_comes_before_the_timeout() -> None:
    s = Script()
    c = burst(s, 4)
    s.say(ACK, 1, 3001)
    start = s.now
    out = s.wait(0.25)
    assert spans(out)[0] == (3001, 4001)
    assert c.info()["tail_probes"] == 1
    assert c.info()["timeouts"] == 0
    assert s.now - start < 0.3


def test_rfc3042_limited_transmit() -> None:
    s = Script()
    burst(s, 20)
    assert spans(s.say(ACK, 1, 1, sack=((1001, 2001),))) == [(10001, 11001)]
    assert spans(s.say(ACK, 1, 1, sack=((1001, 3001),))) == [(11001, 12001)]


def test_rfc9937_prr_sends_in_proportion() -> None:
    s = Script()
    c = burst(s, 40)
    out = s.say(ACK, 1, 1, sack=((1001, 4001),))
    sent = len(out)
    for n in range(5, 11):
        sent += len(s.say(ACK, 1, 1, sack=((1001, n * 1000 + 1),)))
    assert 4 <= sent <= 9  # about beta times the ten that were outstanding
    s.say(ACK, 1, 10001)
    s.say(ACK, 1, c.snd.recovery.nxt - c.snd.iss)
    assert c.info()["phase"] == "OPEN"
    assert c.info()["cwnd"] <= 8000


def test_rfc6582_newreno_without_sack() -> None:
    s = Script()
    c = s.established(sack=False, mss=1000)
    c.write(b"x" * 10_000)
    s.sent()
    s.now += 0.01
    out = []
    for _ in range(3):
        out += s.say(ACK, 1, 1)
    assert spans(out) == [(1, 1001)]
    assert spans(s.say(ACK, 1, 4001))[:1] == [(4001, 5001)]  # a partial acknowledgement: the next hole
    s.say(ACK, 1, 10001)
    assert c.info()["phase"] == "OPEN"
    assert c.info()["timeouts"] == 0


def test_rfc5682_frto_spurious_timeout_is_undone() -> None:
    s = Script()
    c = s.established(sack=False, mss=1000)
    c.write(b"x" * 30_000)
    assert len(s.sent()) == 10
    cwnd = c.info()["cwnd"]
    out = s.wait(0.25)
    assert spans(out) == [(1, 1001)]
    assert c.info()["cwnd"] == 1000
    out = s.say(ACK, 1, 5001)  # the originals were only late
    assert c.info()["spurious"] == 1
    assert c.info()["cwnd"] >= cwnd
    assert (1001, 2001) not in spans(out)


def test_rfc5682_frto_real_timeout_is_not_undone() -> None:
    s = Script()
    c = s.established(mss=1000)
    c.write(b"x" * 30_000)
    s.sent()
    s.wait(0.3)
    assert c.info()["timeouts"] == 1
    new = c.snd.recovery.nxt - c.snd.iss
    out = s.say(ACK, 1, 1001)
    assert min(spans(out))[0] == new > 10_000  # step 2b: new data first
    out = s.say(ACK, 1, 1001, sack=((new, new + 1000),))
    assert c.info()["spurious"] == 0
    out += s.say(ACK, 1, 1001, sack=((new, new + 2000),))
    assert (1001, 2001) in [(a, min(b, 2001)) for a, b in spans(out)]


def test_rfc4015_eifel_by_timestamps() -> None:
    s = Script()
    c = s.established(ts=True, mss=1000)
    c.write(b"x" * 9880)
    out = s.sent()
    timestamps = out[0][0].options.timestamps
    assert timestamps is not None
    first = timestamps[0]
    cwnd = c.info()["cwnd"]
    end = spans(out)[0][1]
    s.now += 0.1
    out = s.wait(0.3)
    assert c.info()["retransmits"] >= 1
    timeouts = c.info()["timeouts"]
    s.ts = 2
    s.say(ACK, 1, end, timestamps=(2, first))
    if timeouts:
        assert c.info()["spurious"] == 1
        assert c.info()["cwnd"] >= cwnd


def test_rfc2018_a_peer_that_takes_back_its_sacks_is_survived() -> None:
    s = Script()
    c = burst(s)
    s.say(ACK, 1, 1, sack=((1001, 10001),))
    out = s.say(ACK, 1, 1001)  # and knows nothing of the rest any more
    una = 1001
    for _ in range(8):
        out += s.wait(1.0)
        while out:
            for low, high in spans(out):
                if low <= una < high:
                    una = high
            out = s.say(ACK, 1, una)
    assert una == 10_001
    assert c.info()["unacked"] == 0


# --- path MTU ---
def test_rfc1191_too_big_lowers_the_segment_size_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    w = World(mtu=2800)
    c, server = w.pair()
    limit = 1400
    late: list[tuple[bytes, int]] = []

    def narrow(segment: bytes) -> bool:
        if len(segment) + 20 <= limit:
            return True
        flow = c.link.flow
        assert isinstance(flow, SimFlow)
        flow.set_mtu(limit)
        key = c.link.key
        quoted = key[4:8] + key[:4] + key[10:12] + key[8:10]
        late.append((quoted, int.from_bytes(segment[4:8], "big")))
        return False

    w.a.filter = narrow
    start = w.now

    flush = w.a.layer.flush

    def flush_and_report(now: float) -> None:
        flush(now)
        for quoted, seq in late:
            w.a.layer.packet_too_big(PORT, quoted, seq, w.now)
        late.clear()
        flush(now)

    monkeypatch.setattr(w.a.layer, "flush", flush_and_report)
    job = transfer(w, c, server, 100_000)
    assert c.info()["mss"] <= limit - 40
    assert c.info()["timeouts"] == 0
    assert job.seconds_since(start) < 0.5


def test_rfc4821_black_hole_is_found_without_icmp() -> None:
    w = World(mtu=2800)
    c, server = w.pair()
    w.a.filter = lambda segment: len(segment) + 20 <= 1400
    start = w.now
    job = transfer(w, c, server, 300_000)
    assert c.info()["mss"] <= 1240
    assert job.seconds_since(start) < 5.0


# --- closing ---
def test_rfc9293_simultaneous_close_and_time_wait() -> None:
    w = World()
    c, server = w.pair()
    c.shutdown()
    server.shutdown()
    assert w.run(lambda: c.closed and server.closed, 5.0)
    assert (c.state, server.state) == (State.TIME_WAIT, State.TIME_WAIT)
    assert c.eof and server.eof and c.error is None and server.error is None
    w.run_for(70)
    assert len(w.a.layer._time_wait) == len(w.b.layer._time_wait) == 0


def test_a_fin_that_overtakes_the_data_before_it() -> None:
    s = Script()
    c = s.established()
    assert len(s.say(FIN | ACK, 101, 1)) == 1  # a duplicate acknowledgement
    assert c.state is State.ESTABLISHED
    ((header, _),) = s.say(ACK, 1, 1, b"x" * 100)
    assert header.acknowledgement == 102
    assert state_of(c) is State.CLOSE_WAIT
    assert not c.eof
    c.read(1000)
    assert c.eof


def test_half_close_both_ways() -> None:
    w = World()
    c, server = w.pair()
    transfer(w, c, server, 100_000)
    assert c.state in (State.FIN_WAIT_1, State.FIN_WAIT_2)
    with pytest.raises(BrokenPipeError):
        c.write(b"more")
    transfer(w, server, c, 100_000)
    w.run(lambda: c.closed and server.closed, 5.0)
    assert (c.state, server.state) == (State.TIME_WAIT, State.CLOSED)


def test_rfc2525_close_with_unread_data_resets() -> None:
    s = Script()
    c = s.established()
    s.say(ACK, 1, 1, b"unread")
    c.close()
    assert flags(s.sent()) == [RST | ACK]


def test_rfc1122_data_for_a_closed_owner_resets() -> None:
    s = Script()
    c = s.established()
    c.close()
    assert flags(s.sent()) == [FIN | ACK]
    s.say(ACK, 1, 2)
    assert RST | ACK in flags(s.say(ACK, 1, 2, b"too late"))
    assert c.state is State.CLOSED


def test_fin_wait_2_of_a_closed_owner_ends() -> None:
    s = Script()
    c = s.established()
    c.close()
    s.sent()
    s.say(ACK, 1, 2)
    assert c.state is State.FIN_WAIT_2
    s.wait(61)
    assert state_of(c) is State.CLOSED
    assert s.layer.next_timer() is None


@pytest.mark.parametrize("stage", ["established", "fin_wait_1", "fin_wait_2", "close_wait", "last_ack", "closing"])
def test_reset_in_every_state(stage: str) -> None:
    s = Script()
    c = s.established()
    c.write(b"x" * 100)
    s.sent()
    peer = 1
    if stage in ("fin_wait_1", "fin_wait_2", "closing"):
        c.shutdown()
        s.sent()
    if stage == "fin_wait_2":
        s.say(ACK, 1, 102)
    if stage in ("close_wait", "last_ack", "closing"):
        s.say(FIN | ACK, 1, 1)
        peer = 2
    if stage == "last_ack":
        c.shutdown()
        s.sent()
    assert c.state.name == stage.upper()
    s.say(RST, peer)
    assert c.state is State.CLOSED
    assert isinstance(c.error, ConnectionResetError)
    assert s.layer.next_timer() is None


def test_abort_tells_the_peer() -> None:
    w = World()
    c, server = w.pair()
    server.write(b"some")
    c.abort()
    assert w.run(lambda: server.closed, 5.0)
    assert isinstance(server.error, ConnectionResetError)


def close_actively(s: Script, **options: Any) -> TcpConnection:
    c = s.established(**options)
    c.shutdown()
    s.sent()
    s.say(FIN | ACK, 1, 2)
    assert c.state is State.TIME_WAIT
    return c


def test_rfc1337_time_wait_is_not_assassinated_and_answers_a_repeated_fin() -> None:
    s = Script()
    close_actively(s)
    assert s.say(RST, 2) == []
    ((header, _),) = s.say(FIN | ACK, 1, 2)
    assert (header.flags, header.sequence, header.acknowledgement) == (ACK, 2, 2)


def test_rfc6191_a_newer_syn_reopens_time_wait() -> None:
    s = Script()
    close_actively(s, ts=True)
    s.layer.listen(s.our_port)
    out = s.say(SYN, 0, timestamps=(0, 0))
    assert flags(out) == [ACK]  # older: answered for the old connection
    out = s.say(SYN, 0, timestamps=(5, 0))
    assert flags(out) == [SYN | ACK]


def test_network_gone() -> None:
    s = Script()
    c = s.established()
    listener = s.layer.listen(81, port_index=PORT)
    s.layer.port_removed(PORT, s.now)
    assert c.error is not None
    assert c.error.errno == errno.ENETDOWN
    assert listener.error is not None
    assert s.sent() == []
    assert s.layer.next_timer() is None


# --- owner's side ---
def test_ready_names_each_once_per_turn() -> None:
    w = World()
    c, server = w.pair()
    w.a.layer.ready(), w.b.layer.ready()
    c.write(b"hello")
    w.run(lambda: server.readable > 0, 1.0)
    assert w.b.layer.ready() == [server]
    assert w.b.layer.ready() == []


def test_backpressure_from_a_reader_that_stops() -> None:
    w = World(config_b=TcpConfig(receive_buffer=65536, receive_buffer_max=65536))
    c, server = w.pair()
    while c.writable:
        c.write(b"x" * min(c.writable, 65536))
    w.run_for(30)
    assert server.readable <= 65536
    assert c.writable < 1 << 20
    assert c.error is None


def test_thousands_of_short_connections_leave_nothing_behind() -> None:
    w = World(config_a=TcpConfig(time_wait_max=500))
    w.impair(delay=0.0001)
    listener = w.b.listen(80, backlog=200)
    done = 0

    def serve() -> None:
        while (server := listener.accept()) is not None:
            server.write(b"bye")
            server.close()

    w.b.poll = serve
    while done < 2_000:
        live = [w.a.connect() for _ in range(100)]
        assert w.run(partial(all_answered, live), 10.0)
        for c in live:
            assert c.error is None
            assert b"".join(c.read(10)) == b"bye"
            c.close()
        done += 100
    w.run_for(100)
    for host in (w.a, w.b):
        assert not host.layer.connections()
        assert len(host.layer._time_wait) == 0
        assert host.layer.next_timer() is None
        assert len(host.layer._heap) == 0


def test_an_idle_connection_is_small() -> None:
    import tracemalloc

    w = World()
    w.impair(delay=0.0001)
    listener = w.b.listen(80, backlog=1000)
    w.a.connect()
    w.run(lambda: listener.pending == 1, 5.0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [w.a.connect() for _ in range(200)]
    w.run(lambda: listener.pending == 201, 5.0)
    w.run_for(1.0)
    used = (tracemalloc.get_traced_memory()[0] - before) / (2 * len(kept))
    tracemalloc.stop()
    assert used < 8192, used


def test_what_waits_for_a_doubled_timeout_leaves_when_packets_get_through_again() -> None:
    s = Script()
    c = s.established(mss=1000)
    c.write(b"x" * 3000)
    s.sent()
    s.wait(20)
    assert c.info()["timeouts"] > 3
    due = c.snd.recovery.deadline
    assert due is not None and due > s.now + 3
    s.layer.path_returned(s, s.now)
    assert spans(s.wait(0.001))[0][0] == 1
    due = c.snd.recovery.deadline
    assert due is not None and due < s.now + 2  # the doubling begins anew
    s.say(ACK, 1, 3001)
    s.layer.path_returned(s, s.now)
    assert s.wait(5) == []
