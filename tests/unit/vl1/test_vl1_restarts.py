"""What a node knows of its peers after it was started again: identities and where they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vl1.test_vl1_hostile import ROOT, hello_from, made_up, sealed
from tests.unit.vl1.vl1_network import IDENTITIES, WALL, Host, Network, planet, triangle
from ztnode.vl1 import Vl1
from ztnode.wire.identity import Identity
from ztnode.wire.known_peers import MAX_AGE, MAX_KNOWN, KnownPeer, KnownPeers
from ztnode.wire.packet import VERB_USER_MESSAGE
from ztnode.wire.wire_error import WireError

PEER = KnownPeer(IDENTITIES[2].without_secret(), WALL, (("198.51.100.7", 9993), ("2001:db8::7", 29993)))


def restarted(network: Network, host: Host) -> Host:
    """The same node, started again with what it would have kept."""
    kept = KnownPeers(host.vl1.known_peers(network.now), WALL + int(network.now * 1000))
    old = host.vl1
    host.vl1 = Vl1(
        old.identity,
        old.planet,
        random=network.random.randbytes,
        now=network.now,
        wall=WALL + int(network.now * 1000),
        config=old.config,
        known=kept,
    )
    host.messages.clear()
    return host


@pytest.mark.parametrize(("count", "limit"), [(100, 5.0), (300, 10.0)])
def test_restarted_root_readmits_members_behind_one_network(count: int, limit: float) -> None:
    """None of these identities would pass the hash: they are taken because they were known."""
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    root = network.add(IDENTITIES[0], ROOT, world)
    members = made_up(count)
    for identity in members:
        peer = root.vl1.add_peer(identity.without_secret(), network.now)
        peer.last_receive = network.now
    restarted(network, root)
    assert root.vl1.peers() == []
    hosts = [network.add(identity, ("198.51.100.9", 1024 + number), world) for number, identity in enumerate(members)]
    assert network.run(limit, lambda: all(host.vl1.online for host in hosts))
    assert root.vl1.counters["identities_hashed"] == 0


def test_two_restarted_nodes_find_each_other_without_root_or_controller() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"before", network.now)
    assert network.run(5, lambda: one.path_to(two) is not None and two.path_to(one) is not None)
    network.run(1)
    network.blocked = lambda source, destination: ROOT in (source, destination)
    restarted(network, one), restarted(network, two)
    assert not one.vl1.online and not two.vl1.online
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"after", network.now)
    assert network.run(1, lambda: two.payloads(VERB_USER_MESSAGE) == [b"after"])
    assert one.vl1.acquaintances(5, network.now) == [two.address]
    assert one.vl1.counters["identities_hashed"] == two.vl1.counters["identities_hashed"] == 0


def test_sealed_packet_of_a_peer_of_the_last_run_is_opened() -> None:
    network = Network()
    root, one, _ = triangle(network)
    network.run(2)
    restarted(network, root)
    network.inject(sealed(one.vl1.identity, root.vl1.identity, bytes((VERB_USER_MESSAGE,)) + b"x"), one.endpoint, ROOT)
    assert network.run(0.5, lambda: root.payloads(VERB_USER_MESSAGE) == [b"x"])


def test_forged_packets_of_peers_of_the_last_run_make_nobody_known() -> None:
    network = Network()
    root, one, two = triangle(network)
    network.run(2)
    restarted(network, root)
    network.blocked = lambda source, destination: True
    forged = bytearray(sealed(IDENTITIES[5], root.vl1.identity, b"\x14x"))
    forged[13:18] = one.address.to_bytes(5, "big")
    hello = bytearray(hello_from(two.vl1.identity, root.vl1.identity))
    hello[-1] ^= 1
    for _ in range(1000):
        root.vl1.receive([(bytes(forged), one.endpoint), (bytes(hello), two.endpoint)], network.now)
    assert root.vl1.peers() == []
    impostor = Identity(one.address, IDENTITIES[5].public, IDENTITIES[5].secret)
    root.vl1.receive([(hello_from(impostor, root.vl1.identity), one.endpoint)], network.now)
    assert root.vl1.peer(one.address) is None or root.vl1.peer(one.address).identity.public != impostor.public  # type: ignore[union-attr]


def test_peers_survive_the_file() -> None:
    data = KnownPeers().build([PEER])
    kept = KnownPeers(data, WALL)
    assert len(kept) == 1 and PEER.identity.address in kept
    assert kept.get(PEER.identity.address) == PEER
    assert kept.get(5) is None
    other = KnownPeer(IDENTITIES[3].without_secret(), WALL)
    again = KnownPeers(kept.build([other]), WALL)
    assert again.latest(9) == [IDENTITIES[3].address, IDENTITIES[2].address]
    assert len(KnownPeers(data, WALL + MAX_AGE)) == 0
    with pytest.raises(WireError):
        KnownPeers(b"something else", WALL)


@given(st.data())
def test_damaged_file_never_raises_anything_else(data: st.DataObject) -> None:
    whole = KnownPeers().build([PEER, KnownPeer(IDENTITIES[3].without_secret(), WALL, PEER.endpoints)])
    mutable = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if mutable:
            mutable[data.draw(st.integers(0, len(mutable) - 1))] = data.draw(st.integers(0, 255))
    try:
        kept = KnownPeers(bytes(mutable), WALL)
    except WireError:
        return
    for address in kept.latest(9):
        kept.get(address)
    kept.build([PEER])


def test_file_is_bounded() -> None:
    identity = PEER.identity
    many = [KnownPeer(Identity(number, identity.public), WALL) for number in range(1, MAX_KNOWN + 100)]
    data = KnownPeers().build(many)
    assert len(data) < 2 << 20
    assert len(KnownPeers(data, WALL)) == MAX_KNOWN
