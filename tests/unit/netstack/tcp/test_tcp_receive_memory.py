"""What connections that nobody reads hold together is bounded; no other notices, and what was written arrives whole."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.netstack.tcp.tcp_sim import Transfer, World
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.receive_memory import LEAST_WINDOW
from ztnode.netstack.tcp.send_memory import LEAST
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.worker.splice import RESUME

BOUND = 1 << 20
STALLED = 16
EACH = 256 << 10


def held(connections: list[TcpConnection]) -> int:
    return sum(connection.rcv.held for connection in connections)


def test_stalled_connections_hold_no_more_than_the_bound_and_go_on_when_they_are_read() -> None:
    world = World(seed=3, config_b=TcpConfig(unread_bytes_max=BOUND))
    pairs = [world.pair() for _ in range(STALLED)]
    world.impair(loss=0.02, delay=0.005, rate=50e6, queue=1.0)  # a worker, too, takes a little at a time
    stalled = [Transfer(world, source, sink, EACH) for source, sink in pairs]
    sinks = [sink for _, sink in pairs]
    peak = 0

    def write_alone() -> None:
        nonlocal peak
        peak = max(peak, held(sinks))
        for job in stalled:
            while job.written < job.total and job.source.writable > 0:
                offset = job.written % len(job.data)
                piece = job.data[offset : offset + min(65536, job.total - job.written)]
                job.source.write(piece)
                job.sent_hash.update(piece)
                job.written += len(piece)

    world.a.poll = world.b.poll = write_alone
    world.run_for(10.0)
    layer = world.b.layer.unread
    assert layer.pushed_back and layer.total == pytest.approx(held(sinks), rel=0.1)
    assert BOUND // 4 < peak <= BOUND, "the bound is used, and kept"
    assert all(sink.rcv.held >= LEAST_WINDOW // 2 for sink in sinks)

    # Somebody who reads gets all of it meanwhile, as fast as ever.
    source, sink = world.pair()
    other = Transfer(world, source, sink, 1 << 20)

    def both() -> None:
        write_alone()
        other.pump()

    world.a.poll = world.b.poll = both
    began = world.now
    assert world.run(lambda: other.complete, 60.0)
    other.check()
    assert world.now - began < 30.0 and peak <= BOUND

    # And when they are read again, nothing is missing.
    def all_read() -> None:
        for job in stalled:
            job.pump()

    world.a.poll = world.b.poll = all_read
    assert world.run(lambda: all(job.complete for job in stalled), 300.0)
    for job in stalled:
        job.check()
    world.run_for(1.0)
    assert held(sinks) == 0


def test_few_may_hold_much_and_a_slow_reader_keeps_its_share() -> None:
    world = World(config_b=TcpConfig(unread_bytes_max=BOUND))
    world.impair(rate=50e6, queue=1.0)
    pairs = [world.pair() for _ in range(40)]
    first, old = pairs[0]
    first.write(bytes(BOUND))
    world.run_for(5.0)
    assert old.rcv.held > BOUND // 20, "the share of one alone"
    for source, _ in pairs[1:-1]:
        source.write(bytes(BOUND))
    world.run_for(5.0)
    stalled = held([sink for _, sink in pairs])
    source, slow = pairs[-1]
    source.write(bytes(BOUND))
    taken, began = 0, world.now
    while taken < BOUND:  # as a splice does whose client takes a little now and then
        slow.set_aside(0)
        size = sum(map(len, slow.read(20_000)))
        slow.set_aside(size)
        taken += size
        world.run_for(0.02)
        assert world.now - began < 10.0, "1 s is what the client needs, and the rest is the first push back"
    assert stalled > BOUND // 4
    for _, sink in pairs:
        sink.abort()
    assert world.b.layer.unread.total == 0


def test_holes_count_too() -> None:
    """A peer that leaves out the first byte makes us keep all that follows."""
    world = World(seed=5, config_b=TcpConfig(unread_bytes_max=1 << 20))
    pairs = [world.pair() for _ in range(8)]
    sinks = [sink for _, sink in pairs]
    for source, sink in pairs:
        source.write(b"x" * 400_000)
        sink.rcv.nxt -= 1  # as if a byte before were missing for ever
        sink.rcv.window.edge -= 1
    world.a.turn()
    peak = 0
    for _ in itertools.takewhile(lambda _: world.now < 1010, itertools.count()):
        if not world.step():
            break
        peak = max(peak, held(sinks))
    assert 0 < peak <= 1 << 20


def test_what_peers_do_not_acknowledge_is_bounded_too() -> None:
    count = 40
    bound = 8 * count * LEAST
    world = World(config_a=TcpConfig(unacked_bytes_max=bound))
    pairs = [world.pair() for _ in range(count)]
    sources = [source for source, _ in pairs]
    everything = world.a.filter
    world.a.filter = lambda _segment: False  # the peers are gone

    def write_what_goes() -> None:
        for source in sources[:-1]:
            while source.writable >= 4096:
                source.write(bytes(min(65536, source.writable)))

    world.a.poll = write_what_goes
    world.run_for(5.0)
    total = sum(source.unacknowledged for source in sources)
    assert bound // 4 < total <= bound
    assert world.a.layer.unacked.total == total
    # There is room for the next one always, and again as soon as it is acknowledged: a splice waits for RESUME.
    world.a.filter = everything
    last = sources[-1]
    assert last.writable >= RESUME
    last.write(bytes(last.writable))
    assert world.run(lambda: not last.unacknowledged, 30.0)
    assert last.writable >= RESUME
    for source in sources:
        source.abort()
    assert world.a.layer.unacked.total == 0


def test_a_request_alone_counts_once_more_is_written_beside_it() -> None:
    world = World()
    source, _ = world.pair()
    assert source.drained() and source.writable >= LEAST
    world.a.filter = lambda _segment: False  # the peer is gone
    source.write(bytes(1000))
    assert not source.drained()
    assert world.a.layer.unacked.total == 0
    source.write(bytes(1000))
    world.run_for(0.1)
    assert source.writable > 0  # which looks at what all hold
    assert world.a.layer.unacked.total == 2000
    source.abort()
    assert world.a.layer.unacked.total == 0
    assert not source.drained()
