"""Two hosts with one identity are noticed, by themselves and by others; nobody else is taken for such."""

from __future__ import annotations

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Nat, Network, planet, triangle
from ztnode.vl1 import IdentityShared, PeerShared
from ztnode.vl1.twins import PROBE_INTERVAL, REMEMBERED, SETTLED, STRAY_ANSWERS
from ztnode.wire.fragment import INDICATOR
from ztnode.wire.packet import VERB_NETWORK_CONFIG_REQUEST, VERB_NOP, VERB_OK, VERB_USER_MESSAGE
from ztnode.wire.reply import build_ok

ROOT = ("203.0.113.1", 9993)


def shared(host: Host) -> int:
    return sum(isinstance(event, IdentityShared) for event in host.events)


def test_a_second_host_with_our_identity_is_noticed_once_and_forgotten_when_it_has_gone() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    network.add(IDENTITIES[0], ROOT, world)
    one = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    network.run(30)
    twin = network.add(IDENTITIES[1], ("203.0.113.3", 9993), world)
    assert network.run(2 * PROBE_INTERVAL, lambda: bool(shared(one) + shared(twin)))
    network.run(5 * PROBE_INTERVAL)
    noticed = one if shared(one) else twin
    assert noticed.vl1.is_shared(network.now) and shared(noticed) == 1
    for host in (one, twin):
        if host is not noticed:
            del network.hosts[host.endpoint]
    network.run(REMEMBERED + PROBE_INTERVAL)
    assert not noticed.vl1.is_shared(network.now)


def test_nobody_is_taken_for_two() -> None:
    """Relayed and direct, behind NATs that change, with loss and duplicates, for an hour; and started anew."""
    network = Network(loss=0.1, duplication=0.1, jitter=0.05)
    root, one, two = triangle(network, nat=True)
    for _ in range(12):
        network.run(300)
        one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    assert one.vl1.counters["own_packets_returned"] > 30
    again = network.add(IDENTITIES[1], one.endpoint, one.vl1.planet)
    network.run(600)
    for host in (root, one, two, again):
        assert not any(isinstance(event, IdentityShared | PeerShared) for event in host.events)


def test_what_was_recorded_before_a_restart_is_no_sign() -> None:
    network = Network()
    root, one, _ = triangle(network)
    recorded: list[bytes] = []

    def record(datagram: bytes) -> bytes:
        recorded.append(datagram)
        return datagram

    network.tampers = record
    network.run(20)
    own = one.vl1.identity.address.to_bytes(5, "big")
    to_self = [datagram for datagram in recorded if datagram[24:34] == own * 2]
    assert to_self
    # A root of the reference stands still over a packet from its own receiver; a fragment names no sender.
    assert not any(datagram[8:13] == datagram[13:18] for datagram in recorded)
    again = network.add(IDENTITIES[1], one.endpoint, one.vl1.planet)
    for datagram in to_self:
        again.vl1.receive([(datagram, root.endpoint)], network.now)
    assert not again.vl1.is_shared(network.now)
    # And what anybody makes up costs little and means nothing.
    packet = bytes(8) + own * 2 + b"\x18" + bytes(25)
    forged = packet[:13] + bytes((INDICATOR, 0x21, 0)) + packet
    again.vl1.receive([(forged, ("192.0.2.1", 1))] * 100, network.now)
    assert again.vl1.counters["drop_own_address"] == 100 and not again.vl1.is_shared(network.now)


def test_answers_to_what_was_never_asked() -> None:
    """zerotier-one beside us with our home: it has no packets to itself, but its answers come to us."""
    network = Network()
    root, one, two = triangle(network)
    network.run(SETTLED + 1)
    one.vl1.contact(two.address, network.now)
    one.vl1.send(two.address, VERB_NOP, b"", network.now)
    network.run(2)

    def stray(sender: Host) -> None:
        answer = build_ok(VERB_NETWORK_CONFIG_REQUEST, int.from_bytes(network.random.randbytes(8), "big"), b"x")
        sender.vl1.send(one.address, VERB_OK, answer[1:], network.now)
        network.run(1)

    for _ in range(STRAY_ANSWERS - 1):
        stray(root)
    network.run(200)
    stray(root)
    assert not one.vl1.is_shared(network.now)
    for _ in range(STRAY_ANSWERS):
        stray(two)
    assert one.vl1.is_shared(network.now) and shared(one) == 1


def test_a_peer_whose_traffic_comes_from_two_places_in_turn_is_named_once() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    root = network.add(IDENTITIES[0], ROOT, world)
    twins = [
        network.add(IDENTITIES[1], ("10.1.0.2", 9993), world, nat=Nat("198.51.100.1")),
        network.add(IDENTITIES[1], ("10.2.0.2", 9993), world, nat=Nat("198.51.100.2")),
    ]
    for _ in range(20):
        for twin in twins:
            twin.vl1.send(root.address, VERB_USER_MESSAGE, b"mine", network.now)
            network.run(5)
    assert [event.address for event in root.events if isinstance(event, PeerShared)] == [twins[0].address]


def test_what_is_played_back_from_elsewhere_is_no_second_host() -> None:
    """More of it than packet ids are remembered, so that it passes for new."""
    network = Network()
    root, one, _ = triangle(network)
    network.run(2)
    recorded: list[bytes] = []

    def record(datagram: bytes) -> bytes:
        recorded.append(datagram)
        return datagram

    network.tampers = record
    for number in range(20):
        one.vl1.send(root.address, VERB_USER_MESSAGE, b"%d" % number, network.now)
        network.run(1)
    network.tampers = lambda datagram: datagram
    peer = root.vl1.peer(one.address)
    assert peer is not None
    for datagram in recorded:
        peer.seen.clear()
        root.vl1.receive([(datagram, ("192.0.2.66", 4))], network.now)
        one.vl1.send(root.address, VERB_USER_MESSAGE, b"mine", network.now)
        network.run(1)
    assert not any(isinstance(event, PeerShared) for event in root.events)
