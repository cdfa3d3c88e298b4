"""The lanes of a worker on real sockets: which frames take which, and what the node is told."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.unit.worker.test_lane import IPV4, KEYS, MACS_IN, MACS_OUT, NWID, OWN, OWN_MAC, PEER, PEER_MAC, Remote
from ztnode.ring import Record
from ztnode.wire.packet import VERB_ECHO
from ztnode.worker.lanes import TELL_SECONDS, Lanes
from ztnode.worker.poller import Poller
from ztnode.worker.protocol import LANE, LANE_IDS, LaneTerms, LaneUp, LaneUsed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lanes are lent on Linux alone")

INDEX = 4


class Loop:
    """The worker's, as far as lanes need it."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.now = 100.0
        self.frames: list[tuple[int, bytes]] = []
        self.records: list[tuple[int, bytes]] = []
        self.room = 1000
        self.told: list[LaneUsed] = []
        self.lanes = Lanes(self, self.told.append)

    def take_frames(self, index: int, frames: Sequence[memoryview]) -> None:
        self.frames += [(index, bytes(frame)) for frame in frames]

    def to_node(self, records: Sequence[Record]) -> int:
        taken = records[: self.room]
        self.records += [(tag, b"".join(parts)) for tag, parts in taken]
        return len(taken)

    def turn(self) -> None:
        self.poller.dispatch(self.poller.wait(10))


class Bench:
    """A loop, and the peer's socket."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.lanes = self.loop.lanes
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.settimeout(10)
        self.remote = Remote()

    def up(self, number: int = 1, *, terms: bool = True) -> tuple[str, int]:
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours.bind(("127.0.0.1", 0))
        ours.connect(self.peer.getsockname())
        at: tuple[str, int] = ours.getsockname()
        keys = b"".join(KEYS.aes_keys())
        up = LaneUp(number, INDEX, NWID, OWN.address, PEER.address, OWN_MAC, PEER_MAC, 1432, 100, keys)
        self.lanes.up(up, ours.detach())
        if terms:
            self.lanes.agree(LaneTerms(number, (0x0800,), 130.0))
        return at


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for number in list(bench.lanes._lanes):
        bench.lanes.down(number)
    bench.peer.close()


def test_frames_go_and_come_by_the_lane(bench: Bench) -> None:
    at = bench.up()
    mine, others = (MACS_OUT + IPV4, b"to the peer"), (MACS_IN + IPV4, b"to somebody else")
    arp, elsewhere = (MACS_OUT + b"\x08\x06", b"who has"), (MACS_OUT + IPV4, b"by another port")
    rest = bench.lanes.send([(INDEX, mine), (INDEX, others), (INDEX, arp), (INDEX + 1, elsewhere)], 100.0)
    assert rest == [(INDEX, others), (INDEX, arp), (INDEX + 1, elsewhere)]
    assert bench.peer.recv(2000)
    echo = bench.remote.packet(b"x", verb=VERB_ECHO)
    for packet in (bench.remote.packet(b"one"), echo, bench.remote.packet(b"two")):
        bench.peer.sendto(packet, at)
    while len(bench.loop.frames) < 2:
        bench.loop.turn()
    assert bench.loop.frames == [(INDEX, MACS_IN + IPV4 + b"one"), (INDEX, MACS_IN + IPV4 + b"two")]
    assert bench.loop.records == [(LANE | 1, echo)]


def test_the_node_is_told_soon_and_once(bench: Bench) -> None:
    at = bench.up()
    assert bench.lanes.next_timer() is None
    packet = bench.remote.packet(b"one")
    bench.peer.sendto(packet, at)
    bench.loop.turn()
    bench.loop.now = 100.05
    bench.lanes.send([(INDEX, (MACS_OUT + IPV4, b"x"))], 100.05)
    assert bench.lanes.next_timer() == 100.0 + TELL_SECONDS
    bench.lanes.handle_timer(100.1)
    (used,) = bench.loop.told
    assert (used.id, used.sent, used.received, used.last_sent, used.last_received) == (1, 1, 1, 100.05, 100.0)
    assert bench.loop.records == [(LANE | LANE_IDS | 1, packet[:8])]
    assert bench.lanes.next_timer() is None


def test_a_lane_that_ends_reads_what_had_come(bench: Bench) -> None:
    at = bench.up()
    last = [b"last %d" % number + bytes(number % 3) for number in range(150)]  # more than one call takes
    for body in last:
        bench.peer.sendto(bench.remote.packet(body), at)
    bench.lanes.down(1)
    bench.lanes.down(1)
    assert bench.loop.frames == [(INDEX, MACS_IN + IPV4 + body) for body in last]
    assert [used.received for used in bench.loop.told] == [150]
    mine = (MACS_OUT + IPV4, b"x")
    assert bench.lanes.send([(INDEX, mine)], 100.0) == [(INDEX, mine)]
    bench.lanes.agree(LaneTerms(1, (0x0800,), 130.0))  # a word that was on its way


def test_terms_that_are_taken_back_hold_for_the_next_frame(bench: Bench) -> None:
    bench.up()
    mine = (MACS_OUT + IPV4, b"x")
    assert not bench.lanes.send([(INDEX, mine)], 100.0)
    assert bench.lanes.send([(INDEX, mine)], 130.0) == [(INDEX, mine)]
    bench.lanes.agree(LaneTerms(1, (), 0.0))
    assert not bench.lanes.by_head
    assert bench.lanes.send([(INDEX, mine)], 100.0) == [(INDEX, mine)]


def test_a_newer_lane_to_the_same_peer_is_the_one(bench: Bench) -> None:
    bench.up(1)
    bench.up(2)
    bench.lanes.down(1)
    assert not bench.lanes.send([(INDEX, (MACS_OUT + IPV4, b"x"))], 100.0)


def test_a_peer_that_is_not_there_costs_frames_and_nothing_else(bench: Bench) -> None:
    """ICMP says so to a connected socket; the next datagram leaves all the same."""
    at, host = bench.up(), bench.peer.getsockname()
    bench.peer.close()
    for _ in range(5):
        bench.lanes.send([(INDEX, (MACS_OUT + IPV4, bytes(2000)))] * 3, 100.0)
    bench.loop.poller.dispatch(bench.loop.poller.wait(1))
    bench.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bench.peer.bind(host)
    bench.peer.settimeout(10)
    bench.lanes.send([(INDEX, (MACS_OUT + IPV4, b"there again"))], 100.0)
    assert bench.peer.recv(2000)
    bench.peer.sendto(bench.remote.packet(b"yes"), at)
    while not bench.loop.frames:
        bench.loop.turn()


def test_what_finds_no_room_in_the_ring_is_counted(bench: Bench) -> None:
    at = bench.up(terms=False)
    bench.loop.room = 0
    bench.peer.sendto(bench.remote.packet(b"x"), at)
    bench.loop.turn()
    assert bench.lanes.counters["lane_returns_dropped"] == 1


def test_what_is_no_socket_is_closed(bench: Bench) -> None:
    read, write = os.pipe()
    with pytest.raises(OSError):
        up = LaneUp(1, INDEX, NWID, OWN.address, PEER.address, OWN_MAC, PEER_MAC, 1432, 100, bytes(64))
        bench.lanes.up(up, read)
    os.close(write)
    with pytest.raises(OSError):
        os.fstat(read)
