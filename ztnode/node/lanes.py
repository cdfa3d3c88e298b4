"""Who gets a lane: which busy peers' frames the stack worker seals and opens itself (``worker/lane.py``).

The node lends what it has decided, and no more: the peer's path as it is, and that all IP frames between the two pass,
until when that would be looked at again anyway. What it keeps is what it must see: paths and their death (a lane's use
is told ten times a second), rules that are not the same for all frames, and nodes that must be able to fall silent at
once or to see each frame (a state that others may take over, a capture, several workers).
"""

from __future__ import annotations

import itertools
import logging
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ztnode.node.ports import Ports
from ztnode.vl1 import Carried, DirectWay, Peer, Vl1
from ztnode.vl1.transmit import longest_payload
from ztnode.vl2 import PlainFlow, Vl2
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.frame import FRAME_HEADER
from ztnode.worker import protocol

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.05
"""Between two looks at who is busy, while frames pass the node, and as long again for each ``FLOWS_A_LOOK`` flows that
there are to look at."""
FLOWS_A_LOOK: Final = 64
BUSY_FRAMES: Final = 16
"""Packets to or from a peer, within ``LOOK_SECONDS`` and by way of the node, that earn it a lane. A socket and a key
schedule are a millisecond's work."""
IDLE_SECONDS: Final = 15.0
"""Without a frame, after which a lane is taken back when another peer wants one."""
ASK_SECONDS: Final = 1.0
"""Between two questions whether a lane's socket is still the way, while answers come."""
JUDGE_SECONDS: Final = 1.0
"""Between two looks at whether a lane is worth its while."""
MAX_WASTED: Final = 1000
"""What a lane may give back in that time, unless it carries twice as much. Somebody who writes the peer's address on
junk has it pass two processes where it would have passed one. (What is not authentic passes one, the worker.)"""
REST_SECONDS: Final = 10.0
"""After which such a peer may have a lane again."""
MAX_LANES: Final = 32
"""Each is a socket with a queue of its own, here as with favored peers."""
MAX_REMEMBERED: Final = 8192
"""Packet ids in each of the two generations of a lane, 110 bytes each; the node remembers more."""
MAX_HANDED: Final = MAX_REMEMBERED
"""Packet ids that a lane is told of at once: what came before it or by another way is a replay there, too."""
MAX_ENDED: Final = 2 * MAX_LANES
"""Lanes that have ended of which a last word may come."""


class Workers(Protocol):
    """The stack workers, as far as lanes are concerned."""

    @property
    def may_have_lanes(self) -> bool:
        """Whether there can be any now."""

    @property
    def is_behind(self) -> bool:
        """Whether the worker has left too much unread of what it was told."""

    def give_lane(self, lane: protocol.LaneUp, descriptor: int) -> bool:
        """Hand one over, with a copy of its socket. False where that cannot be now."""

    def tell_lane(self, message: protocol.LaneTerms | protocol.LaneSeen | protocol.LaneDown) -> None:
        """Say something about one that was given."""


class Lender(Protocol):
    """``hookspecs.LendsSockets``."""

    def lend(self, endpoint: Endpoint) -> socket.socket | None:
        """A socket that gets what comes from there."""

    def leads_to(self, endpoint: Endpoint) -> bool:
        """Whether that socket is still the way there."""

    def take_back(self, endpoint: Endpoint) -> None:
        """It is closed."""


@dataclass(slots=True)
class _Lane:
    flow: PlainFlow
    way: DirectWay
    peer: Peer
    index: int
    """The stack's port."""
    used: float
    """When a frame last took it, as far as is known."""
    until: float = 0.0
    """Until when its terms hold, monotonic seconds."""
    flows: int = 0
    """EtherTypes in them."""
    next_question: float = 0.0
    """When to ask whether its socket is still the way."""
    carried: int = 0
    """Frames, and ``wasted``: datagrams, since it was last judged."""
    wasted: int = 0


class Lanes:
    """Driven by the data path: ``look`` while frames pass it, ``check`` now and then, ``returned`` with what lanes give
    back."""

    def __init__(self, vl1: Vl1, vl2: Vl2, transport: Lender, ports: Ports, workers: Workers) -> None:
        self.counters = {
            "given": 0,
            "taken_back": 0,
            "refused": 0,
            "returned": 0,
            "frames_to_worker": 0,
            "bytes_to_worker": 0,
            "frames_from_worker": 0,
            "bytes_from_worker": 0,
        }
        """Lanes, and of those the ones that the worker could not take; datagrams that they gave back; frames that they
        carried, and their bytes, Ethernet header included."""
        self.next_look = 0.0
        self._vl1 = vl1
        self._vl2 = vl2
        self._transport = transport
        self._ports = ports
        self._workers = workers
        self._ids = itertools.count(1)
        self._lanes: dict[int, _Lane] = {}
        self._ended: dict[int, _Lane] = {}
        """Of those, the oldest is forgotten first."""
        self._by_peer: dict[int, int] = {}
        """The lane of each peer that has one, by ZeroTier address."""
        self._next_judgement = 0.0
        self._resting: dict[int, float] = {}
        """Peers whose lane was not worth its while, and until when they get none."""
        self._busy: dict[int, int] = {}
        """Packets to and from the peers that may get one, as of the last look."""
        self._undecided = False
        """Whether ``suspend`` was called since the flows were last looked at."""
        vl2.on_undecided = self.suspend

    def __len__(self) -> int:
        return len(self._lanes)

    # Giving and taking back

    def look(self, now: float) -> None:
        """Give lanes to who is busy, and agree anew where the terms have ended."""
        self.next_look = now + LOOK_SECONDS
        if not self._workers.may_have_lanes:
            return
        if now >= self._next_judgement:
            self._judge(now)
        flows: defaultdict[tuple[int, int], list[PlainFlow]] = defaultdict(list)
        for flow in self._vl2.plain_flows(now):
            flows[flow.address, flow.nwid].append(flow)
        self.next_look += LOOK_SECONDS * (len(flows) // FLOWS_A_LOOK)
        before, self._busy = self._busy, {}
        self._undecided = False
        for (address, nwid), plain in flows.items():
            if self._undecided:  # by what a socket brought when it was lent
                break
            number = self._by_peer.get(address)
            if number is not None:
                lane = self._lanes[number]
                if lane.flow.nwid == nwid and (now >= lane.until or len(plain) > lane.flows):
                    self._agree(number, plain)
                continue
            peer = self._vl1.peer(address)
            if peer is None:
                continue
            packets = self._busy[address] = peer.sent + peer.received
            if (
                packets - before.get(address, packets) >= BUSY_FRAMES
                and nwid in self._ports.index_of
                and address not in self._resting
            ):
                self._give(peer, plain, now)

    def _give(self, peer: Peer, plain: Sequence[PlainFlow], now: float) -> None:
        flow = plain[0]
        way = self._vl1.direct_way(peer)
        if way is None or not _fits(way, flow) or not self._has_room(now):
            return
        sock = self._transport.lend(way.endpoint)
        if sock is None:
            return
        number = next(self._ids) & protocol.LANE_NUMBER
        index = self._ports.index_of[flow.nwid]
        up = protocol.LaneUp(
            id=number,
            index=index,
            nwid=flow.nwid,
            own=self._vl1.identity.address,
            peer=flow.address,
            own_mac=int.from_bytes(flow.own_mac, "big"),
            peer_mac=int.from_bytes(flow.peer_mac, "big"),
            mtu=way.mtu,
            remembered=MAX_REMEMBERED,
            keys=b"".join(way.keys),
            seen=self._vl1.share(peer, MAX_HANDED),
        )
        with sock:
            given = self._workers.give_lane(up, sock.fileno())
        if not given:
            self._vl1.unshare(peer)
            self._transport.take_back(way.endpoint)
            return
        self.counters["given"] += 1
        self._lanes[number] = _Lane(flow, way, peer, index, now)
        self._by_peer[flow.address] = number
        if not self._undecided:
            self._agree(number, plain)

    def _agree(self, number: int, plain: Sequence[PlainFlow]) -> None:
        lane = self._lanes[number]
        if not _fits(lane.way, plain[0]):  # the network has another MTU than when the lane was given
            self._end(number)
            return
        ethertypes = tuple(int.from_bytes(flow.ethertype, "big") for flow in plain)
        until = lane.until = min(flow.until for flow in plain)
        lane.flows = len(plain)
        self._workers.tell_lane(protocol.LaneTerms(number, ethertypes, until))

    def _judge(self, now: float) -> None:
        """End lanes by which more comes that is not theirs than they carry."""
        self._next_judgement = now + JUDGE_SECONDS
        self._resting = {address: until for address, until in self._resting.items() if now < until}
        for number, lane in list(self._lanes.items()):
            if lane.wasted > max(MAX_WASTED, lane.carried // 2):
                self._end(number)
                if now < lane.until:  # else it gave back what it had no terms for
                    self._resting[lane.flow.address] = now + REST_SECONDS
            lane.carried = lane.wasted = 0

    def _has_room(self, now: float) -> bool:
        if len(self._lanes) < MAX_LANES:
            return True
        number, oldest = min(self._lanes.items(), key=lambda entry: entry[1].used)
        if now - oldest.used < IDLE_SECONDS:
            return False
        self._end(number)
        return True

    def _end(self, number: int) -> None:
        lane = self._ended[number] = self._lanes.pop(number)
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        del self._by_peer[lane.flow.address]
        self._workers.tell_lane(protocol.LaneDown(number))
        self._vl1.unshare(lane.peer)
        self._transport.take_back(lane.way.endpoint)
        self.counters["taken_back"] += 1

    def refused(self, refused: protocol.LaneRefused) -> None:
        """The worker could not take one: the peer's frames pass here, and its endpoint may be favored again."""
        lane = self._lanes.get(refused.id)
        if lane is None:
            return
        if not self.counters["refused"]:  # the first of them tells enough
            log.warning("the frames of busy peers pass the node (lanes.refused): %s", refused.reason)
        self.counters["refused"] += 1
        self._end(refused.id)
        self._resting[lane.flow.address] = lane.used + REST_SECONDS

    def end_all(self) -> None:
        """There can be none now; the worker that had them may be gone."""
        for number in list(self._lanes):
            self._end(number)

    def suspend(self) -> None:
        """Something was decided that may concern any frame: all pass the node until it is clear what."""
        self._undecided = True
        for number, lane in self._lanes.items():
            if lane.until:
                lane.until = 0.0
                self._workers.tell_lane(protocol.LaneTerms(number, (), 0.0))

    def check(self) -> None:
        """Take back whose path is not the peer's any more, and those of networks that were left; tell the others what
        their peers' frames were that came by other ways."""
        for number, lane in list(self._lanes.items()):
            if lane.peer.taken:
                self._tell_seen(number, self._vl1.taken(lane.peer))
            if number in self._lanes and not self._is_right(lane):
                self._end(number)

    def _is_right(self, lane: _Lane) -> bool:
        return self._vl1.leads_to(lane.peer, lane.way) and self._ports.index_of.get(lane.flow.nwid) == lane.index

    def _tell_seen(self, number: int, ids: bytes | memoryview) -> None:
        if self._workers.is_behind:  # as one that is stopped: what waits for it here would grow without end
            self._end(number)
            return
        self._workers.tell_lane(protocol.LaneSeen(number, bytes(ids[-8 * MAX_HANDED :])))

    # What lanes tell

    def used(self, used: protocol.LaneUsed, now: float) -> None:
        """What one has carried."""
        lane = self._lanes.get(used.id)
        counted = lane or self._ended.get(used.id)
        if counted is None:
            return
        self.counters["frames_to_worker"] += used.received
        self.counters["bytes_to_worker"] += used.octets_received
        self.counters["frames_from_worker"] += used.sent
        self.counters["bytes_from_worker"] += used.octets_sent
        self._vl2.carried(
            counted.flow,
            sent=used.sent,
            octets_sent=used.octets_sent,
            received=used.received,
            octets_received=used.octets_received,
        )
        if lane is None:
            return  # it was taken back while this was on the way
        lane.used = now
        lane.carried += used.sent + used.received
        carried = Carried(
            used.sent,
            used.received,
            used.invalid,
            used.duplicates,
            min(used.last_sent, now),
            min(used.last_received, now),
        )
        if used.received:
            self._vl1.trust(lane.peer, now)
        self._vl1.carried(lane.peer, lane.way.endpoint, carried, now)
        # Frames that leave by a way that is none any more are all there is to see of it: what the node itself sends and
        # hears goes by another socket.
        if used.dropped or not used.received or now >= lane.next_question:
            lane.next_question = now + ASK_SECONDS
            if not self._transport.leads_to(lane.way.endpoint):
                self._end(used.id)
        self.check()

    def returned(self, records: Sequence[tuple[int, memoryview]]) -> list[tuple[bytes, Endpoint]]:
        """Datagrams that lanes leave to the node, from records of the ring whose number has the mark of a lane."""
        batch: list[tuple[bytes, Endpoint]] = []
        for tag, data in records:
            number = tag & protocol.LANE_NUMBER
            lane = self._lanes.get(number) or self._ended.get(number)
            if lane is None:
                continue
            if tag & protocol.LANE_IDS:
                lane.peer.seen.add(data)
                if (next_one := self._by_peer.get(lane.flow.address, number)) != number:
                    self._tell_seen(next_one, data)  # which began before it could be told of these
            else:
                lane.wasted += 1
                batch.append((bytes(data), lane.way.endpoint))
        self.counters["returned"] += len(batch)
        return batch


def _fits(way: DirectWay, flow: PlainFlow) -> bool:
    """Whether the longest frame that the stack may send can leave by this way."""
    return longest_payload(way.mtu) >= FRAME_HEADER.size + flow.mtu
