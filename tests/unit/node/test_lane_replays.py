"""What node or lane has taken of a peer, the other does not take again when somebody plays it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.unit.node.test_lanes import NWID, ROOT, THEIRS, Bench
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.fragment import OFFSET_DATA, OFFSET_HOPS, split
from ztnode.wire.packet import OFFSET_FLAGS, VERB_FRAME
from ztnode.worker.lane import MAX_EARLY, Lane
from ztnode.worker.protocol import LANE, LANE_IDS, LaneSeen, LaneTerms, LaneUp

MTU = 1432
ELSEWHERE = ("203.0.113.3", 40000)


class Pair:
    """A node, its lane to a busy peer, and that peer."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.bench.work()
        self.lane = self.made(self.bench.workers.given[-1])
        self.bench.own.messages.clear()

    @staticmethod
    def made(up: LaneUp) -> Lane:
        lane = Lane(up, AesGmacSiv(up.keys[:32], up.keys[32:]), bytes)
        lane.agree(LaneTerms(up.id, (0x0800,), 2000.0))
        return lane

    def sealed(self, body: bytes) -> bytes:
        """A frame as the peer sends it: a whole packet, fit to be cut if it is long."""
        bench = self.bench
        payload = NWID.to_bytes(8, "big") + b"\x08\x00" + body
        bench.other.vl1.send_batch(bench.own.address, VERB_FRAME, [payload], bench.now)
        ((_, datagrams),) = bench.other.vl1.to_send()
        return datagrams[0] + b"".join(each[OFFSET_DATA:] for each in datagrams[1:])

    def node_takes(self, datagrams: Sequence[bytes], endpoint: Endpoint) -> int:
        """By its own sockets; how many frames it passed up. Soon afterwards the lane is told."""
        vl1, workers = self.bench.own.vl1, self.bench.workers
        vl1.receive([(each, endpoint) for each in datagrams], self.bench.now)
        workers.told.clear()
        self.bench.lanes.check()
        for message in workers.told:
            if isinstance(message, LaneSeen) and message.id == self.lane.id:
                self.lane.note(message.ids)
        return sum(verb == VERB_FRAME for _, verb, _, _ in vl1.messages())

    def lane_takes(self, datagrams: Sequence[bytes]) -> tuple[int, int]:
        """Frames that it takes, and that the node takes of what it gives back."""
        frames, rest = self.lane.receive(datagrams, self.bench.now)
        records = [(LANE | self.lane.id, memoryview(each)) for each in rest]
        returned = [data for data, _ in self.bench.lanes.returned(records)]
        return len(frames), self.node_takes(returned, THEIRS)

    def tell(self, lane: Lane) -> None:
        """The node hears what this one has opened."""
        ids, lane.opened_ids = b"".join(lane.opened_ids), []
        self.bench.lanes.returned([(LANE | LANE_IDS | lane.id, memoryview(ids))])


@pytest.fixture
def pair() -> Pair:
    return Pair()


def relayed(datagram: bytes) -> bytes:
    """As a root passes it on."""
    at = OFFSET_HOPS if datagram[13] == 0xFF else OFFSET_FLAGS
    return datagram[:at] + bytes((datagram[at] + 1,)) + datagram[at + 1 :]


def in_reverse(pair: Pair, packet: bytes) -> tuple[int, int]:
    return pair.lane_takes(list(reversed(split(packet, MTU))))


def around_another(pair: Pair, packet: bytes) -> tuple[int, int]:
    (head, tail), (other, its_tail) = split(packet, MTU), split(pair.sealed(bytes(2000)), MTU)
    assert pair.lane_takes([head, other, tail]) == (0, 1)
    assert pair.lane_takes([its_tail]) == (1, 0)
    return 0, 1


def in_three(pair: Pair, packet: bytes) -> tuple[int, int]:
    return pair.lane_takes(split(packet, 1000))


def by_a_root(pair: Pair, packet: bytes) -> tuple[int, int]:
    return 0, pair.node_takes([relayed(each) for each in split(packet, MTU)], ROOT)


def from_elsewhere(pair: Pair, packet: bytes) -> tuple[int, int]:
    return 0, pair.node_takes(split(packet, MTU), ELSEWHERE)


def half_by_half(pair: Pair, packet: bytes) -> tuple[int, int]:
    """One here, the other there."""
    head, tail = split(packet, MTU)
    assert pair.node_takes([head], THEIRS) == 0
    return pair.lane_takes([tail])


@pytest.mark.parametrize("way", [in_reverse, around_another, in_three, half_by_half, by_a_root, from_elsewhere])
def test_what_the_node_takes_is_a_replay_in_the_lane(pair: Pair, way: Callable[[Pair, bytes], tuple[int, int]]) -> None:
    """Neither how a packet is cut nor who relayed it is authenticated: it can be played back as a lane likes it."""
    packet = pair.sealed(bytes(2000))
    assert way(pair, packet) == (0, 1)
    pair.lane_takes([split(pair.sealed(bytes(2000)), MTU)[1] for _ in range(MAX_EARLY)])
    for _ in range(3):
        assert pair.lane_takes(split(packet, MTU)) == (0, 0)
    assert pair.lane_takes(list(reversed(split(packet, MTU)))) == (0, 0)
    assert pair.lane_takes(split(pair.sealed(bytes(2000)), MTU)) == (1, 0), "and what is new comes as before"


@pytest.mark.parametrize("way", [by_a_root, from_elsewhere])
def test_a_short_one_too(pair: Pair, way: Callable[[Pair, bytes], tuple[int, int]]) -> None:
    packet = pair.sealed(b"short")
    assert way(pair, packet) == (0, 1)
    assert pair.lane_takes([packet]) == (0, 0)


def test_what_the_lane_takes_is_a_replay_in_the_node(pair: Pair) -> None:
    packets = [pair.sealed(b"short"), pair.sealed(bytes(2000))]
    pieces = [piece for packet in packets for piece in split(packet, MTU)]
    assert pair.lane_takes(pieces) == (2, 0)
    pair.tell(pair.lane)
    assert pair.node_takes(pieces, ELSEWHERE) == 0
    assert pair.node_takes([relayed(each) for each in pieces], ROOT) == 0
    assert pair.lane_takes(split(packets[1], 1000)) == (0, 0)


def test_what_is_not_authentic_is_told_to_nobody(pair: Pair) -> None:
    packet = pair.sealed(b"once")
    forged = packet[:-1] + bytes((packet[-1] ^ 1,))
    assert pair.node_takes([forged, relayed(forged)], ELSEWHERE) == 0
    assert pair.lane_takes([packet]) == (1, 0)


def test_what_one_lane_took_is_a_replay_in_the_next(pair: Pair) -> None:
    """Whose last words come when the next one is there already."""
    bench, before = pair.bench, pair.lane
    packet = pair.sealed(b"once")
    assert pair.lane_takes([packet]) == (1, 0)
    bench.lanes.end_all()
    bench.work()
    pair.lane = pair.made(bench.workers.given[-1])
    assert pair.lane.id != before.id
    bench.workers.told.clear()
    pair.tell(before)
    (told,) = bench.workers.told
    assert told == LaneSeen(pair.lane.id, packet[:8])
    pair.lane.note(packet[:8])
    assert pair.lane_takes([packet]) == (0, 0)


def test_nobody_is_told_of_a_lane_that_has_ended(pair: Pair) -> None:
    bench = pair.bench
    bench.lanes.end_all()
    bench.workers.told.clear()
    assert pair.node_takes([pair.sealed(b"x")], ELSEWHERE) == 1
    assert not bench.workers.told
    assert bench.own.vl1.taken(bench.peer) == b""
