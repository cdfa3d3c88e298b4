"""Somebody beside VL1 seals and opens a peer's frames: what they get, and what VL1 makes of what they tell."""

from __future__ import annotations

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network, planet
from ztnode.vl1 import Carried, Peer, PeerReturned
from ztnode.wire.packet import VERB_FRAME

ROOT, OURS, THEIRS = ("203.0.113.1", 9993), ("203.0.113.2", 9993), ("203.0.113.3", 9993)


@pytest.fixture
def pair() -> tuple[Network, Host, Peer]:
    """A node and its peer on a direct path, whose network comes to rest."""
    network = Network()
    world = planet([(IDENTITIES[1], (ROOT,))])
    network.add(IDENTITIES[1], ROOT, world)
    own = network.add(IDENTITIES[2], OURS, world)
    other = network.add(IDENTITIES[3], THEIRS, world)
    network.run(1)
    own.vl1.add_peer(other.vl1.identity, network.now, [THEIRS])
    other.vl1.add_peer(own.vl1.identity, network.now, [OURS])
    network.run(2)
    peer = own.vl1.peer(other.address)
    assert peer is not None and peer.endpoint == THEIRS
    return network, own, peer


def carried(**fields: float) -> Carried:
    values = {"sent": 0, "received": 0, "invalid": 0, "duplicates": 0, "last_sent": 0.0, "last_received": 0.0}
    return Carried(**(values | fields))  # type: ignore[arg-type]


def test_the_way_is_that_of_the_path(pair: tuple[Network, Host, Peer]) -> None:
    _, own, peer = pair
    way = own.vl1.direct_way(peer)
    assert way is not None and peer.path is not None
    assert (way.endpoint, way.mtu, way.keys) == (THEIRS, 1432, peer.keys.aes_keys())
    assert not any(key.hex() in repr(way) or repr(key) in repr(way) for key in way.keys)
    assert own.vl1.leads_to(peer, way)
    peer.path.mtu = 1300
    assert not own.vl1.leads_to(peer, way)
    peer.path.mtu = 1432
    peer.path.dead = True
    assert not own.vl1.leads_to(peer, way)
    assert own.vl1.direct_way(peer) is None
    peer.path = None
    assert not own.vl1.leads_to(peer, way)
    assert own.vl1.direct_way(peer) is None


def test_an_old_peer_has_none(pair: tuple[Network, Host, Peer]) -> None:
    _, own, peer = pair
    peer.protocol = 11
    assert own.vl1.direct_way(peer) is None


def test_what_was_carried_keeps_the_path_alive(pair: tuple[Network, Host, Peer]) -> None:
    network, own, peer = pair
    network.run(10)
    sent, received, then = peer.sent, peer.received, network.now
    own.vl1.carried(peer, THEIRS, carried(sent=4, received=3, last_sent=then, last_received=then), then)
    assert (peer.sent - sent, peer.received - received) == (4, 3)
    assert peer.path is not None
    assert peer.path.last_send == peer.path.last_receive == peer.last_traffic == peer.last_frame == then
    assert (own.vl1.traffic.sent[VERB_FRAME], own.vl1.traffic.arrived[VERB_FRAME]) == (4, 3)
    own.vl1.carried(peer, THEIRS, carried(invalid=2, duplicates=5), then)
    assert peer.invalid == 2
    assert (own.vl1.counters["drop_forged"], own.vl1.counters["drop_duplicate"]) == (2, 5)


def test_a_path_that_brings_nothing_is_probed_and_left(pair: tuple[Network, Host, Peer]) -> None:
    network, own, peer = pair
    network.blocked = lambda source, _destination: source == THEIRS
    for _ in range(80):
        network.run(0.1)
        own.vl1.carried(peer, THEIRS, carried(sent=1, last_sent=network.now), network.now)
    assert peer.path is None, "as if the frames had passed here"
    network.blocked = lambda _source, _destination: False
    own.events.clear()
    own.vl1.carried(peer, THEIRS, carried(received=1, last_received=network.now), network.now)
    assert PeerReturned(peer.address) in own.vl1.events()
    network.run(2)
    assert peer.endpoint == THEIRS
