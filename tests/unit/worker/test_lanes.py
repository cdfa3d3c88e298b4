"""The lanes of a worker on real sockets: which frames take which, and what the node is told."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from tests.unit.worker.test_lane import (
    ARP,
    IPV4,
    KEYS,
    MACS_IN,
    MACS_OUT,
    NWID,
    OWN,
    OWN_MAC,
    PEER,
    PEER_MAC,
    THEIRS,
    Remote,
    joined,
    lane,
)
from ztnode.datagrams.many_datagrams import SLOTS
from ztnode.datagrams.segmentation import DatagramSender
from ztnode.plugins.udp import UDP_GRO
from ztnode.ring import Record
from ztnode.wire.checksum import use_numpy
from ztnode.wire.fragment import split
from ztnode.wire.packet import VERB_ECHO, VERB_FRAME
from ztnode.worker.lanes import MAX_UNTOLD, TELL_SECONDS, Lanes
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
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.peer.settimeout(10)
        self.remote = Remote()

    def send(self, datagrams: Sequence[bytes], at: tuple[str, int], *, coalesced: bool = False) -> None:
        """Have the lanes take them; ``coalesced``: runs of one size come as one."""
        for lent in self.lanes._lanes.values():
            lent.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, coalesced)
        if coalesced and all(datagrams):  # which what is empty cannot be
            assert DatagramSender().send(self.peer, datagrams, at) == 0
        else:
            for datagram in datagrams:
                self.peer.sendto(datagram, at)
        self.loop.turn()
        while events := self.loop.poller.wait(0):
            self.loop.poller.dispatch(events)

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


def together(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    """So many packets of one form are taken together."""
    use_numpy()
    monkeypatch.setattr("ztnode.worker.lanes.ALIKE", least)


BULK, ACK = bytes(2000), b"acknowledged"


def bulk(remote: Remote, count: int) -> list[bytes]:
    return [piece for _ in range(count) for piece in split(remote.packet(BULK), 1432)]


def without(datagrams: list[bytes], *numbers: int) -> list[bytes]:
    return [datagram for number, datagram in enumerate(datagrams) if number not in numbers]


def forged(datagram: bytes) -> bytes:
    return datagram[:-1] + bytes((datagram[-1] ^ 1,))


def header_of_many(remote: Remote) -> list[bytes]:
    """Only the first is authentic, and the plaintexts of all, one behind the other, begin as a frame does."""
    head = bytes((VERB_FRAME,)) + NWID.to_bytes(8, "big") + IPV4
    return [remote.text(head[number : number + 1] or b"x", forged=number > 0) for number in range(20)]


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param(lambda remote: [bulk(remote, 20)], id="pairs"),
        pytest.param(lambda remote: [[remote.packet(ACK) for _ in range(20)]], id="whole packets"),
        pytest.param(lambda remote: [(each := bulk(remote, 20))[:21], each[21:]], id="a pair in two reads"),
        pytest.param(lambda remote: [without(bulk(remote, 20), 5)], id="a second half is lost"),
        pytest.param(lambda remote: [without(bulk(remote, 20), 0)], id="a head is lost"),
        pytest.param(lambda remote: [without(bulk(remote, 20), 39)], id="the last half is lost"),
        pytest.param(lambda remote: [(each := bulk(remote, 20))[:7], each[8:]], id="a half is lost between two reads"),
        pytest.param(lambda remote: [[forged(each) for each in bulk(remote, 1)] + bulk(remote, 19)], id="forged"),
        pytest.param(lambda remote: [[forged(remote.packet(ACK)) for _ in range(20)]], id="all are forged"),
        pytest.param(lambda remote: [each := bulk(remote, 20), each], id="played back"),
        pytest.param(lambda remote: [[remote.packet(ACK)] * 20], id="one, twenty times"),
        pytest.param(lambda remote: [[remote.packet(ACK, verb=VERB_ECHO) for _ in range(20)]], id="another verb"),
        pytest.param(
            lambda remote: [[remote.packet(ACK, ethertype=(IPV4, ARP)[number % 2]) for number in range(20)]],
            id="frames of which some are not for it",
        ),
        pytest.param(lambda remote: [[remote.packet(b"x" * number) for number in range(1, 20)]], id="many lengths"),
        pytest.param(lambda remote: [[*bulk(remote, 2), remote.packet(ACK), *bulk(remote, 10)]], id="one between"),
        pytest.param(
            lambda remote: [[remote.text(b"short", forged=True) for _ in range(20)]], id="short ones, all forged"
        ),
        pytest.param(lambda remote: [header_of_many(remote)], id="short ones that are a header together"),
        pytest.param(lambda remote: [(each := bulk(remote, 10))[1:2], each], id="a second half came twice, and early"),
        pytest.param(lambda remote: [[b"tiny"] * 20], id="shorter than a fragment's header"),
        pytest.param(lambda remote: [[remote.packet(ACK) for _ in range(SLOTS + 2)]], id="more than one matrix"),
        pytest.param(lambda remote: [[b"junk" * 7 for _ in range(20)], [b"" for _ in range(20)]], id="junk"),
        pytest.param(lambda remote: [split(remote.packet(bytes(4000)), 1432) * 6], id="three pieces"),
    ],
)
@pytest.mark.parametrize("until", [130.0, 99.0])
@pytest.mark.parametrize("coalesced", [False, True], ids=["apart", "coalesced"])
def test_what_is_taken_together_is_what_is_taken_one_by_one(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    batches: Callable[[Remote], list[list[bytes]]],
    until: float,
    *,
    coalesced: bool,
) -> None:
    """Frames, what goes to the node, and what the node is told."""
    at = bench.up()
    bench.lanes.agree(LaneTerms(1, (0x0800,), until))
    together(monkeypatch, 3)
    alone = lane()
    alone.agree(LaneTerms(5, (0x0800,), until))
    frames: list[bytes] = []
    rest: list[bytes] = []
    for batch in batches(bench.remote):
        bench.send(batch, at, coalesced=coalesced)
        some, to_node = alone.receive(batch, 100.0)
        frames += map(bytes, some)
        rest += to_node
    assert bench.loop.frames == [(INDEX, frame) for frame in frames]
    assert bench.loop.records == [(LANE | 1, datagram) for datagram in rest]
    bench.lanes.handle_timer(100.1)
    (told,) = bench.loop.told
    assert told == replace(alone.used(), id=1)
    ids = [data for tag, data in bench.loop.records if tag == LANE | LANE_IDS | 1]
    assert b"".join(ids) == b"".join(alone.opened_ids)


@pytest.mark.parametrize("body", [ACK, BULK], ids=["whole", "halves"])
@pytest.mark.parametrize("coalesced", [False, True], ids=["apart", "coalesced"])
def test_a_batch_of_one_form_is_not_taken_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, body: bytes, *, coalesced: bool
) -> None:
    at = bench.up()
    together(monkeypatch, 16)
    one_by_one = bench.lanes._lanes[1].lane
    monkeypatch.setattr(one_by_one, "_open", None)
    packets = [split(bench.remote.packet(body), 1432) for _ in range(16)]
    bench.send([piece for packet in packets for piece in packet], at, coalesced=coalesced)
    assert bench.loop.frames == [(INDEX, MACS_IN + IPV4 + body)] * 16


@pytest.mark.parametrize("segmentation", [True, False])
def test_what_is_sent_together_is_what_is_sent_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, segmentation: bool
) -> None:
    bench.up()
    together(monkeypatch, 3)
    bench.lanes._lanes[1].sender.segmentation = segmentation
    sizes = [9, *[2000] * 70, 40, *[40] * 30, 2001, 2001, 2001, 2001, 100, 2000]
    frames = [(MACS_OUT + IPV4, memoryview(os.urandom(size))) for size in sizes]
    assert not bench.lanes.send([(INDEX, frame) for frame in frames], 100.0)
    alone = lane()
    expected = alone.seal(frames, 100.0)
    datagrams = [bench.peer.recv(2000) for _ in expected]
    assert [len(datagram) for datagram in datagrams] == [len(datagram) for datagram in expected]
    packets = joined(datagrams)
    head = bytes((VERB_FRAME,)) + NWID.to_bytes(8, "big") + IPV4
    assert THEIRS.open_many(packets) == [head + bytes(frame[1]) for frame in frames]
    assert len({packet[:8] for packet in packets}) == len(frames)
    bench.lanes.handle_timer(100.1)
    assert bench.loop.told == [replace(alone.used(), id=1)]


def test_what_cannot_be_sent_together_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.up()
    together(monkeypatch, 3)
    bench.lanes._lanes[1].sock.shutdown(socket.SHUT_WR)
    frame = (MACS_OUT + IPV4, bytes(2000))
    assert not bench.lanes.send([(INDEX, frame)] * 50, 100.0)
    assert bench.lanes.counters["lane_datagrams_dropped"] == 100
    bench.lanes.handle_timer(100.1)
    assert bench.loop.told[0].dropped == 100


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


@pytest.mark.parametrize("ends", [False, True])
def test_ids_wait_until_there_is_room_in_the_ring(bench: Bench, *, ends: bool) -> None:
    """A node that has much to do takes nothing for a while; what is played back to it then is a replay all the same."""
    at = bench.up()
    bench.loop.room = 0
    packets = [bench.remote.packet(b"x") for _ in range(MAX_UNTOLD + 2)]
    for packet in packets:
        bench.send([packet], at)
        bench.lanes.handle_timer(bench.loop.now)
        assert bench.lanes.timed
    if ends:
        bench.lanes.down(1)
    assert bench.lanes.next_timer() == bench.loop.now + TELL_SECONDS
    bench.loop.room = 1000
    bench.lanes.handle_timer(bench.loop.now)
    assert bench.loop.records == [(LANE | LANE_IDS | 1, packet[:8]) for packet in packets[-MAX_UNTOLD:]]
    assert bench.lanes.next_timer() is None


def test_what_is_no_socket_is_closed(bench: Bench) -> None:
    read, write = os.pipe()
    with pytest.raises(OSError):
        up = LaneUp(1, INDEX, NWID, OWN.address, PEER.address, OWN_MAC, PEER_MAC, 1432, 100, bytes(64))
        bench.lanes.up(up, read)
    os.close(write)
    with pytest.raises(OSError):
        os.fstat(read)
