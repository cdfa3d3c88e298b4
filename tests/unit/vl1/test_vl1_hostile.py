"""What strangers and ill-meaning peers send: counted, dropped, bounded."""

from __future__ import annotations

import random

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network, planet, triangle
from ztnode.vl1 import IdentityCollision, Vl1
from ztnode.vl1.packet_assembler import MAX_FROM_PEERS, MAX_FROM_STRANGERS
from ztnode.vl1.waiting_room import MAX_INCOMING, MAX_STRANGERS
from ztnode.wire import c25519, packet
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.hello import Hello, Version, WorldVersion, build_hello
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import (
    CIPHER_AES_GMAC_SIV,
    CIPHER_POLY1305_NONE,
    VERB_ECHO,
    VERB_ERROR,
    VERB_FRAME,
    VERB_HELLO,
    VERB_OK,
    VERB_PUSH_DIRECT_PATHS,
    VERB_RENDEZVOUS,
    VERB_USER_MESSAGE,
    VERB_WHOIS,
)
from ztnode.wire.push_direct_paths import DirectPath, build_push_direct_paths
from ztnode.wire.rendezvous import Rendezvous, build_rendezvous
from ztnode.wire.reply import build_error, build_ok
from ztnode.wire.whois import build_ok_whois, build_whois

ROOT = ("203.0.113.1", 9993)


def pair(network: Network) -> tuple[Host, Host, Host]:
    """A root and two leaves with a direct path."""
    root, one, two = triangle(network)
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    assert network.run(5, lambda: one.path_to(two) is not None and two.path_to(one) is not None)
    network.run(3)
    return root, one, two


def sealed(sender: Identity, receiver: Identity, plaintext: bytes, cipher: int = CIPHER_AES_GMAC_SIV) -> bytes:
    keys = PeerKeys(sender.agree(receiver))
    packet_id = random.Random(plaintext).getrandbits(64)
    return keys.seal(packet_id, receiver.address, sender.address, (plaintext,), cipher)


def hello_from(sender: Identity, receiver: Identity, packet_id: int = 8, protocol: int = 12) -> bytes:
    keys = PeerKeys(sender.agree(receiver))
    hello = Hello(protocol, Version(1, 14, 1), 1, sender.without_secret(), None, WorldVersion(7, 1))
    plaintext = build_hello(hello, packet_id, keys)
    return keys.seal(packet_id, receiver.address, sender.address, (plaintext,), CIPHER_POLY1305_NONE)


def made_up(count: int) -> list[Identity]:
    """Identities with real keys and addresses that do not belong to them."""
    source = random.Random(5)
    identities = []
    for number in range(count):
        secret = source.randbytes(c25519.SECRET_LENGTH)
        identities.append(Identity(0x1000000000 + number, c25519.derive_public(secret), secret))
    return identities


def counters(vl1: Vl1) -> dict[str, int]:
    return {name: count for name, count in vl1.counters.items() if count and name.startswith("drop_")}


@pytest.mark.parametrize("seed", range(20))
def test_mutated_traffic_never_raises(seed: int) -> None:
    """Everything on the wire is damaged in some way now and then; the nodes live on."""
    network = Network(seed, delay=0.01, jitter=0.02, duplication=0.2)

    def tamper(datagram: bytes) -> bytes:
        roll = network.random.random()
        if roll < 0.6:
            return datagram
        mutable = bytearray(datagram)
        if roll < 0.8:
            for _ in range(network.random.randint(1, 4)):
                mutable[network.random.randrange(len(mutable))] ^= 1 << network.random.randrange(8)
        elif roll < 0.9:
            del mutable[network.random.randrange(len(mutable)) :]
        elif roll < 0.95:
            mutable += network.random.randbytes(network.random.randint(1, 2000))
        else:
            mutable[19:] = network.random.randbytes(len(mutable) - 19) if len(mutable) > 19 else b""
        return bytes(mutable)

    network.tampers = tamper
    root, one, two = triangle(network)
    for _ in range(40):
        for sender, receiver in ((one, two), (two, one)):
            sender.vl1.send(receiver.address, VERB_USER_MESSAGE, b"good", network.now, compress=True)
            sender.vl1.send_batch(receiver.address, VERB_FRAME, [bytes(2810)], network.now)
        network.run(0.3)
    assert set(two.payloads(VERB_USER_MESSAGE)) <= {b"good"}
    assert set(two.payloads(VERB_FRAME)) <= {bytes(2810)}
    assert two.payloads(VERB_USER_MESSAGE)
    assert sum(counters(host.vl1)[name] for host in (root, one, two) for name in counters(host.vl1)) > 0


@pytest.mark.parametrize("verb", range(32))
def test_authentic_rubbish_never_raises(verb: int) -> None:
    """A peer with good keys sends payloads that mean nothing, to a leaf and to a root."""
    network = Network()
    root, one, two = pair(network)
    source = random.Random(verb)
    for target in (root, two):
        for number in range(60):
            flags = source.choice((0, 0, 0, 0x80))
            body = bytes((verb | flags,)) + source.randbytes(source.choice((0, 1, 5, 9, 10, 30, 100, 500)))
            data = sealed(one.vl1.identity, target.vl1.identity, body)
            network.inject(data, one.endpoint, target.endpoint)
            if number % 10 == 0:
                network.run(1)
    network.run(2)
    assert two.vl1.online


def test_replayed_packets_are_dropped() -> None:
    network = Network()
    _, one, two = pair(network)
    captured: list[bytes] = []

    def capture(datagram: bytes) -> bytes:
        captured.append(datagram)
        return datagram

    network.tampers = capture
    one.vl1.send_batch(two.address, VERB_FRAME, [b"pay me", bytes(2810)], network.now)
    network.run(0.5)
    assert len(two.payloads(VERB_FRAME)) == 2
    for datagram in captured * 3:
        network.inject(datagram, ("192.0.2.66", 1), two.endpoint)
    network.run(0.5)
    assert len(two.payloads(VERB_FRAME)) == 2
    assert two.vl1.counters["drop_duplicate"] >= 6


def test_forged_packets_are_dropped() -> None:
    network = Network()
    _, one, two = pair(network)
    before = len(two.messages)
    for cipher in (1, 3, 2, 4, 5, 6, 7):
        forged = bytearray(sealed(IDENTITIES[5], two.vl1.identity, bytes((VERB_FRAME,)) + b"x"))
        forged[13:18] = one.address.to_bytes(5, "big")
        forged[18] = cipher << 3
        network.inject(bytes(forged), one.endpoint, two.endpoint)
    network.run(1)
    assert len(two.messages) == before
    # One of them claims to come on a trusted path, and none is configured.
    assert (two.vl1.counters["drop_forged"], two.vl1.counters["drop_path_not_trusted"]) == (6, 1)


def test_only_hello_may_be_in_the_clear() -> None:
    network = Network()
    _, one, two = pair(network)
    before = len(two.messages)
    clear = sealed(one.vl1.identity, two.vl1.identity, bytes((VERB_FRAME,)) + b"x", CIPHER_POLY1305_NONE)
    network.inject(clear, one.endpoint, two.endpoint)
    network.run(1)
    assert len(two.messages) == before
    assert two.vl1.counters["drop_not_encrypted"] == 1


def test_leaf_does_not_relay() -> None:
    network = Network()
    _, one, two = pair(network)
    network.inject(sealed(one.vl1.identity, IDENTITIES[5], b"\x06x"), one.endpoint, two.endpoint)
    network.run(1)
    assert two.vl1.counters["drop_misaddressed"] == 1


def test_root_limits_hops() -> None:
    network = Network()
    root, one, two = pair(network)
    data = sealed(one.vl1.identity, two.vl1.identity, b"\x06x")
    fragment = data[:13] + bytes((0xFF, 0x21, packet.RELAY_MAX_HOPS)) + b"data"
    travelled = data[:18] + bytes((data[18] | packet.RELAY_MAX_HOPS,)) + data[19:]
    relayed = root.vl1.counters["relayed"]
    network.inject(travelled, one.endpoint, root.endpoint)
    network.inject(fragment, one.endpoint, root.endpoint)
    network.run(0.2)
    assert root.vl1.counters["relayed"] == relayed
    assert root.vl1.counters["drop_hops"] == 2


def test_flood_of_made_up_identities_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    root, one, _ = pair(network)
    # What the hash would say: it is counted here, and 20 of them are seconds.
    monkeypatch.setattr(Identity, "validate", lambda _: False)
    hashed = root.vl1.counters["identities_hashed"]
    flood = [hello_from(identity, root.vl1.identity) for identity in made_up(100)]
    for round_ in range(5):
        for number, hello in enumerate(flood):
            network.inject(hello, (f"192.0.{number}.{round_ + 1}", 1000), root.endpoint)
        network.run(0.1)
    assert len(root.vl1.peers()) == 2
    # So much may be computed in a burst; afterwards three a second.
    assert root.vl1.counters["identities_hashed"] - hashed <= 20
    assert root.vl1.counters["drop_rate_identity"] > 0
    sent = one.vl1.send(root.address, VERB_ECHO, b"still there?", network.now)
    network.run(1)
    assert one.vl1._core.transmit.expected(sent) is None


def test_same_made_up_identity_is_hashed_once() -> None:
    network = Network()
    root, _, _ = pair(network)
    hashed = root.vl1.counters["identities_hashed"]
    impostor = made_up(1)[0]
    for packet_id in range(8, 80, 8):
        network.inject(hello_from(impostor, root.vl1.identity, packet_id), ("192.0.2.9", 7), root.endpoint)
        network.run(2)
    assert root.vl1.counters["identities_hashed"] == hashed + 1
    assert root.vl1.counters["drop_invalid_identity"] == 9


def test_hello_with_a_bad_mac_costs_no_hash() -> None:
    network = Network()
    root, _, _ = pair(network)
    hashed = root.vl1.counters["identities_hashed"]
    hello = bytearray(hello_from(IDENTITIES[5], root.vl1.identity))
    hello[-1] ^= 1
    network.inject(bytes(hello), ("192.0.2.9", 7), root.endpoint)
    network.run(1)
    assert root.vl1.counters["identities_hashed"] == hashed
    assert root.vl1.counters["drop_forged"] == 1
    assert root.vl1.peer(IDENTITIES[5].address) is None


def test_leaf_asks_a_root_before_it_hashes() -> None:
    network = Network()
    _, _, two = pair(network)
    world = two.vl1.planet
    third = network.add(IDENTITIES[3], ("203.0.113.4", 9993), world)
    network.run(1)
    third.vl1.add_peer(two.vl1.identity.without_secret(), network.now, [two.endpoint])
    assert network.run(2, lambda: third.path_to(two) is not None)
    assert two.vl1.counters["identities_hashed"] == 0


def test_leaf_hashes_where_no_root_helps() -> None:
    network = Network()
    _, _, two = pair(network)
    hello = hello_from(IDENTITIES[5], two.vl1.identity)
    network.inject(hello, ("192.0.2.9", 7), two.endpoint)
    network.run(3)
    assert two.vl1.counters["identities_hashed"] == 1
    assert two.vl1.peer(IDENTITIES[5].address) is not None


def test_owner_may_validate_identities_elsewhere() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    root = network.add(IDENTITIES[0], ROOT, world, defer_identity_checks=True)
    leaf = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    impostor = made_up(1)[0]
    network.inject(hello_from(impostor, root.vl1.identity), ("192.0.2.9", 7), root.endpoint)
    network.run(0.5)
    checks = root.vl1.identity_checks()
    assert {identity.address for identity in checks} == {leaf.address, impostor.address}
    assert len(root.vl1.peers()) == 0
    for identity in checks:
        root.vl1.identity_checked(identity, identity.validate(), network.now)
        root.vl1.identity_checked(identity, True, network.now)  # a verdict that nobody waits for changes nothing
    assert network.run(1, lambda: leaf.vl1.online)
    assert [peer.address for peer in root.vl1.peers()] == [leaf.address]
    network.inject(hello_from(impostor, root.vl1.identity, 16), ("192.0.2.9", 7), root.endpoint)
    network.run(1)
    assert root.vl1.identity_checks() == []


def test_impostor_does_not_cost_us_what_waits_for_the_real_one() -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    secret = random.Random(9).randbytes(c25519.SECRET_LENGTH)
    impostor = Identity(two.address, c25519.derive_public(secret), secret)
    cut = network.blocked
    network.blocked = lambda source, destination: destination[0] == ROOT[0]
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"for the real one", network.now)
    network.inject(hello_from(impostor, one.vl1.identity), ("192.0.2.9", 7), one.endpoint)
    network.run(2)
    assert one.vl1.counters["drop_invalid_identity"] == 1
    network.blocked = cut
    network.run(2)
    assert two.payloads(VERB_USER_MESSAGE) == [b"for the real one"]


def test_colliding_identity_is_told_so() -> None:
    network = Network()
    root, one, _ = pair(network)
    secret = random.Random(9).randbytes(c25519.SECRET_LENGTH)
    impostor = Identity(one.address, c25519.derive_public(secret), secret)
    network.inject(hello_from(impostor, root.vl1.identity), ("192.0.2.9", 7), root.endpoint)
    network.run(0.02)
    replies = [datagrams for endpoint, datagrams in root.vl1.to_send() if endpoint[0] == "192.0.2.9"]
    network.run(1)
    assert root.vl1.counters["drop_identity_collision"] == 1
    peer = root.vl1.peer(one.address)
    assert peer is not None and peer.identity == one.vl1.identity
    assert not replies or PeerKeys(impostor.agree(root.vl1.identity)).open(replies[0][0]) is not None


def test_collision_error_counts_from_a_root_that_we_asked_alone() -> None:
    network = Network()
    root, one, two = pair(network)
    root_identity, own = root.vl1.identity, one.vl1.identity
    unasked = build_error(VERB_HELLO, 12345, packet.ERROR_IDENTITY_COLLISION)
    network.inject(sealed(root_identity, own, unasked), root.endpoint, one.endpoint)
    by_leaf = one.vl1.send(two.address, VERB_ECHO, b"", network.now)
    network.inject(
        sealed(two.vl1.identity, own, build_error(VERB_HELLO, by_leaf, packet.ERROR_IDENTITY_COLLISION)),
        two.endpoint,
        one.endpoint,
    )
    network.run(1)
    assert not any(isinstance(event, IdentityCollision) for event in one.events)
    network.blocked = lambda source, destination: True
    asked = one.vl1.send(root.address, VERB_ECHO, b"", network.now)
    network.flush()
    network.blocked = lambda source, destination: False
    collision = build_error(VERB_HELLO, asked, packet.ERROR_IDENTITY_COLLISION)
    network.inject(sealed(root_identity, own, collision), root.endpoint, one.endpoint)
    network.run(1)
    assert IdentityCollision(root.address) in one.events


def test_answers_to_what_was_not_asked_are_dropped() -> None:
    network = Network()
    root, one, two = pair(network)
    stranger = IDENTITIES[5].without_secret()
    before = len(one.messages)
    for number, body in enumerate(
        (
            build_ok(VERB_WHOIS, 1, build_ok_whois([stranger])),
            build_ok(VERB_ECHO, 2),
            build_ok(packet.VERB_NETWORK_CONFIG_REQUEST, 3, b"config"),
            build_error(packet.VERB_NETWORK_CONFIG_REQUEST, 4, packet.ERROR_NETWORK_ACCESS_DENIED),
        ),
        start=1,
    ):
        network.inject(sealed(two.vl1.identity, one.vl1.identity, body), two.endpoint, one.endpoint)
        network.run(0.1)
        assert one.vl1.counters["drop_unexpected_reply"] == number
    asked = one.vl1.send(root.address, packet.VERB_NETWORK_CONFIG_REQUEST, b"", network.now)
    body = build_ok(packet.VERB_NETWORK_CONFIG_REQUEST, asked, b"config")
    network.inject(sealed(two.vl1.identity, one.vl1.identity, body), two.endpoint, one.endpoint)
    network.run(0.1)
    assert one.vl1.counters["drop_unexpected_reply"] == 5
    assert len(one.messages) == before
    assert one.vl1.peer(stranger.address) is None


def test_errors_to_frames_are_passed_up() -> None:
    network = Network()
    _, one, two = pair(network)
    body = build_error(VERB_FRAME, 99, packet.ERROR_NEED_MEMBERSHIP_CERTIFICATE, bytes(8))
    network.inject(sealed(two.vl1.identity, one.vl1.identity, body), two.endpoint, one.endpoint)
    network.run(0.1)
    assert one.payloads(VERB_ERROR) == [body[1:]]


def test_rendezvous_and_whois_answers_from_leaves_are_ignored() -> None:
    network = Network()
    _, one, two = pair(network)
    target = ("192.0.2.200", 5555)
    seen: list[object] = []

    def noted(source: Endpoint, destination: Endpoint) -> bool:
        if destination == target:
            seen.append(source)
        return destination == target

    network.blocked = noted
    body = bytes((VERB_RENDEZVOUS,)) + build_rendezvous(Rendezvous(two.address, target))
    network.inject(sealed(two.vl1.identity, one.vl1.identity, body), two.endpoint, one.endpoint)
    asked = one.vl1.send(two.address, VERB_WHOIS, build_whois([IDENTITIES[5].address]), network.now)
    answer = build_ok(VERB_WHOIS, asked, build_ok_whois([IDENTITIES[5].without_secret()]))
    network.inject(sealed(two.vl1.identity, one.vl1.identity, answer), two.endpoint, one.endpoint)
    network.run(2)
    assert not seen
    assert one.vl1.counters["drop_not_upstream"] >= 2
    assert one.vl1.peer(IDENTITIES[5].address) is None


def test_root_is_only_where_its_planet_says() -> None:
    network = Network()
    root, one, _ = pair(network)
    elsewhere = ("192.0.2.201", 9993)
    body = build_ok(VERB_ECHO, one.vl1.send(root.address, VERB_ECHO, b"", network.now))
    network.inject(sealed(root.vl1.identity, one.vl1.identity, body), elsewhere, one.endpoint)
    network.run(0.5)
    peer = one.vl1.peer(root.address)
    assert peer is not None
    assert set(peer.paths) == {ROOT}


def test_pushed_paths_are_gated_and_kept_to_usable_scopes() -> None:
    network = Network()
    _, one, two = pair(network)
    tried: set[tuple[str, int]] = set()

    def noted(source: Endpoint, destination: Endpoint) -> bool:
        if source == two.endpoint:
            tried.add(destination)
        return False

    network.blocked = noted
    pushed = [DirectPath((f"192.0.2.{number}", 1000)) for number in range(1, 101)]
    pushed += [DirectPath(("127.0.0.1", 22)), DirectPath(("224.0.0.1", 1)), DirectPath(("169.254.1.1", 1))]
    pushed += [DirectPath(("0.0.0.0", 1)), DirectPath(("::1", 1)), DirectPath(("fe80::1", 1))]
    body = bytes((VERB_PUSH_DIRECT_PATHS,)) + build_push_direct_paths(pushed)
    network.inject(sealed(one.vl1.identity, two.vl1.identity, body), one.endpoint, two.endpoint)
    network.run(3)
    assert len([ip for ip, _ in tried if ip.startswith("192.0.2.")]) == 8
    assert not {"127.0.0.1", "224.0.0.1", "169.254.1.1", "0.0.0.0", "::1", "fe80::1"} & {ip for ip, _ in tried}
    for number in range(20):
        more = [DirectPath((f"198.18.0.{number}", 1000))]
        body = bytes((VERB_PUSH_DIRECT_PATHS,)) + build_push_direct_paths(more)
        network.inject(sealed(one.vl1.identity, two.vl1.identity, body), one.endpoint, two.endpoint)
    network.run(1)
    assert two.vl1.counters["drop_rate_push_direct_paths"] >= 12


@pytest.mark.parametrize(("verb", "gate"), [(VERB_ECHO, "echo"), (VERB_WHOIS, "whois")])
def test_questions_are_gated(verb: int, gate: str) -> None:
    network = Network()
    _, one, two = pair(network)
    for number in range(50):
        body = bytes((verb,)) + number.to_bytes(5, "big")
        network.inject(sealed(one.vl1.identity, two.vl1.identity, body), one.endpoint, two.endpoint)
    network.run(0.5)
    assert two.vl1.counters[f"drop_rate_{gate}"] >= 45


def test_hello_is_gated() -> None:
    network = Network()
    _, one, two = pair(network)
    for packet_id in range(8, 1608, 8):
        network.inject(hello_from(one.vl1.identity, two.vl1.identity, packet_id), one.endpoint, two.endpoint)
    network.run(0.5)
    assert two.vl1.counters["drop_rate_hello"] >= 150


def test_too_old_a_protocol_is_refused() -> None:
    network = Network()
    root, _, _ = pair(network)
    network.inject(hello_from(IDENTITIES[5], root.vl1.identity, protocol=3), ("192.0.2.9", 7), root.endpoint)
    network.run(1)
    assert root.vl1.counters["drop_protocol_version"] == 1


def test_packets_from_unknown_addresses_are_bounded() -> None:
    network = Network()
    _, _, two = pair(network)
    source = random.Random(3)
    own = two.address.to_bytes(5, "big")
    for _ in range(3000):
        data = source.randbytes(8) + own + source.randbytes(5) + b"\x18" + source.randbytes(1000)
        if data[13] != 0xFF:
            two.vl1.receive([(data, ("192.0.2.5", 5))], network.now)
    assert len(two.vl1._core.introductions.waiting) <= MAX_STRANGERS
    same = source.randbytes(8) + own + b"\x12\x34\x56\x78\x9a\x18" + source.randbytes(1000)
    network.run(11)
    assert len(two.vl1._core.introductions.waiting) == 0
    for _ in range(100):
        two.vl1.receive([(same, ("192.0.2.5", 5))], network.now)
    wanted = two.vl1._core.introductions.waiting.get(0x123456789A)
    assert wanted is not None and len(wanted.incoming or ()) == MAX_INCOMING


@pytest.mark.parametrize("seed", range(12))
def test_fragments_are_joined_however_they_come(seed: int) -> None:
    """Heads with the fragment right behind, the two apart, in other batches or the wrong order, repeated, with rubbish
    of others in their names between: each packet comes once, and nothing is left."""
    network = Network(seed)
    _, one, two = pair(network)
    source = random.Random(seed)
    frames = [source.randbytes(source.choice((100, 1401, 2810, 4500))) for _ in range(60)]
    one.vl1.send_batch(two.address, VERB_FRAME, frames, network.now)
    ((_, datagrams),) = one.vl1.to_send()
    entries = [(data, one.endpoint) for data in datagrams]
    for _ in range(source.randint(0, 40)):
        here, there = source.randrange(len(entries)), source.randrange(len(entries))
        entries[here], entries[there] = entries[there], entries[here]
    if seed % 3 == 0:
        entries += source.sample(entries, 10)
    if seed % 2:
        # A stranger who sees the ids: what he sends is his alone.
        entries = [each for entry in entries for each in ((entry[0][:-1] + b"?", ("192.0.2.5", 5)), entry)]
    while entries:
        count = source.randint(1, 30)
        two.vl1.receive(entries[:count], network.now)
        del entries[:count]
    network.run(8)
    assert sorted(two.payloads(VERB_FRAME)) == sorted(frames)
    assert len(two.vl1._fragments) == len(two.vl1._fragments_of_strangers) == 0


def test_fragments_of_strangers_do_not_push_out_those_of_peers() -> None:
    network = Network()
    _, one, two = pair(network)
    one.vl1.send_batch(two.address, VERB_FRAME, [bytes(2810)], network.now)
    ((_, datagrams),) = one.vl1.to_send()
    head, fragment = datagrams
    source = random.Random(4)
    own = two.address.to_bytes(5, "big")
    rubbish = [source.randbytes(8) + own + b"\xff\x21\x00" + source.randbytes(1400) for _ in range(5000)]
    two.vl1.receive([(head, one.endpoint)], network.now)
    two.vl1.receive([(data, ("192.0.2.5", 5)) for data in rubbish], network.now)
    assert len(two.vl1._fragments_of_strangers) == MAX_FROM_STRANGERS
    two.vl1.receive([(fragment, one.endpoint)], network.now)
    network.flush()
    assert two.payloads(VERB_FRAME) == [bytes(2810)]
    two.vl1.receive([(data, one.endpoint) for data in rubbish], network.now)
    assert len(two.vl1._fragments) <= MAX_FROM_PEERS
    network.run(8)
    assert len(two.vl1._fragments) == len(two.vl1._fragments_of_strangers) == 0


def test_peer_table_is_bounded() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    host = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world, max_peers=10)
    for identity in made_up(50):
        host.vl1.add_peer(identity.without_secret(), network.now)
        network.run(0.01)
    assert len(host.vl1.peers()) == 10
    assert host.vl1.peer(IDENTITIES[0].address) is not None


def test_ok_by_nobody_makes_no_path() -> None:
    """An OK that was relayed says nothing about the endpoint it came from."""
    network = Network()
    _, one, two = triangle(network, relay_only=True)
    network.run(1)
    one.vl1.send(two.address, VERB_ECHO, b"", network.now)
    network.run(3)
    peer = one.vl1.peer(two.address)
    assert peer is not None
    assert not peer.paths
    assert one.payloads(VERB_OK) == []
