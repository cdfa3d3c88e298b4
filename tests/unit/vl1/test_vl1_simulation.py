"""Several nodes under a fake clock: getting online, finding one another, keeping and losing paths."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES, SIGNER, Host, Nat, Network, planet, triangle
from tests.unit.wire import packet_views
from ztnode.vl1 import MoonUpdated, Offline, Online, PeerPathChanged, PlanetUpdated, SurfaceAddress
from ztnode.vl1.contacts import GREETINGS_PER_TICK
from ztnode.vl1.topology import MAX_MOONS
from ztnode.wire import c25519, packet
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.packet import VERB_FRAME, VERB_NETWORK_CONFIG_REQUEST, VERB_OK, VERB_USER_MESSAGE
from ztnode.wire.reply import parse_error, parse_ok
from ztnode.wire.world import Root, World, WorldType

ROOT = ("203.0.113.1", 9993)


def connected(network: Network, one: Host, two: Host) -> None:
    """Let two leaves find each other."""
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    assert network.run(5, lambda: one.path_to(two) is not None and two.path_to(one) is not None)


def test_online_takes_one_round_trip() -> None:
    network = Network(delay=0.05)
    _, one, _ = triangle(network)
    started = network.now
    assert network.run(5, lambda: one.vl1.online)
    assert network.now - started == pytest.approx(0.1)
    network.flush()
    assert Online(IDENTITIES[0].address) in one.events
    assert SurfaceAddress(one.endpoint, IDENTITIES[0].address) in one.events
    root = one.vl1.peer(IDENTITIES[0].address)
    assert root is not None
    assert root.latency == pytest.approx(0.1)
    assert (root.protocol, root.version) == (12, (1, 14, 1))


def test_packet_sent_before_anything_is_known_arrives() -> None:
    network = Network(delay=0.01)
    _, one, two = triangle(network)
    started = network.now
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"early", network.now)
    assert network.run(5, lambda: two.payloads(VERB_USER_MESSAGE) == [b"early"])
    # HELLO and WHOIS, a round trip each; the packet through the root; its sender's WHOIS by the receiver.
    assert network.now - started <= 0.1


def test_relayed_then_introduced_then_direct() -> None:
    network = Network(delay=0.01)
    root, one, two = triangle(network)
    network.run(1)
    connected(network, one, two)
    assert one.path_to(two) == two.endpoint
    assert two.path_to(one) == one.endpoint
    assert PeerPathChanged(two.address, two.endpoint) in one.events
    network.run(1)
    relayed = root.vl1.counters["relayed"]
    assert relayed > 0
    for number in range(10):
        one.vl1.send(two.address, VERB_USER_MESSAGE, bytes([number]), network.now)
    network.run(1)
    assert root.vl1.counters["relayed"] == relayed
    assert two.payloads(VERB_USER_MESSAGE)[1:] == [bytes([number]) for number in range(10)]


@pytest.mark.parametrize("relay_only", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1404, 1405, 2810, 9900])
def test_payloads_of_every_size(relay_only: bool, size: int) -> None:
    network = Network(delay=0.01, jitter=0.02)
    _, one, two = triangle(network, relay_only=relay_only)
    network.run(1)
    payload = network.random.randbytes(size)
    one.vl1.send(two.address, VERB_USER_MESSAGE, payload, network.now)
    network.run(1)
    one.vl1.send_batch(two.address, VERB_FRAME, [payload, (payload[:10], payload[10:])], network.now)
    network.run(1)
    assert two.payloads(VERB_USER_MESSAGE) == [payload]
    assert two.payloads(VERB_FRAME) == [payload, payload]
    assert (one.path_to(two) is None) is relay_only


def test_compressed_payload() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    connected(network, one, two)
    before = one.sent
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"much the same " * 500, network.now, compress=True)
    network.flush()
    assert one.sent == before + 1
    network.run(1)
    assert two.payloads(VERB_USER_MESSAGE)[-1] == b"much the same " * 500


@pytest.mark.parametrize("seed", range(5))
def test_hole_punching_through_two_nats(seed: int) -> None:
    network = Network(seed, delay=0.02, jitter=0.01)
    _, one, two = triangle(network, nat=True)
    network.run(1)
    connected(network, one, two)
    assert one.path_to(two) == ("198.51.100.2", 40000)
    assert two.path_to(one) == ("198.51.100.1", 40000)


def test_relayed_peers_learn_each_others_version() -> None:
    network = Network()
    _, one, two = triangle(network, relay_only=True)
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"x", network.now)
    network.run(10)
    for host, other in ((one, two), (two, one)):
        peer = host.vl1.peer(other.address)
        assert peer is not None
        assert (peer.protocol, peer.endpoint) == (12, None)


def test_old_protocol_is_spoken_to_in_salsa20() -> None:
    network = Network()
    root_endpoint = ("203.0.113.1", 9993)
    world = planet([(IDENTITIES[0], (root_endpoint,))])
    network.add(IDENTITIES[0], root_endpoint, world)
    one = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    old = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world, protocol=11)
    network.run(1)
    connected(network, one, old)
    one.vl1.send_batch(old.address, VERB_FRAME, [b"old"], network.now)
    old.vl1.send_batch(one.address, VERB_FRAME, [b"new"], network.now)
    suites = {
        host: packet_views.cipher_suite(datagrams[-1])
        for host, queue in ((one.address, one.vl1.to_send()), (old.address, old.vl1.to_send()))
        for _, datagrams in queue
    }
    assert suites == {one.address: packet.CIPHER_POLY1305_SALSA2012, old.address: packet.CIPHER_AES_GMAC_SIV}


def test_dead_path_falls_back_to_relay_and_comes_back() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    connected(network, one, two)
    ends = {one.endpoint, two.endpoint}
    network.blocked = lambda source, destination: {source, destination} == ends
    broken = network.now
    got = len(two.payloads(VERB_FRAME))
    while len(two.payloads(VERB_FRAME)) == got and network.now < broken + 20:
        one.vl1.send_batch(two.address, VERB_FRAME, [b"frame"], network.now)
        network.run(0.1)
    assert network.now - broken < 8
    assert one.path_to(two) is None
    network.blocked = lambda source, destination: False

    def chat() -> bool:
        one.vl1.send_batch(two.address, VERB_FRAME, [b"frame"], network.now)
        two.vl1.send_batch(one.address, VERB_FRAME, [b"frame"], network.now)
        return one.path_to(two) is not None

    healed = network.now
    while not chat() and network.now < healed + 20:
        network.run(0.1)
    assert network.now - healed < 8
    assert one.path_to(two) == two.endpoint


def test_idle_path_is_kept_alive_while_peers_are_active() -> None:
    network = Network()
    _, one, two = triangle(network, nat=True)
    network.run(1)
    connected(network, one, two)
    endpoint = one.path_to(two)
    network.run(400)
    assert one.path_to(two) == endpoint
    peer = one.vl1.peer(two.address)
    assert peer is not None and peer.path is not None
    assert network.now - peer.path.last_receive < 20


def test_root_greets_its_peers_a_few_at_a_time() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    root = network.add(IDENTITIES[0], ROOT, world)
    source = network.random
    for number in range(200):
        identity = Identity(0x1000000000 + number, c25519.derive_public(source.randbytes(c25519.SECRET_LENGTH)))
        peer = root.vl1.add_peer(identity, network.now)
        root.vl1._core.path_proved(peer, (f"198.18.0.{number + 1}", 9993), network.now)
    greeted: set[object] = set()

    def blocked(_source: Endpoint, destination: Endpoint) -> bool:
        greeted.add(destination)
        return True

    network.blocked = blocked
    for count in (GREETINGS_PER_TICK, 2 * GREETINGS_PER_TICK, 3 * GREETINGS_PER_TICK, 200):
        network.run(1.001)
        assert len(greeted) == count


def test_silent_peers_are_forgotten_but_roots_are_not() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    connected(network, one, two)
    del network.hosts[two.endpoint]
    network.run(1200)
    assert one.vl1.peer(two.address) is None
    assert one.vl1.peer(IDENTITIES[0].address) is not None
    assert one.vl1.online


def test_contact_outlives_silence() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    one.vl1.contact(two.address, network.now)
    network.run(1200)
    assert one.vl1.peer(two.address) is not None


def test_root_fail_over() -> None:
    network = Network()
    endpoints = ROOT, ("203.0.113.9", 9993)
    world = planet([(IDENTITIES[0], (endpoints[0],)), (IDENTITIES[3], (endpoints[1],))])
    for identity, endpoint in ((IDENTITIES[0], endpoints[0]), (IDENTITIES[3], endpoints[1])):
        network.add(identity, endpoint, world)
    one = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    two = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world)
    leaves = {one.endpoint, two.endpoint}
    network.blocked = lambda source, destination: {source, destination} == leaves
    network.run(2)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    network.run(1)
    assert two.payloads(VERB_USER_MESSAGE) == [b"hello"]
    del network.hosts[endpoints[0]]
    for _ in range(100):
        one.vl1.send_batch(two.address, VERB_FRAME, [b"x"], network.now)
        network.run(0.1)
    got = len(two.payloads(VERB_FRAME))
    for _ in range(20):
        one.vl1.send_batch(two.address, VERB_FRAME, [b"x"], network.now)
    network.run(1)
    assert len(two.payloads(VERB_FRAME)) == got + 20
    assert one.vl1.online


def test_packet_through_two_roots() -> None:
    network = Network()
    near, far = ROOT, ("203.0.113.9", 9993)
    world = planet([(IDENTITIES[0], (near,)), (IDENTITIES[3], (far,))])
    network.add(IDENTITIES[0], near, world)
    network.add(IDENTITIES[3], far, world)
    one = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    two = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world)
    permitted = [{one.endpoint, near}, {near, far}, {far, two.endpoint}]
    network.blocked = lambda source, destination: {source, destination} not in permitted
    network.run(2)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"far", network.now)
    network.run(3)
    assert two.payloads(VERB_USER_MESSAGE) == [b"far"]


def test_offline_and_online_again() -> None:
    network = Network()
    _, one, _ = triangle(network)
    network.run(1)
    network.blocked = lambda source, destination: True
    assert network.run(90, lambda: not one.vl1.online)
    network.flush()
    assert Offline() in one.events
    network.blocked = lambda source, destination: False
    assert network.run(35, lambda: one.vl1.online)


def test_ipv6_root_and_a_dead_ipv4_endpoint() -> None:
    network = Network()
    alive = ("2001:db8::1", 9993)
    world = planet([(IDENTITIES[0], (("203.0.113.77", 9993), alive))])
    network.add(IDENTITIES[0], alive, world)
    leaf = network.add(IDENTITIES[1], ("2001:db8::2", 9993), world)
    assert network.run(1, lambda: leaf.vl1.online)
    assert leaf.vl1.surface_addresses == [leaf.endpoint]


def test_newer_planet_is_taken_and_kept() -> None:
    network = Network()
    old = planet([(IDENTITIES[0], (ROOT,))], timestamp=1)
    new = planet([(IDENTITIES[0], (ROOT,)), (IDENTITIES[3], (("203.0.113.9", 9993),))], timestamp=2)
    network.add(IDENTITIES[0], ROOT, new)
    leaf = network.add(IDENTITIES[1], ("203.0.113.2", 9993), old)
    network.run(1)
    assert leaf.vl1.planet == new
    assert PlanetUpdated(new.build()) in leaf.events
    assert leaf.vl1.peer(IDENTITIES[3].address) is not None


def test_planet_signed_by_another_key_is_refused() -> None:
    network = Network()
    old = planet([(IDENTITIES[0], (ROOT,))], timestamp=1)
    forger = IDENTITIES[4]
    assert forger.secret is not None
    roots = [Root(IDENTITIES[0].without_secret(), (ROOT,)), Root(forger.without_secret(), (("203.0.113.66", 1),))]
    forged = World.sign(WorldType.PLANET, old.id, 2, SIGNER.public, roots, public=forger.public, secret=forger.secret)
    network.add(IDENTITIES[0], ROOT, forged)
    leaf = network.add(IDENTITIES[1], ("203.0.113.2", 9993), old)
    network.run(1)
    assert leaf.vl1.online
    assert leaf.vl1.planet == old
    assert leaf.vl1.peer(forger.address) is None


def test_moon_that_was_asked_for_arrives() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    moon_root = Root(IDENTITIES[0].without_secret(), (ROOT,))
    assert SIGNER.secret is not None
    moon = World.sign(WorldType.MOON, 0x1234, 5, SIGNER.public, [moon_root], public=SIGNER.public, secret=SIGNER.secret)
    network.add(IDENTITIES[0], ROOT, world, moons=[moon])
    asker = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    bystander = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world)
    asker.vl1.orbit(0x1234, IDENTITIES[0].address, network.now)
    network.run(70)
    assert MoonUpdated(0x1234, moon.build()) in asker.events
    assert not any(isinstance(event, MoonUpdated) for event in bystander.events)


def moon_of(identity: Identity, *endpoints: Endpoint, timestamp: int = 5) -> World:
    """A moon with one root."""
    assert SIGNER.secret is not None
    root = Root(identity.without_secret(), endpoints)
    return World.sign(
        WorldType.MOON,
        identity.address,
        timestamp,
        SIGNER.public,
        [root],
        public=SIGNER.public,
        secret=SIGNER.secret,
    )


def test_a_moon_whose_root_nobody_knows_a_place_of_is_found_through_the_planet() -> None:
    """The seed is unknown (WHOIS), and its moon names no endpoint: relayed HELLO, then RENDEZVOUS; both behind NATs."""
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    network.add(IDENTITIES[0], ROOT, world)
    moon = moon_of(IDENTITIES[1])
    seed = network.add(IDENTITIES[1], ("10.1.0.2", 9993), world, nat=Nat("198.51.100.1"), moons=[moon])
    asker = network.add(IDENTITIES[2], ("10.2.0.2", 9993), world, nat=Nat("198.51.100.2"))
    network.run(2)
    asker.vl1.orbit(moon.id, seed.address, network.now)
    assert asker.vl1.moon_seeds == {moon.id: seed.address}
    assert network.run(15, until=lambda: asker.path_to(seed) is not None)
    assert asker.vl1.moons == [moon] and asker.vl1.moon_seeds == {}
    assert asker.vl1.upstreams() == [IDENTITIES[0].address, seed.address]
    # The moon's root is a root without having been told so: it relays.
    assert seed.vl1.is_relay
    # And without any root of the planet, the node is still online.
    del network.hosts[ROOT]
    network.run(120)
    assert asker.vl1.online and asker.path_to(seed) is not None

    assert asker.vl1.deorbit(moon.id, network.now)
    assert asker.vl1.upstreams() == [IDENTITIES[0].address] and not asker.vl1.deorbit(moon.id, network.now)


def test_a_seed_that_is_not_there_yet_is_looked_for_until_it_is() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    network.add(IDENTITIES[0], ROOT, world)
    moon = moon_of(IDENTITIES[1], ("203.0.113.9", 9993))
    asker = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world)
    asker.vl1.orbit(moon.id, IDENTITIES[1].address, network.now)
    network.run(300)
    assert asker.vl1.moons == []
    network.add(IDENTITIES[1], ("203.0.113.9", 9993), world, moons=[moon])
    assert network.run(20, until=lambda: asker.vl1.moons == [moon])


def test_a_node_that_becomes_a_root_serves_at_once_and_no_longer_than_it_is_one() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    node = network.add(IDENTITIES[1], ("203.0.113.9", 9993), world)
    assert not node.vl1.is_relay and not node.vl1.online
    moon = moon_of(IDENTITIES[1], ("203.0.113.9", 9993))
    node.vl1.add_moon(moon, network.now)
    assert node.vl1.is_relay and node.vl1.online
    with pytest.raises(ValueError, match="no later version"):
        node.vl1.add_moon(moon_of(IDENTITIES[1], timestamp=4), network.now)
    node.vl1.add_moon(moon_of(IDENTITIES[1], timestamp=6), network.now)
    with pytest.raises(ValueError, match="by itself"):
        node.vl1.orbit(7, node.address, network.now)
    node.vl1.deorbit(moon.id, network.now)
    assert not node.vl1.is_relay


def test_no_more_moons_than_the_bound() -> None:
    network = Network()
    node = network.add(IDENTITIES[1], ("203.0.113.9", 9993), planet([(IDENTITIES[0], (ROOT,))]))
    for moon in range(1, MAX_MOONS + 1):
        node.vl1.orbit(moon, IDENTITIES[2].address, network.now)
    with pytest.raises(ValueError, match="already"):
        node.vl1.orbit(99, IDENTITIES[2].address, network.now)


def test_changed_surface_address_resets_paths() -> None:
    network = Network()
    _, one, two = triangle(network, nat=True)
    network.run(1)
    connected(network, one, two)
    nat = network.behind["10.1.0.2"]
    moved = Nat("198.51.100.99")
    del network.nats[nat.outer_ip]
    network.behind["10.1.0.2"], network.nats["198.51.100.99"] = moved, moved
    network.run(70)
    assert one.vl1.counters["path_resets"] == 1
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"moved", network.now)
    network.run(10)
    assert two.payloads(VERB_USER_MESSAGE)[-1] == b"moved"
    assert one.vl1.surface_addresses[-1] == ("198.51.100.99", 40000) or ("198.51.100.99", 40000) in (
        one.vl1.surface_addresses
    )
    assert two.path_to(one) in (None, ("198.51.100.99", 40000), ("198.51.100.99", 40001))


def test_trusted_peers_are_told_our_endpoints() -> None:
    """Two leaves on one LAN behind one NAT without hairpinning: only PUSH_DIRECT_PATHS can join them."""
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    network.add(IDENTITIES[0], ROOT, world)
    nat = Nat("198.51.100.1")
    one = network.add(IDENTITIES[1], ("192.168.1.2", 9993), world, nat=nat)
    two = network.add(IDENTITIES[2], ("192.168.1.3", 9993), world, nat=nat)
    outward = nat.outward
    nat.outward = lambda source, destination: (  # type: ignore[method-assign]
        source if destination[0].startswith("192.168.") else outward(source, destination)
    )
    network.blocked = lambda source, destination: source[0] == nat.outer_ip == destination[0]
    for host in (one, two):
        host.vl1.set_local_endpoints([host.endpoint, ("127.0.0.1", 9993), ("fe80::1", 9993)])
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    network.run(2)
    assert one.path_to(two) is None
    peer = two.vl1.peer(one.address)
    assert peer is not None
    two.vl1.trust(peer, network.now)
    assert network.run(1, lambda: one.path_to(two) == two.endpoint and two.path_to(one) == one.endpoint)


def test_moved_host_greets_everybody_at_once() -> None:
    network = Network()
    _, one, two = triangle(network)
    one.vl1.set_local_endpoints([one.endpoint])
    network.run(1)
    connected(network, one, two)
    network.run(5)
    moved = ("203.0.113.55", 9993)
    network.hosts[moved] = network.hosts.pop(one.endpoint)
    network.hosts[moved].endpoint = moved
    one.vl1.set_local_endpoints([moved])
    assert network.run(3, lambda: two.path_to(one) == moved)
    network.run(1)
    root = one.vl1.peer(IDENTITIES[0].address)
    assert root is not None and root.path is not None and not root.path.dead
    assert one.vl1.surface_addresses == [moved]


@pytest.mark.parametrize("away", [0.5, 3.0, 20.0])
def test_a_node_that_starts_again_at_another_port_is_answered_there_at_once(away: float) -> None:
    """Nobody goes on talking to its old port until that counts as dead, and it was introduced a moment ago."""
    network = Network()
    root, one, two = triangle(network)
    network.run(1)
    connected(network, one, two)
    network.run(1)
    for port in (9994, 9995):
        for _ in range(10):  # what was under way goes nowhere
            two.vl1.send(one.address, VERB_USER_MESSAGE, b"gone", network.now)
            root.vl1.send(one.address, VERB_USER_MESSAGE, b"gone", network.now)
            network.run(0.02)
        for host in (root, two):  # it had another interface
            peer = host.vl1.peer(one.address)
            assert peer is not None
            peer.learn(("203.0.113.22", port), network.now).measured(0.001)
        del network.hosts[one.endpoint]
        network.run(away)
        one = network.add(IDENTITIES[1], ("203.0.113.2", port), root.vl1.planet)
        assert network.run(1, lambda: one.vl1.online)  # noqa: B023
        network.run(0.1)
        root.vl1.send(one.address, VERB_USER_MESSAGE, b"from the root", network.now)
        assert network.run(0.1, lambda: one.payloads(VERB_USER_MESSAGE) == [b"from the root"])  # noqa: B023
        one.vl1.send(two.address, VERB_USER_MESSAGE, b"question", network.now)
        assert network.run(0.2, lambda: two.payloads(VERB_USER_MESSAGE)[-1:] == [b"question"])
        network.run(0.2)
        two.vl1.send(one.address, VERB_USER_MESSAGE, b"answer", network.now)
        assert network.run(0.1, lambda: one.payloads(VERB_USER_MESSAGE)[-1] == b"answer")  # noqa: B023
        two.messages.clear()


def test_avoided_networks_make_no_paths() -> None:
    network = Network()
    _, one, two = triangle(network)
    one.vl1.avoid_networks([ip_network("203.0.113.3/32")])
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    network.run(3)
    assert two.payloads(VERB_USER_MESSAGE) == [b"hello"]
    assert one.path_to(two) is None


def test_paths_to_one_peer_are_avoided_and_hinted() -> None:
    network = Network()
    root, one, two = triangle(network)
    elsewhere = ("203.0.113.99", 1)
    three = network.add(
        IDENTITIES[3],
        ("203.0.113.4", 9993),
        root.vl1.planet,
        avoided_of={two.address: (ip_network("203.0.113.3/32"),)},
        hints={two.address: (elsewhere,)},
    )
    asked = []
    network.blocked = lambda source, destination: destination == elsewhere and not asked.append(source)  # type: ignore[func-returns-value]
    network.run(1)
    for peer in (two, one):
        three.vl1.send(peer.address, VERB_USER_MESSAGE, b"hello", network.now)
    network.run(10)
    assert two.payloads(VERB_USER_MESSAGE) == one.payloads(VERB_USER_MESSAGE) == [b"hello"]
    assert three.path_to(two) is None and three.path_to(one) == one.endpoint
    assert set(asked) == {three.endpoint}


def test_promised_packet_id_is_what_the_answer_refers_to() -> None:
    network = Network()
    _, one, two = triangle(network)
    queued = one.vl1.send(two.address, VERB_NETWORK_CONFIG_REQUEST, b"queued", network.now)
    network.run(1)
    direct = one.vl1.send(two.address, VERB_NETWORK_CONFIG_REQUEST, b"direct", network.now)
    network.run(1)
    for peer, verb, packet_id, payload in two.messages:
        two.vl1.reply_ok(peer, verb, packet_id, bytes(payload).upper(), network.now)
        two.vl1.reply_error(peer, verb, packet_id, packet.ERROR_OBJ_NOT_FOUND, b"", network.now)
    network.run(1)
    oks = [parse_ok(payload) for payload in one.payloads(VERB_OK)]
    assert [(ok.in_re_verb, ok.in_re_packet_id, ok.payload) for ok in oks] == [
        (VERB_NETWORK_CONFIG_REQUEST, queued, b"QUEUED"),
        (VERB_NETWORK_CONFIG_REQUEST, direct, b"DIRECT"),
    ]
    errors = [parse_error(payload) for payload in one.payloads(packet.VERB_ERROR)]
    assert [error.in_re_packet_id for error in errors] == [queued, direct]


def test_several_answers_to_one_question() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    one.vl1.send(two.address, VERB_NETWORK_CONFIG_REQUEST, b"?", network.now)
    network.run(1)
    peer, verb, packet_id, _ = two.messages[0]
    for number in range(3):
        two.vl1.reply_ok(peer, verb, packet_id, bytes([number]), network.now)
    network.run(1)
    assert [parse_ok(payload).payload for payload in one.payloads(VERB_OK)] == [b"\0", b"\1", b"\2"]


def test_packets_to_nobody_are_dropped_in_time() -> None:
    network = Network()
    _, one, _ = triangle(network)
    network.run(1)
    one.vl1.send(0x1122334455, VERB_USER_MESSAGE, b"lost", network.now)
    network.run(12)
    assert one.vl1.counters["drop_send_timeout"] == 1


def test_leaf_answers_whois_and_a_late_root_is_not_needed() -> None:
    """Two nodes that know each other by configuration need no root."""
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    one = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    two = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world)
    one.vl1.add_peer(IDENTITIES[2].without_secret(), network.now, [two.endpoint])
    assert network.run(2, lambda: one.path_to(two) == two.endpoint)
    two.vl1.send(one.address, VERB_USER_MESSAGE, b"no root", network.now)
    network.run(1)
    assert one.payloads(VERB_USER_MESSAGE) == [b"no root"]


@pytest.mark.parametrize("seed", range(8))
def test_bad_wires_lose_and_double_nothing_but_what_they_lost(seed: int) -> None:
    """On a wire with loss, duplication and reordering: nothing arrives twice, nothing arrives damaged, most arrives."""
    network = Network(seed, delay=0.01, jitter=0.03, loss=0.05, duplication=0.1)
    _, one, two = triangle(network)
    network.run(10, lambda: one.vl1.online and two.vl1.online)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"first", network.now)
    network.run(6)
    sent = [network.random.randbytes(network.random.choice((20, 1500, 2810))) for _ in range(200)]
    for start in range(0, 200, 10):
        one.vl1.send_batch(two.address, VERB_FRAME, sent[start : start + 10], network.now)
        network.run(0.05)
    network.run(1)
    got = two.payloads(VERB_FRAME)
    assert len(got) == len(set(got))
    assert set(got) <= set(sent)
    assert len(got) > 150


def test_messages_to_oneself_come_back() -> None:
    network = Network()
    _, one, _ = triangle(network)
    packet_id = one.vl1.send(one.address, VERB_USER_MESSAGE, b"note", network.now)
    one.vl1.send_batch(one.address, VERB_FRAME, [b"a", (b"b", b"c")], network.now)
    network.flush()
    assert [(peer.address, verb, payload) for peer, verb, _, payload in one.messages] == [
        (one.address, VERB_USER_MESSAGE, b"note"),
        (one.address, VERB_FRAME, b"a"),
        (one.address, VERB_FRAME, b"bc"),
    ]
    assert one.messages[0][2] == packet_id
    one.vl1.reply_ok(one.messages[0][0], VERB_USER_MESSAGE, packet_id, b"", network.now)
    network.flush()
    assert parse_ok(one.payloads(VERB_OK)[0]).in_re_packet_id == packet_id


def test_too_long_a_payload_is_refused() -> None:
    network = Network()
    _, one, two = triangle(network)
    with pytest.raises(ValueError, match="the most"):
        one.vl1.send(two.address, VERB_USER_MESSAGE, bytes(9901), network.now)
