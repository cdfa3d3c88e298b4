"""What a root does for others: pass packets on, and introduce the two ends to each other so that it need not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from ztnode.vl1.contacts import Contacts
from ztnode.vl1.gates import KeyedInterval
from ztnode.vl1.path import Path
from ztnode.vl1.peer import Peer
from ztnode.vl1.scope import Scope
from ztnode.vl1.topology import Topology
from ztnode.vl1.transmit import Transmit
from ztnode.wire import fragment, packet
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.packet import (
    FLAGS_HOPS_MASK,
    MIN_PACKET_LENGTH,
    OFFSET_FLAGS,
    RELAY_MAX_HOPS,
    VERB_RENDEZVOUS,
)
from ztnode.wire.rendezvous import Rendezvous, build_rendezvous

UNITE_INTERVAL: Final = 30.0
"""Seconds between two introductions of the same two peers (ZT_MIN_UNITE_INTERVAL)."""
_MAX_PAIRS: Final = 65536


class Relay:
    """Forwards datagrams that are not for us, as Switch::onRemotePacket does upstream."""

    def __init__(
        self,
        topology: Topology,
        transmit: Transmit,
        contacts: Contacts,
        random: Callable[[int], bytes],
        counters: Counter[str],
    ) -> None:
        self._topology = topology
        self._transmit = transmit
        self._contacts = contacts
        self._random = random
        self._counters = counters
        self._united = KeyedInterval(UNITE_INTERVAL, _MAX_PAIRS)

    def forward(self, datagram: bytes, endpoint: Endpoint, now: float) -> None:
        """Pass a packet or fragment that came from ``endpoint`` on towards its destination: straight there, or to
        another root."""
        if datagram[fragment.OFFSET_INDICATOR] == fragment.INDICATOR:
            sender = None
            if datagram[fragment.OFFSET_HOPS] & FLAGS_HOPS_MASK >= RELAY_MAX_HOPS:
                self._counters["drop_hops"] += 1
                return
            passed_on = fragment.with_hop_added(datagram)
        else:
            if len(datagram) < MIN_PACKET_LENGTH:
                self._counters["drop_malformed"] += 1
                return
            if datagram[OFFSET_FLAGS] & FLAGS_HOPS_MASK >= RELAY_MAX_HOPS:
                self._counters["drop_hops"] += 1
                return
            if datagram[8:13] == datagram[13:18]:
                # To its own sender: a root of the reference further up would stand still over it (Peer::introduce).
                self._counters["drop_to_itself"] += 1
                return
            sender = self._topology.by_wire.get(datagram[13:18])
            if sender is not None and sender.path is None and not datagram[OFFSET_FLAGS] & FLAGS_HOPS_MASK:
                # It takes us for reachable, and would not be reached: our question where it is was lost.
                self._contacts.confirm(sender, endpoint, now)
            passed_on = packet.with_hop_added(datagram)
        receiver = self._topology.by_wire.get(datagram[8:13])
        path = None if receiver is None else receiver.path
        if path is None:
            upstream = self._topology.best_upstream()
            path = None if upstream is None or upstream is sender else upstream.path
            if path is None:
                self._counters["drop_no_route"] += 1
                return
        elif sender is not None and receiver is not None and sender is not receiver:
            self._unite(sender, receiver, now)
        self._transmit.put(path.endpoint, passed_on)
        path.last_send = now
        self._counters["relayed"] += 1

    def _unite(self, one: Peer, other: Peer, now: float) -> None:
        """Tell both where to find the other, at endpoints of the nearest scope that they share (Peer::introduce)."""
        # Keyed by the endpoints too: a peer that has moved is introduced again at once.
        if not one.paths or not self._united.admit((one.wire, other.wire, one.endpoint, other.endpoint), now):
            return
        common = _common_paths(one, other)
        if common is None:
            return
        # Which of the two NATs is opened first is left to chance: the next introduction may fare better.
        introductions = [(one, other, common[1].endpoint), (other, one, common[0].endpoint)]
        if self._random(1)[0] & 1:
            introductions.reverse()
        for told, about, endpoint in introductions:
            if (path := told.path or told.last_resort()) is not None:
                parts = (build_rendezvous(Rendezvous(about.address, endpoint)),)
                self._transmit.send(told, VERB_RENDEZVOUS, parts, path, now)


def _common_paths(one: Peer, other: Peer) -> tuple[Path, Path] | None:
    ours, theirs = _best_by_scope(one), _best_by_scope(other)
    for scope in sorted(Scope, reverse=True):
        for ipv6 in (True, False):
            key = (scope, ipv6)
            if key in ours and key in theirs:
                return ours[key], theirs[key]
    return None


def _best_by_scope(peer: Peer) -> dict[tuple[Scope, bool], Path]:
    best: dict[tuple[Scope, bool], Path] = {}
    for path in peer.paths.values():
        key = (path.scope, path.is_ipv6)
        if not path.dead and (key not in best or path.cost < best[key].cost):
            best[key] = path
    return best
