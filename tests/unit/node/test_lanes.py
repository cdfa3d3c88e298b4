"""Who gets a lane, and when it is taken back."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES, Network, planet
from ztnode.node.lanes import (
    ASK_SECONDS,
    BUSY_FRAMES,
    IDLE_SECONDS,
    JUDGE_SECONDS,
    LOOK_SECONDS,
    MAX_ENDED,
    MAX_LANES,
    MAX_WASTED,
    REST_SECONDS,
    Lanes,
)
from ztnode.node.ports import Ports
from ztnode.vl1 import Peer, PeerReturned
from ztnode.vl2 import PlainFlow
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.packet import VERB_FRAME
from ztnode.worker.lane import Lane
from ztnode.worker.protocol import LANE, LANE_IDS, LaneDown, LaneRefused, LaneSeen, LaneTerms, LaneUp, LaneUsed

NWID = 0x9AD07D01093A69E3
OURS, THEIRS, ROOT = ("203.0.113.2", 9993), ("203.0.113.3", 9993), ("203.0.113.1", 9993)


class Workers:
    """A worker that notes what it is told."""

    def __init__(self) -> None:
        self.may_have_lanes = True
        self.takes = True
        self.is_behind = False
        self.given: list[LaneUp] = []
        self.told: list[LaneTerms | LaneSeen | LaneDown] = []

    def give_lane(self, lane: LaneUp, descriptor: int) -> bool:
        assert descriptor >= 0
        if self.takes:
            self.given.append(lane)
        return self.takes

    def tell_lane(self, message: LaneTerms | LaneSeen | LaneDown) -> None:
        self.told.append(message)


class Lender:
    """A transport that lends sockets, one for each endpoint."""

    def __init__(self) -> None:
        self.lends = True
        self.lent: list[Endpoint] = []
        self.is_the_way = True
        self.asked = 0
        self.brings: Callable[[], None] = lambda: None

    def leads_to(self, endpoint: Endpoint) -> bool:
        assert endpoint in self.lent
        self.asked += 1
        return self.is_the_way

    def lend(self, endpoint: Endpoint) -> socket.socket | None:
        if not self.lends or endpoint in self.lent:
            return None
        self.brings()
        self.lent.append(endpoint)
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def take_back(self, endpoint: Endpoint) -> None:
        self.lent.remove(endpoint)


class Layer:
    """VL2 as far as lanes ask it."""

    def __init__(self) -> None:
        self.flows: list[PlainFlow] = []
        self.on_undecided: Callable[[], None] = lambda: None
        self.frames = 0

    def plain_flows(self, _now: float) -> list[PlainFlow]:
        return self.flows

    def carried(self, _flow: PlainFlow, *, sent: int, octets_sent: int, received: int, octets_received: int) -> None:
        self.frames += sent + received


class Bench:
    """A node with one peer on a direct path."""

    def __init__(self) -> None:
        self.network = Network()
        world = planet([(IDENTITIES[1], (ROOT,))])
        self.network.add(IDENTITIES[1], ROOT, world)
        self.own = self.network.add(IDENTITIES[2], OURS, world)
        self.other = self.network.add(IDENTITIES[3], THEIRS, world)
        self.network.run(1)
        for host, far in ((self.own, self.other), (self.other, self.own)):
            host.vl1.add_peer(far.vl1.identity, self.network.now, [far.endpoint])
        self.network.run(2)
        peer = self.own.vl1.peer(self.other.address)
        assert peer is not None
        self.peer: Peer = peer
        assert self.peer.endpoint == THEIRS
        self.vl2, self.workers, self.lender, self.ports = Layer(), Workers(), Lender(), Ports()
        self.ports.open(NWID)
        anything: Any = self.vl2
        self.lanes = Lanes(self.own.vl1, anything, self.lender, self.ports, self.workers)
        self.vl2.flows = [self.flow()]

    @property
    def now(self) -> float:
        return self.network.now

    def flow(self, *, ethertype: bytes = b"\x08\x00", until: float = 2000.0, mtu: int = 2800) -> PlainFlow:
        return PlainFlow(NWID, self.other.address, bytes(6), bytes(range(6)), ethertype, mtu, until)

    def work(self, frames: int = BUSY_FRAMES) -> None:
        """So many frames to the peer by way of the node, between two looks."""
        self.lanes.look(self.now)
        self.own.vl1.send_batch(self.other.address, VERB_FRAME, [b"x"] * frames, self.now)
        self.network.run(LOOK_SECONDS)
        self.lanes.look(self.now)


def used(
    lane: int,
    *,
    sent: int = 0,
    received: int = 0,
    dropped: int = 0,
    last_sent: float = 0.0,
    last_received: float = 0.0,
) -> LaneUsed:
    return LaneUsed(
        lane,
        sent,
        sent,
        received,
        received,
        sent,
        sent,
        received,
        received,
        0,
        0,
        dropped,
        last_sent,
        last_received,
    )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_busy_peer_gets_a_lane_with_what_was_decided(bench: Bench) -> None:
    bench.vl2.flows.append(bench.flow(ethertype=b"\x86\xdd", until=1500.0))
    bench.work()
    (given,) = bench.workers.given
    assert (given.nwid, given.peer, given.own, given.mtu) == (NWID, bench.other.address, bench.own.address, 1432)
    assert given.keys == b"".join(bench.peer.keys.aes_keys())
    assert given.keys.hex() not in repr(given)
    assert bench.workers.told == [LaneTerms(given.id, (0x0800, 0x86DD), 1500.0)]
    assert bench.lender.lent == [THEIRS]
    assert given.seen
    assert given.seen == b"".join(bench.peer.seen.some(10000))
    bench.work()
    assert len(bench.workers.given) == 1


def _with_probes(bench: Bench) -> None:
    assert bench.peer.path is not None
    bench.peer.path.probes = 1


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda bench: setattr(bench.workers, "may_have_lanes", False), id="several workers, or a capture"),
        pytest.param(lambda bench: bench.vl2.flows.clear(), id="rules that are not the same for all"),
        pytest.param(lambda bench: bench.ports.close(NWID), id="a network that was left"),
        pytest.param(lambda bench: setattr(bench.peer, "bonds", True), id="several paths at once"),
        pytest.param(lambda bench: setattr(bench.peer, "protocol", 11), id="Salsa20"),
        pytest.param(_with_probes, id="a path in doubt"),
        pytest.param(lambda bench: setattr(bench.lender, "lends", False), id="another transport"),
        pytest.param(lambda bench: bench.vl2.flows.__setitem__(0, bench.flow(mtu=10000)), id="frames that do not fit"),
        pytest.param(lambda bench: setattr(bench.workers, "takes", False), id="a worker that is busy"),
    ],
)
def test_nobody_gets_a_lane_where_there_is_more_to_decide(bench: Bench, spoil: Any) -> None:
    bench.lanes.look(bench.now)
    bench.own.vl1.send_batch(bench.other.address, VERB_FRAME, [b"x"] * BUSY_FRAMES, bench.now)
    bench.network.run(LOOK_SECONDS)
    spoil(bench)
    bench.lanes.look(bench.now)
    assert not bench.workers.given
    assert not bench.lender.lent
    assert not bench.lanes


def test_who_says_little_gets_none(bench: Bench) -> None:
    for _ in range(5):
        bench.work(BUSY_FRAMES // 4)
    assert not bench.workers.given


def _with_a_dead_path(bench: Bench) -> None:
    assert bench.peer.path is not None
    bench.peer.path.dead = True


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_with_a_dead_path, id="a path that is dead"),
        pytest.param(lambda bench: setattr(bench.peer, "bonds", True), id="several paths at once"),
        pytest.param(lambda bench: setattr(bench.peer, "protocol", 11), id="started again as an older program"),
    ],
)
def test_a_lane_ends_with_its_way(bench: Bench, spoil: Callable[[Bench], None]) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.lanes.check()
    assert bench.lanes
    spoil(bench)
    bench.lanes.check()
    assert not bench.lanes
    assert bench.workers.told[-1] == LaneDown(given.id)
    assert not bench.lender.lent


def test_a_lane_ends_when_its_worker_does_not_read_what_it_is_told(bench: Bench) -> None:
    """Else the ids that a stopped worker is to be told of would wait for it, as many as come by other ways."""
    bench.work()
    (given,) = bench.workers.given
    bench.other.vl1.send_batch(bench.own.address, VERB_FRAME, [b"frame"], bench.now)
    bench.network.run(0.1)
    bench.lanes.check()
    told = len(bench.workers.told)
    assert any(isinstance(each, LaneSeen) for each in bench.workers.told)
    bench.workers.is_behind = True
    bench.lanes.check()
    assert bench.lanes, "there is nothing to tell"
    bench.other.vl1.send_batch(bench.own.address, VERB_FRAME, [b"frame"], bench.now)
    bench.network.run(0.1)
    bench.lanes.check()
    assert not bench.lanes and not bench.lender.lent
    assert bench.workers.told[told:] == [LaneDown(given.id)] and bench.peer.taken is None


def test_a_lane_ends_with_its_network_and_with_its_peer(bench: Bench) -> None:
    bench.work()
    bench.ports.close(NWID)
    bench.ports.open(NWID)  # joined again: another port
    bench.lanes.check()
    assert not bench.lanes
    bench.work()
    assert len(bench.lanes) == 1
    del bench.own.vl1._core.topology.by_address[bench.other.address]
    bench.lanes.check()
    assert not bench.lanes


@pytest.mark.parametrize("received", [0, 1])
@pytest.mark.parametrize("dropped", [0, 1])
def test_a_lane_ends_when_its_socket_is_not_the_way_any_more(bench: Bench, received: int, dropped: int) -> None:
    """The host got another address, say: what is sent by the lane arrives nowhere, and what the node says to the peer
    does, so the path looks alive."""
    bench.work()
    (given,) = bench.workers.given
    bench.lanes.used(used(given.id, sent=1, received=1), bench.now)
    assert bench.lanes
    assert bench.lender.asked == 1
    bench.lender.is_the_way = False
    bench.lanes.used(used(given.id, sent=1, received=received, dropped=dropped), bench.now)
    assert bool(bench.lanes) == (received == 1 and dropped == 0)
    bench.network.run(ASK_SECONDS)
    bench.lanes.used(used(given.id, sent=1, received=1), bench.now)
    assert not bench.lanes
    assert not bench.lender.lent
    assert bench.workers.told[-1] == LaneDown(given.id)


@pytest.mark.parametrize("carried", [0, 2 * MAX_WASTED + 2])
def test_a_lane_that_brings_junk_rather_than_frames_ends_for_a_while(bench: Bench, carried: int) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.network.run(JUDGE_SECONDS)
    bench.lanes.look(bench.now)
    bench.lanes.returned([(LANE | given.id, memoryview(b"junk"))] * (MAX_WASTED + 1))
    bench.lanes.used(used(given.id, received=carried), bench.now)
    bench.network.run(JUDGE_SECONDS)
    bench.lanes.look(bench.now)
    assert bool(bench.lanes) == bool(carried)
    bench.work()
    assert len(bench.workers.given) == 1
    bench.network.run(REST_SECONDS)
    bench.work()
    bench.work()
    assert len(bench.workers.given) == (1 if carried else 2)


def test_a_lane_without_terms_ends_when_all_of_a_transfer_comes_back(bench: Bench) -> None:
    """Such as under rules that are not the same for all frames; when they are again, it is given at once."""
    bench.work()
    (given,) = bench.workers.given
    flows, bench.vl2.flows = bench.vl2.flows, []
    bench.vl2.on_undecided()
    bench.lanes.returned([(LANE | given.id, memoryview(b"frame"))] * (MAX_WASTED + 1))
    bench.network.run(JUDGE_SECONDS)
    bench.lanes.look(bench.now)
    assert not bench.lanes
    bench.vl2.flows = flows
    bench.work()
    assert len(bench.workers.given) == 2


def test_a_network_with_longer_frames_than_fit_takes_the_lane_along(bench: Bench) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.vl2.on_undecided()
    bench.vl2.flows = [bench.flow(mtu=10000)]
    bench.lanes.look(bench.now)
    assert bench.workers.told[-1] == LaneDown(given.id)
    assert not bench.lanes
    bench.work()
    assert len(bench.workers.given) == 1


def test_what_is_decided_while_a_socket_is_lent_holds_for_its_lane(bench: Bench) -> None:
    """What was in its queue may be a revocation."""
    bench.lender.brings = lambda: bench.vl2.on_undecided()
    bench.work()
    assert len(bench.workers.given) == 1
    assert not bench.workers.told
    bench.work()
    assert [type(message) for message in bench.workers.told] == [LaneTerms]


def test_a_decision_is_withdrawn_at_once_and_made_again_by_what_passes(bench: Bench) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.vl2.on_undecided()
    assert bench.workers.told[-1] == LaneTerms(given.id, (), 0.0)
    told = len(bench.workers.told)
    bench.vl2.on_undecided()
    assert len(bench.workers.told) == told
    flows, bench.vl2.flows = bench.vl2.flows, []
    bench.lanes.look(bench.now)
    assert len(bench.workers.told) == told
    bench.vl2.flows = flows
    bench.lanes.look(bench.now)
    assert bench.workers.told[-1] == LaneTerms(given.id, (0x0800,), 2000.0)
    assert len(bench.workers.given) == 1


def test_terms_that_ended_are_agreed_upon_again(bench: Bench) -> None:
    bench.vl2.flows = [bench.flow(until=bench.now + 1)]
    bench.work()
    told = len(bench.workers.told)
    bench.network.run(2)
    bench.vl2.flows = [bench.flow(until=bench.now + 30)]
    bench.lanes.look(bench.now)
    assert len(bench.workers.told) == told + 1


def test_a_second_ethertype_is_agreed_upon_when_it_comes(bench: Bench) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.vl2.flows.append(bench.flow(ethertype=b"\x86\xdd"))
    bench.lanes.look(bench.now)
    bench.lanes.look(bench.now)
    assert bench.workers.told[1:] == [LaneTerms(given.id, (0x0800, 0x86DD), 2000.0)]


def test_what_lanes_give_back_is_the_peers_from_where_it_is(bench: Bench) -> None:
    bench.work()
    (given,) = bench.workers.given
    records = [
        (LANE | given.id, memoryview(b"a datagram")),
        (LANE | LANE_IDS | given.id, memoryview(b"id one..id two..")),
        (LANE | (given.id + 1), memoryview(b"of a lane that is gone")),
    ]
    assert bench.lanes.returned(records) == [(b"a datagram", THEIRS)]
    assert b"id one.." in bench.peer.seen
    assert b"id two.." in bench.peer.seen


def test_the_last_words_of_a_lane_are_heard(bench: Bench) -> None:
    """It reads what is left in its socket when it hears that it ends."""
    bench.work()
    (given,) = bench.workers.given
    received = bench.peer.received
    bench.lanes.end_all()
    bench.lanes.used(used(given.id, sent=1, received=2), bench.now)
    assert bench.lanes.counters["frames_to_worker"] == 2
    assert bench.vl2.frames == 3
    assert bench.peer.received == received
    records = [(LANE | LANE_IDS | given.id, memoryview(b"id three")), (LANE | given.id, memoryview(b"a datagram"))]
    assert bench.lanes.returned(records) == [(b"a datagram", THEIRS)]
    assert b"id three" in bench.peer.seen
    for _ in range(MAX_ENDED):
        bench.network.run(1)
        bench.work()
        bench.lanes.end_all()
    assert bench.lanes.returned(records) == []
    assert len(bench.lanes._ended) == MAX_ENDED


@pytest.mark.parametrize("length", [100, 1422, 1430, 2800, 5000])
def test_the_node_takes_what_a_lane_gives_back(bench: Bench, length: int) -> None:
    """Whatever its length: frames that come while there are no terms, and all other verbs."""
    bench.work()
    (given,) = bench.workers.given
    lane = Lane(given, AesGmacSiv(given.keys[:32], given.keys[32:]), bytes)
    frames = [bytes((number,)) * length for number in range(4)]
    bench.other.vl1.send_batch(bench.own.address, VERB_FRAME, frames, bench.now)
    ((endpoint, datagrams),) = bench.other.vl1.to_send()
    assert endpoint == OURS
    bench.own.vl1.messages()
    for datagram in datagrams:
        taken, rest = lane.receive([datagram], bench.now)
        assert not taken
        records = [(LANE | given.id, memoryview(each)) for each in rest]
        bench.own.vl1.receive(bench.lanes.returned(records), bench.now)
    arrived = [bytes(payload) for _, verb, _, payload in bench.own.vl1.messages() if verb == VERB_FRAME]
    assert arrived == frames


def test_what_a_lane_carried_counts_as_if_it_had_passed_here(bench: Bench) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.network.run(20)
    vl1, before = bench.own.vl1, (bench.peer.sent, bench.peer.received)
    assert bench.peer.path is not None
    then = bench.now + 0.05  # after all that the simulation has seen
    bench.lanes.used(used(given.id, sent=3, received=2, last_sent=then, last_received=then), then)
    assert bench.peer.sent - before[0] in (3, 4)  # and our own endpoints, which who is trusted learns
    assert bench.peer.received == before[1] + 2
    sent = bench.peer.sent
    assert bench.peer.last_frame == bench.peer.last_frame_in == then
    assert (bench.peer.path.last_send, bench.peer.path.last_receive) == (then, then)
    assert bench.peer.trusts_through(bench.now)
    assert bench.vl2.frames == 5
    assert vl1.traffic.sent[VERB_FRAME] >= 3
    bench.lanes.used(used(given.id + 1, sent=1), bench.now)  # a word of one that is gone
    assert bench.peer.sent == sent


def test_a_peer_that_is_heard_again_by_its_lane_is_news(bench: Bench) -> None:
    bench.work()
    (given,) = bench.workers.given
    bench.network.blocked = lambda _source, _destination: True
    bench.network.run(0.5)
    bench.lanes.used(used(given.id, sent=1, last_sent=bench.now), bench.now)
    bench.network.run(1.5)
    silent_since = bench.peer.last_receive
    bench.own.events.clear()
    now = silent_since + 3
    bench.lanes.used(used(given.id, received=1, last_received=now), now)
    assert PeerReturned(bench.other.address) in bench.own.vl1.events()


def test_lanes_are_few_and_idle_ones_make_room(bench: Bench) -> None:
    bench.work()
    (number,) = bench.lanes._lanes
    one = bench.lanes._lanes[number]
    for other in range(number + 1, number + MAX_LANES):
        bench.lanes._lanes[other] = one
    assert not bench.lanes._has_room(bench.now)
    assert bench.lanes._has_room(bench.now + IDLE_SECONDS)
    assert len(bench.lanes) == MAX_LANES - 1


def test_a_lane_that_the_worker_cannot_take_is_none_for_a_while(bench: Bench, caplog: Any) -> None:
    bench.work()
    (given,) = bench.workers.given
    refused = LaneRefused(given.id, "Too many open files")
    bench.lanes.refused(refused)
    assert not bench.lanes
    assert not bench.lender.lent
    assert bench.lanes.counters["refused"] == 1
    bench.lanes.refused(refused)  # of a lane that there is not
    assert bench.lanes.counters["refused"] == 1
    bench.work()
    assert len(bench.workers.given) == 1
    bench.network.run(REST_SECONDS)
    bench.work()
    bench.work()
    assert len(bench.workers.given) == 2
    bench.lanes.refused(LaneRefused(bench.workers.given[1].id, "Too many open files"))
    assert caplog.text.count("Too many open files") == 1


def test_all_end_when_the_worker_does(bench: Bench) -> None:
    bench.work()
    bench.lanes.end_all()
    assert not bench.lanes
    assert not bench.lender.lent
    bench.work()
    assert len(bench.workers.given) == 2
