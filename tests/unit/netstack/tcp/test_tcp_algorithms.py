"""RTO, congestion control, HyStart++, ISN and TIME-WAIT, each by itself."""

from __future__ import annotations

import pytest

from ztnode.netstack.tcp.congestion import ALGORITHMS, Cubic, NewReno
from ztnode.netstack.tcp.congestion.hystart import HyStart
from ztnode.netstack.tcp.isn import InitialSequence
from ztnode.netstack.tcp.rtt import RttEstimator
from ztnode.netstack.tcp.time_wait import TimeWaitEntry, TimeWaitTable

MSS = 1000


def test_rfc6298_first_and_later_samples() -> None:
    rtt = RttEstimator()
    assert rtt.rto == 1.0  # section 2.1
    rtt.sample(0.5, 0.0)
    assert (rtt.srtt, rtt.rttvar, rtt.rto) == (0.5, 0.25, 1.5)  # section 2.2
    rtt.sample(0.7, 0.1)
    assert rtt.rttvar == pytest.approx(0.75 * 0.25 + 0.25 * 0.2)  # section 2.3
    assert rtt.srtt == pytest.approx(0.875 * 0.5 + 0.125 * 0.7)
    before = rtt.rto
    rtt.backoff += 1
    assert rtt.rto == pytest.approx(2 * before)  # section 5.5
    rtt.backoff = 50
    assert rtt.rto == 60.0  # section 2.5
    rtt.sample(0.5, 0.2)
    assert rtt.backoff == 0


def test_minimum_rtt_is_forgotten_in_time() -> None:
    rtt = RttEstimator()
    rtt.sample(0.01, 0.0)
    rtt.sample(0.05, 1.0)
    assert rtt.min_rtt == 0.01
    rtt.sample(0.05, 400.0)
    assert rtt.min_rtt == 0.05


@pytest.mark.parametrize("name", ["cubic", "newreno"])
def test_rfc6928_initial_window_and_rfc5681_slow_start(name: str) -> None:
    cc = ALGORITHMS[name](MSS)
    assert cc.cwnd == 10 * MSS
    cc.on_ack(10 * MSS, 10 * MSS, 20 * MSS, 0.01, 1.0, 0.01)
    assert cc.cwnd == 20 * MSS


@pytest.mark.parametrize(("name", "beta"), [("cubic", 0.7), ("newreno", 0.5)])
def test_reduction_timeout_undo_and_idle(name: str, beta: float) -> None:
    cc = ALGORITHMS[name](MSS)
    cc.cwnd = 100 * MSS
    cc.on_congestion(100 * MSS)
    assert cc.ssthresh == pytest.approx(beta * 100 * MSS, abs=1)
    cc.cwnd = cc.ssthresh
    cc.undo()
    assert cc.cwnd == 100 * MSS
    assert cc.ssthresh > 1 << 40
    cc.on_timeout(100 * MSS, first=True)
    assert cc.cwnd == MSS
    threshold = cc.ssthresh
    cc.on_timeout(MSS, first=False)
    assert cc.ssthresh == threshold  # RFC 5681 section 3.1: once per loss, not per repetition
    cc.cwnd = 50 * MSS
    cc.on_idle()
    assert cc.cwnd == 10 * MSS  # RFC 5681 section 4.1


def test_rfc5681_congestion_avoidance_is_one_segment_per_window() -> None:
    cc = NewReno(MSS)
    cc.cwnd = cc.ssthresh = 20 * MSS
    for _ in range(20):
        cc.on_ack(MSS, 0, 0, 0.0, 1.0, 0.1)
    assert cc.cwnd == 21 * MSS


def test_rfc9438_cubic_returns_to_the_maximum_after_k_seconds() -> None:
    cc = Cubic(MSS)
    cc.cwnd = 1000 * MSS
    cc.on_congestion(1000 * MSS)
    cc.cwnd = cc.ssthresh
    srtt, now = 0.1, 0.0
    k = (1000 * 0.3 / 0.4) ** (1 / 3)  # section 4.2
    series = []
    while now < 2 * k:
        now += srtt
        for _ in range(10):
            cc.on_ack(cc.cwnd // 10, 0, 0, 0.0, now, srtt)
        series.append((now, cc.cwnd / MSS))
    at_k = min(series, key=lambda pair: abs(pair[0] - k))[1]
    assert at_k == pytest.approx(1000, rel=0.03)
    quarter = min(series, key=lambda pair: abs(pair[0] - k / 4))[1]
    assert 1000 - quarter < 0.5 * 300  # concave: fast at first
    assert series[-1][1] > 1200  # convex beyond


def test_rfc9438_reno_friendly_region_and_fast_convergence() -> None:
    cc = Cubic(MSS)
    cc.cwnd = 10 * MSS
    cc.on_congestion(10 * MSS)
    cc.cwnd = cc.ssthresh
    now = 0.0
    for _ in range(40):  # short RTT: the cubic curve is flat, Reno's estimate leads
        now += 0.002
        cc.on_ack(cc.cwnd, 0, 0, 0.0, now, 0.002)
    assert cc.cwnd > 12 * MSS
    cc._w_max = 100.0
    cc.cwnd = 50 * MSS
    cc.on_congestion(50 * MSS)
    assert cc._w_max == pytest.approx(50 * 1.7 / 2)  # section 4.7


def test_rfc9406_slow_start_ends_when_the_rtt_rises_and_not_otherwise() -> None:
    def run(rise: float) -> tuple[int, bool]:
        hystart = HyStart()
        una, window, rtt, grown = 0, 10 * MSS, 0.050, 0
        for _ in range(12):
            for _ in range(10):
                una += window // 10
                grown += hystart.growth(window // 10, una, una + window, rtt, MSS)
                if hystart.finished:
                    return grown, True
            window += grown
            grown = 0
            rtt += rise
        return window, False

    assert run(0.0)[1] is False
    assert run(0.02)[1] is True


def test_rfc6528_isn_depends_on_clock_secret_and_four_tuple() -> None:
    one, other = InitialSequence(b"k" * 32), InitialSequence(b"q" * 32)
    key = b"\x0a\0\0\1\x0a\0\0\2\x00\x50\x80\x00"
    assert one.isn(key, 10.0) == one.isn(key, 10.0)
    assert (one.isn(key, 11.0) - one.isn(key, 10.0)) & 0xFFFFFFFF == 250_000
    assert one.isn(key, 10.0) != other.isn(key, 10.0)
    assert one.isn(key, 10.0) != one.isn(key[:-1] + b"\x01", 10.0)
    assert one.timestamp_offset(key[:4], key[4:8]) != other.timestamp_offset(key[:4], key[4:8])


def entry(expires: float, ts: int | None = 1000) -> TimeWaitEntry:
    return TimeWaitEntry(None, 1, 2, 5, 0xFFFFFFF0, ts, 0, expires)  # type: ignore[arg-type]


def test_time_wait_table_is_bounded_and_expires_in_order() -> None:
    table = TimeWaitTable(100)
    for n in range(250):
        table.add((0, n.to_bytes(4, "big")), entry(60.0 + n))
    assert len(table) == 100
    assert table.next_expiry() == 60.0 + 150
    table.expire(60.0 + 199)
    assert len(table) == 50
    table.restart((0, (220).to_bytes(4, "big")), 500.0)
    table.expire(400.0)
    assert len(table) == 1
    table.remove_port(0)
    assert table.next_expiry() is None


def test_rfc6191_and_rfc1122_reuse_of_time_wait() -> None:
    assert entry(0).accepts_syn(0, 1001)
    assert not entry(0).accepts_syn(0, 999)
    assert entry(0, None).accepts_syn(5, None)  # beyond 0xFFFFFFF0, modulo 2**32
    assert not entry(0, None).accepts_syn(0xFFFFFF00, None)
    assert entry(0).accepts_syn(5, 1000)  # the clock did not tick: the sequence number decides
