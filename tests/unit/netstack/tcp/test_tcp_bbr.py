"""BBR, its pacing and its delivery rate: alone, and as the sender of a whole connection on simulated paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.netstack.tcp.tcp_sim import Transfer, World, transfer
from ztnode.netstack.tcp.congestion.bbr import Bbr, Mode, WindowedMax
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.delivery_rate import DeliveryRate, RateSample, Stamp
from ztnode.netstack.tcp.pacing import Pacer
from ztnode.netstack.tcp.tcp_config import TcpConfig

MB = 1 << 20
RATE, DELAY = 5e6, 0.01
BDP = int(RATE * 2 * DELAY)


# --- the delivery rate ---


def sample(rate: DeliveryRate, acked: int, stamp: Stamp, sent_at: float, now: float, lost: int = 0) -> RateSample:
    return rate.sample(acked, stamp, sent_at, lost, now, rtt=now - sent_at, srtt=0.01, min_rtt=0.01)


def test_delivery_rate_is_what_arrived_over_the_time_it_took() -> None:
    rate = DeliveryRate()
    first = rate.stamp(0, 1.0)
    second = rate.stamp(1000, 1.01)
    assert sample(rate, 1000, first, 1.0, 1.02).rate == pytest.approx(1000 / 0.02)
    assert sample(rate, 1000, second, 1.01, 1.03).rate == pytest.approx(2000 / 0.03)
    third = rate.stamp(0, 1.03)
    got = sample(rate, 3000, third, 1.03, 1.05)
    assert got.rate == pytest.approx(3000 / 0.02)
    assert (got.delivered, got.prior_delivered, got.acked) == (5000, 2000, 3000)


def test_delivery_rate_does_not_believe_acknowledgements_that_come_bunched() -> None:
    """Section 2.3: sent over 100 ms, acknowledged within 20 ms: the path has shown no more than the former."""
    rate = DeliveryRate()
    rate.stamp(0, 0.0)
    stamps = [rate.stamp(1000, n * 0.01) for n in range(1, 11)]
    for n, stamp in enumerate(stamps):
        got = sample(rate, 1000, stamp, (n + 1) * 0.01, 0.2 + n * 0.002)
    assert got.rate <= 10_000 / 0.1


def test_delivery_rate_of_less_than_a_round_trip_is_no_sample() -> None:
    rate = DeliveryRate()
    assert sample(rate, 1000, rate.stamp(0, 1.0), 1.0, 1.005).rate == 0.0


def test_delivery_rate_knows_when_the_application_had_nothing_to_send() -> None:
    rate = DeliveryRate()
    before = rate.stamp(0, 1.0)
    rate.ran_dry(1000)
    during = rate.stamp(0, 1.02)
    assert not sample(rate, 1000, before, 1.0, 1.02).app_limited
    assert sample(rate, 1000, during, 1.02, 1.04).app_limited
    after = rate.stamp(0, 1.04)
    assert not sample(rate, 1000, after, 1.04, 1.06).app_limited


def test_delivery_rate_reports_each_loss_once() -> None:
    rate = DeliveryRate()
    stamp = rate.stamp(0, 1.0)
    assert sample(rate, 1000, stamp, 1.0, 1.02, lost=3000).lost == 3000
    assert sample(rate, 1000, stamp, 1.0, 1.02, lost=4000).lost == 1000


# --- the pacer ---


@given(
    rate=st.floats(1e3, 1e9), mss=st.integers(500, 9000), turns=st.lists(st.floats(0, 0.02), min_size=1, max_size=200)
)
def test_pacer_neither_exceeds_the_rate_nor_stops(rate: float, mss: int, turns: list[float]) -> None:
    pacer, now, sent = Pacer(), 10.0, 0
    for turn in turns:
        room = pacer.room(rate, mss, now)
        assert (room > 0) == (pacer.due <= now)
        assert room % mss == 0
        if room:
            pacer.sent(room, rate, now)
            assert pacer.due > now  # otherwise a timer for ``due`` would go off at once
            sent += room
        now += turn
    # What a late turn may catch up with, a burst of a millisecond, and the segment that is rounded up to.
    assert sent <= rate * (now - 10.0 + 0.006) + mss + 1


def test_pacer_with_turns_in_time_keeps_the_rate() -> None:
    pacer, now, sent = Pacer(), 0.0, 0
    while now < 1.0:
        room = pacer.room(20e6, 2748, now)
        pacer.sent(room, 20e6, now)
        sent += room
        now = max(pacer.due, now + 0.0004)
    assert sent == pytest.approx(20e6, rel=0.01)


# --- the filter ---


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e9)), min_size=1, max_size=200), st.integers(1, 12))
def test_windowed_max_is_the_maximum_of_its_window(steps: list[tuple[int, float]], length: int) -> None:
    window, seen, round_count = WindowedMax(length), [], 0
    for rounds, value in steps:
        round_count += rounds
        window.update(value, round_count)
        seen.append((round_count, value))
        assert window.value == max(value for at, value in seen if at > round_count - length)
        assert len(window._values) <= length  # however many values a round has


# --- whole connections ---


def bbr_world(seed: int = 1, mtu: int = 2800, **impairment: float) -> tuple[World, TcpConnection, TcpConnection, Bbr]:
    config = TcpConfig(congestion="bbr")
    world = World(seed=seed, mtu=mtu, config_a=config, config_b=config)
    world.impair(**({"delay": DELAY, "rate": RATE, "queue": 1.0} | impairment))
    client, server = world.pair()
    cc = client.snd.recovery.cc
    assert isinstance(cc, Bbr)
    return world, client, server, cc


def watched(world: World, client: TcpConnection, server: TcpConnection, total: int, **options: Any) -> Iterator[None]:
    """Runs a transfer and comes up for air whenever something happened."""
    job = Transfer(world, client, server, total, **options)
    world.a.poll = world.b.poll = job.pump
    world.a.turn()
    while not job.complete:
        assert world.step()
        yield
    job.check()


def test_bbr_fills_the_pipe_and_not_the_queue() -> None:
    """Sections 4.3.2 to 4.3.4: up to the rate of the path within a few rounds, and then no standing queue: a second of
    buffer is there to be filled (5 MB, as a loss-based algorithm would), and BBR has at most two or three BDP out."""
    world, client, server, cc = bbr_world()
    began = world.now
    modes: list[Mode] = []
    steady: list[int] = []
    for _ in watched(world, client, server, 20 * MB):
        if not modes or modes[-1] != cc.mode:
            modes.append(cc.mode)
        if world.now - began > 0.5:
            steady.append(client.snd.recovery.pipe)
    assert modes == [Mode.STARTUP, Mode.DRAIN, Mode.PROBE_BW]
    assert 20 * MB / (world.now - began) > 0.9 * RATE
    assert max(steady) < 3 * BDP
    assert sum(steady) / len(steady) < 2 * BDP
    assert client.info()["retransmits"] == 0


def test_bbr_cycles_through_its_gains() -> None:
    """Section 4.3.4: a quarter more, a quarter less, six times even; and the rate follows."""
    world, client, server, cc = bbr_world()
    paces: list[float] = []
    for _ in watched(world, client, server, 10 * MB):
        if cc.mode == Mode.PROBE_BW and cc.pacing_rate is not None:
            gain = round(cc.pacing_rate / cc._btl_bw.value / 0.99, 2)
            if not paces or paces[-1] != gain:
                paces.append(gain)
    cycles = "".join({1.25: "+", 0.75: "-", 1.0: "="}.get(pace, "?") for pace in paces)
    assert "?" not in cycles
    assert cycles.count("+-=") >= 5


def test_bbr_looks_for_the_round_trip_time_every_ten_seconds_and_keeps_the_rate() -> None:
    """Section 4.3.5, with a path whose queue never empties by itself: something else stands in it after 3 s."""
    world, client, server, cc = bbr_world(mtu=5600)
    began, probed, small, believed = world.now, [], [], []
    for _ in watched(world, client, server, 80 * MB):
        if world.now - began > 3:
            world.a.impairment.delay = DELAY + 0.005
        if cc.mode == Mode.PROBE_RTT:
            probed.append(world.now - began)
            small.append(client.snd.recovery.pipe)
        elif probed:
            believed.append(cc._btl_bw.value)
    assert probed
    assert 10 < probed[0] < 12
    assert probed[-1] - probed[0] < 2
    assert min(small) <= 4 * client.snd.mss
    assert min(believed) > 0.9 * RATE  # what was sent meanwhile says nothing, whenever it is acknowledged
    assert cc._rt_prop == pytest.approx(2 * DELAY + 0.005, abs=0.003)


@pytest.mark.parametrize("seed", range(4))
def test_bbr_keeps_its_speed_where_losses_are_random(seed: int) -> None:
    """What it is for: 2 % of the frames lost is what a wire that loses 1 % of its datagrams makes of full frames."""

    def seconds(congestion: str) -> float:
        config = TcpConfig(congestion=congestion)
        world = World(seed=seed, mtu=2800, config_a=config, config_b=config)
        world.impair(delay=DELAY, rate=50e6, loss=0.02)
        client, server = world.pair()
        began = world.now
        transfer(world, client, server, 4 * MB)
        return world.now - began

    assert seconds("bbr") < seconds("cubic") / 3


@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_rfc4015_what_an_earlier_episode_repeated_does_not_make_this_one_spurious(congestion: str) -> None:
    """Recoveries follow one another closely here: a hole is often filled by a retransmission of the one before, whose
    timestamp is older than the first of this one. On a wire that only loses, nothing is ever spurious."""
    config = TcpConfig(congestion=congestion)
    for seed in range(6):
        world = World(seed=seed, mtu=2800, config_a=config, config_b=config)
        world.impair(delay=DELAY, rate=50e6, batch=0.0005)
        client, server = world.pair()
        world.a.impairment.loss = 0.03
        transfer(world, client, server, 3 * MB)
        assert client.info()["fast_recoveries"] >= 3
        assert client.info()["spurious"] == 0


def test_bbr_conserves_packets_for_a_round_after_a_loss_and_comes_back() -> None:
    world, client, server, cc = bbr_world()
    lose_one = iter([False])
    before = held = after = 0
    for _ in watched(world, client, server, 10 * MB):
        phase = client.info()["phase"]
        if not before and cc.mode == Mode.PROBE_BW and client.snd.recovery.pipe > 20_000:
            before = held = cc.cwnd
            world.a.filter = lambda segment: next(lose_one, True)
        elif phase == "RECOVERY":
            held = min(held, cc.cwnd)
        elif not after and held < before:
            after = cc.cwnd
    assert held < before  # it sent no more than what arrived
    assert after >= before
    assert client.info()["fast_recoveries"] == 1


def test_bbr_comes_back_after_a_blackout() -> None:
    world, client, server, cc = bbr_world()
    began = world.now
    world.a.filter = world.b.filter = lambda segment: not 1.0 < world.now - began < 1.5
    transfer(world, client, server, 20 * MB)
    assert client.info()["timeouts"] >= 1
    # The silence, at most as long again until its end is noticed (timeouts double), and the time that it takes anyway.
    assert world.now - began < 20 * MB / RATE + 2 * 0.5 + 0.5
    assert cc.mode == Mode.PROBE_BW


def test_bbr_restarts_from_idle_at_its_rate_and_without_a_burst() -> None:
    """Section 4.3.4.4. A window of half a megabyte after a pause would be a burst that no queue is made for."""
    world, client, server, cc = bbr_world()
    transfer(world, client, server, 10 * MB, shutdown=False)
    rate = cc._btl_bw.value
    world.run_for(30)
    world.keep_log = True
    world.a.log.clear()
    began = world.now
    transfer(world, client, server, 2 * MB, shutdown=False)
    assert cc.mode == Mode.PROBE_BW  # and did not take the pause for a reason to look for the round-trip time
    early = sum(length for at, _header, length in world.a.log if at - began <= 0.005)
    assert early <= rate * (0.005 + 0.006) * 1.25 + client.snd.mss
    assert world.now - began < 2 * MB / RATE + 0.1


def test_bbr_small_answers_do_not_make_it_believe_in_a_slow_path() -> None:
    """A request a second is no measure of the path (app-limited samples): the bulk that follows starts as it should."""
    world, client, server, cc = bbr_world(rate=0.0)
    for _ in range(20):
        transfer(world, client, server, 300, shutdown=False)
        world.run_for(1.0)
    assert cc.mode == Mode.STARTUP
    assert cc.pacing_rate is not None
    assert cc.pacing_rate > 1e6
    began = world.now
    transfer(world, client, server, MB, shutdown=False)
    assert world.now - began < 0.25


def test_bbr_holds_the_window_at_a_loss_and_gives_it_back_when_it_was_none() -> None:
    """Section 4.2.3.4: what is in flight and what arrived, below the usual minimum if need be; then as before."""
    for pipe in (20_000, 1000):
        cc = Bbr(1000)
        cc.cwnd = 100_000
        cc.on_congestion(100_000)
        loss = RateSample(50_000, 0, 1e6, app_limited=False, acked=1000, lost=1000, rtt=0.02, srtt=0.02)
        cc.on_sample(loss, pipe, 1.0)
        assert cc.cwnd == pipe + 1000
        cc.undo()
        assert cc.cwnd == 100_000


def test_an_algorithm_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="cubic, newreno, bbr, not 'vegas'"):
        TcpConfig(congestion="vegas")
