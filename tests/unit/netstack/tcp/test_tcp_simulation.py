"""Two stacks on a bad link, many seeds: every byte arrives, both sides close, and no timer is left behind.

``ZTNODE_SIM_SEEDS=5000 pytest tests/unit/netstack/tcp/test_tcp_simulation.py`` runs more;
``ZTNODE_SIM_FIRST=4711 ZTNODE_SIM_SEEDS=1`` repeats one.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.unit.netstack.tcp.tcp_sim import Transfer, World
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
