"""Who subscribes to which multicast group: kept and told by network controllers and by roots. Sans-IO.

A member tells its controller and the roots what it listens to (MULTICAST_LIKE) and asks them who else listens
(MULTICAST_GATHER): without that nobody is found by ARP. The frames themselves go from member to member. Facts: the
reference's ``IncomingPacket::_doMULTICAST_LIKE``, ``_doMULTICAST_GATHER`` and ``Multicaster::gather``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ztnode.vl1.node import Message, Vl1
from ztnode.vl1.peer import Peer
from ztnode.vl1.transmit import MAX_PAYLOAD
from ztnode.wire.errors import WireError
from ztnode.wire.multicast import Gathered, MulticastGroup, decode_gather, decode_likes, encode_gathered
from ztnode.wire.packet import VERB_MULTICAST_GATHER, VERB_MULTICAST_LIKE
from ztnode.wire.reader import Buffer

LIKE_EXPIRE: Final = 600.0
"""Seconds that a subscription holds without being renewed (ZT_MULTICAST_LIKE_EXPIRE)."""
SWEEP_INTERVAL: Final = 60.0
MAX_SUBSCRIPTIONS: Final = 1 << 17
MAX_SUBSCRIPTIONS_PER_PEER: Final = 4096
"""As many as the reference lets one member have (ZT_MAX_NETWORK_MULTICAST_SUBSCRIPTIONS)."""

_REPLY_OVERHEAD: Final = 9 + 8 + 6 + 4 + 4 + 2
MAX_LISTED: Final = (MAX_PAYLOAD - _REPLY_OVERHEAD) // 5
"""Members that fit one answer."""

_Key: TypeAlias = tuple[int, MulticastGroup]


class MulticastHub:
    """The table of subscriptions and the answers from it."""

    def __init__(
        self,
        vl1: Vl1,
        *,
        random: Callable[[int], bytes],
        now: float,
        admits: Callable[[int, int], bool],
        is_member: Callable[[int], bool] = lambda nwid: False,
    ) -> None:
        """``admits(nwid, address)``: whether a node may subscribe and ask; a root admits everybody, a controller the
        members that it authorised. ``is_member(nwid)``: whether this node has joined the network itself; then VL2
        answers its questions, for it knows this node's own subscriptions too."""
        self._vl1 = vl1
        self._random = random
        self._admits = admits
        self._is_member = is_member
        self._groups: dict[_Key, dict[int, float]] = {}
        self._subscriptions: Counter[int] = Counter()
        self._total = 0
        self._next_sweep = now + SWEEP_INTERVAL
        self.counters: Counter[str] = Counter()

    def receive(self, messages: Sequence[Message], now: float) -> None:
        """Take what concerns multicast groups from VL1's messages; the others pass by. Never raises on their
        content."""
        for peer, verb, packet_id, payload in messages:
            try:
                if verb == VERB_MULTICAST_LIKE:
                    self._like(peer, payload, now)
                elif verb == VERB_MULTICAST_GATHER:
                    self._gather(peer, packet_id, payload, now)
            except WireError:
                self.counters["drop_malformed"] += 1

    def next_timer(self) -> float:
        """When ``handle_timer`` wants to be called next."""
        return self._next_sweep

    def handle_timer(self, now: float) -> None:
        """Forget subscriptions that were not renewed."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_INTERVAL
        for key, members in list(self._groups.items()):
            for address in [address for address, until in members.items() if until <= now]:
                del members[address]
                self._forget_one(address)
            if not members:
                del self._groups[key]

    def subscribers(self, nwid: int, group: MulticastGroup) -> list[int]:
        """Who subscribes to a group, for display and tests."""
        return sorted(self._groups.get((nwid, group), ()))

    def _forget_one(self, address: int) -> None:
        self._total -= 1
        self._subscriptions[address] -= 1
        if not self._subscriptions[address]:
            del self._subscriptions[address]

    def _like(self, peer: Peer, payload: Buffer, now: float) -> None:
        address = peer.address
        admitted: dict[int, bool] = {}
        for nwid, group in decode_likes(payload):
            if nwid not in admitted:
                admitted[nwid] = self._admits(nwid, address)
            if not admitted[nwid]:
                self.counters["drop_like_not_a_member"] += 1
                continue
            members = self._groups.get((nwid, group))
            if members is None or address not in members:
                full = self._total >= MAX_SUBSCRIPTIONS or self._subscriptions[address] >= MAX_SUBSCRIPTIONS_PER_PEER
                if full:
                    self.counters["drop_like_table_full"] += 1
                    continue
                if members is None:
                    members = self._groups[nwid, group] = {}
                self._total += 1
                self._subscriptions[address] += 1
            members[address] = now + LIKE_EXPIRE

    def _gather(self, peer: Peer, packet_id: int, payload: Buffer, now: float) -> None:
        gather = decode_gather(payload)
        if self._is_member(gather.network_id):
            return
        if not self._admits(gather.network_id, peer.address):
            self.counters["drop_gather_not_a_member"] += 1
            return
        members = self._groups.get((gather.network_id, gather.group), {})
        found = [address for address, until in members.items() if address != peer.address and until > now]
        limit = min(gather.limit, MAX_LISTED)
        if not found or not limit:
            return
        # Another part of a large group each time, so that who asks again learns more.
        start = int.from_bytes(self._random(4), "big") % len(found) if len(found) > limit else 0
        listed = (found[start:] + found[:start])[:limit]
        answer = Gathered(gather.network_id, gather.group, len(members), tuple(listed))
        self._vl1.reply_ok(peer, VERB_MULTICAST_GATHER, packet_id, encode_gathered(answer), now)
