"""Two stacks on a bad link, many seeds: every byte arrives, both sides close, and no timer is left behind.

``ZTNODE_SIM_SEEDS=5000 pytest tests/unit/netstack/tcp/test_tcp_simulation.py`` runs more;
``ZTNODE_SIM_FIRST=4711 ZTNODE_SIM_SEEDS=1`` repeats one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.unit.netstack.tcp.tcp_sim import Host, Transfer, World
from ztnode.netstack.tcp import incoming_ack, output
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.tcp_config import TcpConfig

FIRST = int(os.environ.get("ZTNODE_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("ZTNODE_SIM_SEEDS", "320"))
GROUP = 40


def simulate(seed: int) -> None:
    rng = random.Random(seed)
    pick = rng.choice

    def config() -> TcpConfig:
        return TcpConfig(
            congestion=pick(["cubic", "newreno", "bbr"]),
            receive_buffer=pick([4096, 65536, 262144]),
            send_buffer=pick([4096, 65536, 1 << 20]),
        )

    world = World(seed=seed, mtu=pick([576, 1280, 1500, 2800]), config_a=config(), config_b=config())
    badness = rng.random()
    world.impair(
        loss=pick([0, 0, 0.01, 0.05, 0.1]) * badness,
        duplicate=pick([0, 0.02, 0.1]) * badness,
        corrupt=pick([0, 0.02]) * badness,
        reorder=pick([0, 0.05, 0.3]) * badness,
        delay=pick([0.0005, 0.005, 0.05]),
        jitter=pick([0, 0.001, 0.02]),
        batch=pick([0, 0.001, 0.005]),
        rate=pick([0, 0, 1e6, 1e7]),
    )
    client, server = world.pair(v6=rng.random() < 0.3)
    if pick([False, False, True]):
        client.nodelay = True
    jobs = [
        Transfer(
            world,
            source,
            sink,
            pick([0, 1, 1000, 100_000, 400_000]),
            chunk=pick([100, 1000, 65536]),
            read_limit=pick([1000, 1 << 30]),
        )
        for source, sink in ((client, server), (server, client))
    ]

    def pump() -> None:
        for job in jobs:
            job.pump()

    world.a.poll = world.b.poll = pump
    finished = world.run(lambda: all(job.complete for job in jobs), 900)
    state = [
        (c.state.name, c.error, job.received, job.total, c.info())
        for c, job in zip((client, server), jobs, strict=True)
    ]
    assert finished, f"stuck at {world.now - world.start:.1f} s, {world.a.impairment}: {state}"
    for job in jobs:
        job.check()
    world.run(lambda: client.closed and server.closed, 400)
    assert client.closed and server.closed, state
    assert client.error is None and server.error is None
    world.run_for(200)
    assert world.a.layer.next_timer() is None and world.b.layer.next_timer() is None
    assert not world.a.layer.connections() and not world.b.layer.connections()


@pytest.mark.timeout(0 if SEEDS > 1000 else 120)
@pytest.mark.parametrize("group", range(FIRST, FIRST + SEEDS, GROUP))
def test_every_byte_arrives_or_a_clear_error_says_why(group: int) -> None:
    for seed in range(group, min(group + GROUP, FIRST + SEEDS)):
        try:
            simulate(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed} (ZTNODE_SIM_FIRST={seed} ZTNODE_SIM_SEEDS=1 repeats it)") from error


def test_the_same_seed_is_the_same_run() -> None:
    def fingerprint(seed: int) -> tuple[float, int, int]:
        world = World(seed=seed)
        world.impair(loss=0.05, reorder=0.1, jitter=0.002)
        client, server = world.pair()
        job = Transfer(world, client, server, 50_000)
        world.a.poll = world.b.poll = job.pump
        assert world.run(lambda: job.complete)
        return world.now, world.a.sent, world.b.sent

    assert fingerprint(5) == fingerprint(5)
    assert fingerprint(5) != fingerprint(6)


class Exchange:
    """Two owners that take turns, mostly: who has got what the other was to say answers with something of its own, at
    once or after a while, in one piece or in several. Now and then one interrupts the other, or nobody reads."""

    def __init__(self, world: World, client: TcpConnection, server: TcpConnection, turns: int) -> None:
        self._world, self._rng = world, random.Random(world.seed)
        self._ends = client, server
        self._turns = turns
        self._missing = 0
        self._pieces: list[bytes] = []
        self._not_before = self._deaf_until = 0.0
        self._speaker = 1

    def pump(self) -> None:
        rng, now = self._rng, self._world.now
        for end in self._ends if now >= self._deaf_until else ():
            self._missing -= sum(map(len, end.read(1 << 30)))
        if not self._missing and not self._pieces and self._turns:
            self._turns -= 1
            self._speaker ^= 1
            sizes = [1, 100, 700, 1400, 3000, 4500, 40_000]
            self._pieces = [bytes(rng.choice(sizes)) for _ in range(rng.choice([1, 1, 1, 1, 2, 3]))]
            self._missing = sum(map(len, self._pieces))
            self._not_before = now + rng.choice([0, 0, 0, 0.001, 0.01, 0.7])
            self._deaf_until = now + rng.choice([0, 0, 0, 0.5])
        while self._pieces and now >= self._not_before:
            self._ends[self._speaker].write(self._pieces.pop(0))
            self._not_before = now + rng.choice([0, 0, 0.001, 0.05])
            if rng.random() < 0.3:
                self._ends[self._speaker ^ 1].write(b"wait")
                self._missing += 4

    def run(self) -> None:
        world = self._world
        world.a.poll = world.b.poll = self.pump
        while self._turns or self._missing:
            before = self._turns, self._missing, len(self._pieces)
            world.run_for(max(0.0, self._not_before - world.now) if self._pieces else 0.005)
            self.pump()
            if world.now - world.start > 3000:
                raise AssertionError(f"stuck at {before}")
        for end in self._ends:
            end.shutdown()
        world.run_for(1)


def segments_of(seed: int) -> list[tuple[float, str, bytes]]:
    """What both ends send, and when, in an exchange over a link that is good or bad."""
    rng = random.Random(seed)
    pick = rng.choice
    buffer = pick([4096, 65536, 262144])
    config = TcpConfig(
        congestion=pick(["cubic", "newreno", "bbr"]), receive_buffer=buffer, receive_buffer_max=pick([buffer, 1 << 20])
    )
    world = World(seed=seed, mtu=pick([576, 1500, 2800]), config_a=config, config_b=config)
    bad = pick([0, 1, 1])
    world.impair(
        loss=pick([0, 0.01, 0.1]) * bad,
        duplicate=pick([0, 0.05]) * bad,
        reorder=pick([0, 0.1]) * bad,
        delay=pick([0.0001, 0.005, 0.05]),
        jitter=pick([0, 0.002]) * bad,
        batch=pick([0, 0.001]),
    )
    sent: list[tuple[float, str, bytes]] = []
    for host in (world.a, world.b):

        def transmit(frame: bytes, host: Host = host, really: Callable[[bytes], None] = host.transmit) -> None:
            sent.append((world.now, host.name, frame))
            really(frame)

        host.transmit = transmit  # type: ignore[method-assign]
    client, server = world.pair(v6=pick([False, False, True]))
    Exchange(world, client, server, 30).run()
    assert server.rcv.nxt == client.snd.recovery.nxt and client.error is None and server.error is None
    return sent


@pytest.mark.timeout(0 if SEEDS > 1000 else 120)
def test_the_short_ways_of_requests_and_answers_send_what_the_long_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """``output.alone`` and ``incoming_ack.all_arrived`` are there for speed: not a bit of any segment, nor the moment
    when it is sent, may depend on them."""
    seeds = range(FIRST, FIRST + SEEDS // 8)
    taken = [0, 0]

    def counted(place: int, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            done = function(*arguments)
            taken[place] += bool(done)
            return done

        return call

    ways = {
        "ztnode.netstack.tcp.layer.alone": counted(0, output.alone),
        "ztnode.netstack.tcp.arrival.all_arrived": counted(1, incoming_ack.all_arrived),
    }
    for name, way in ways.items():
        monkeypatch.setattr(name, way)
    short = [segments_of(seed) for seed in seeds]
    assert min(taken) > 5 * len(seeds)
    for name in ways:
        monkeypatch.setattr(name, lambda *_: None)
    for seed, expected in zip(seeds, short, strict=True):
        assert segments_of(seed) == expected, f"ZTNODE_SIM_FIRST={seed} ZTNODE_SIM_SEEDS=8 repeats it"
