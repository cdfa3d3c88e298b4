"""What floods cost us, and that they cost nobody else anything. Operations are counted, never time."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.vl1.test_vl1_hostile import ROOT, hello_from, made_up, pair, sealed
from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network, planet, triangle
from ztnode.vl1 import Vl1, verbs
from ztnode.vl1.introductions import QUESTION_INTERVAL
from ztnode.vl1.peer import REPLAY_GENERATION, replay_share
from ztnode.vl1.strangers import AGREEMENT_RATE, SLICE_RATE, Strangers
from ztnode.vl1.waiting_room import MAX_INCOMING, MAX_INCOMING_BYTES, MAX_STRANGERS, Cause
from ztnode.wire import salsa20, salsa20_sodium
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.hello import Hello, OkHello, Version, WorldVersion, build_hello, build_ok_hello, parse_hello
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import (
    CIPHER_POLY1305_NONE,
    CIPHER_POLY1305_SALSA2012,
    VERB_FRAME,
    VERB_HELLO,
    VERB_NOP,
    VERB_OK,
    VERB_PUSH_DIRECT_PATHS,
    VERB_RENDEZVOUS,
    VERB_USER_MESSAGE,
    VERB_WHOIS,
)
from ztnode.wire.push_direct_paths import DirectPath, build_push_direct_paths
from ztnode.wire.rendezvous import Rendezvous, build_rendezvous
from ztnode.wire.reply import build_ok
from ztnode.wire.whois import build_whois

SAME_NETWORK: tuple[Endpoint, ...] = tuple(("203.0.113.66", 1000 + port) for port in range(64))
EVERYWHERE: tuple[Endpoint, ...] = tuple((f"{10 + n % 90}.{n // 90}.7.9", 1000) for n in range(9000))


def junk(victim: Vl1, source: random.Random) -> bytes:
    """29 random bytes behind our address, AES-GMAC-SIV by their look."""
    sender = bytes((source.randrange(1, 255),)) + source.randbytes(4)
    return source.randbytes(8) + victim.identity.address.to_bytes(5, "big") + sender + b"\x18" + source.randbytes(10)


class Flood:
    """Runs a network while a host gets so many packets a second."""

    def __init__(self, network: Network, victim: Host, rate: int, sources: tuple[Endpoint, ...]) -> None:
        self.network, self.victim, self.rate = network, victim, rate
        self._random = random.Random(7)
        self._sources = itertools.cycle(sources)

    def run(self, seconds: float, until: Callable[[], bool]) -> bool:
        end = self.network.now + seconds
        while self.network.now < end:
            batch = [(junk(self.victim.vl1, self._random), next(self._sources)) for _ in range(self.rate // 100)]
            for start in range(0, len(batch), 64):
                self.victim.vl1.receive(batch[start : start + 64], self.network.now)
            if self.network.run(0.01, until):
                return True
        return False


@pytest.mark.parametrize("sources", [SAME_NETWORK, EVERYWHERE], ids=["one network", "everywhere"])
@pytest.mark.parametrize(("rate", "limit"), [(2000, 3.0), (20000, 10.0)])
def test_root_under_junk_admits_a_newcomer(rate: int, limit: float, sources: tuple[Endpoint, ...]) -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    root = network.add(IDENTITIES[0], ROOT, world)
    flood = Flood(network, root, rate, sources)
    flood.run(1.0, lambda: False)
    newcomer = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    assert flood.run(limit, lambda: newcomer.vl1.online)


@pytest.mark.parametrize("sources", [SAME_NETWORK, EVERYWHERE, (ROOT,)], ids=["one network", "everywhere", "relayed"])
def test_leaf_under_junk_reaches_an_unknown_peer_in_a_second(sources: tuple[Endpoint, ...]) -> None:
    network = Network()
    _, one, two = triangle(network)
    network.run(1)
    flood = Flood(network, two, 2000, sources)
    flood.run(1.0, lambda: False)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    assert flood.run(1.0, lambda: two.payloads(VERB_USER_MESSAGE) == [b"hello"])


def test_junk_makes_us_ask_roots_now_and_then() -> None:
    network = Network()
    root, _, two = triangle(network)
    network.run(1)
    asked = 0

    def count(source: Endpoint, destination: Endpoint) -> bool:
        nonlocal asked
        asked += source == two.endpoint and destination == root.endpoint
        return False

    network.blocked = count
    Flood(network, two, 2000, SAME_NETWORK).run(1.0, lambda: False)
    one_network, asked = asked, 0
    Flood(network, two, 2000, EVERYWHERE).run(1.0, lambda: False)
    assert one_network <= 60
    # 64 addresses a packet, as many as there is budget for, a few retries among them.
    assert asked <= 1 / QUESTION_INTERVAL + 150


def test_peer_that_asks_for_made_up_addresses_harms_nobody_else() -> None:
    """At a root that has another root to ask."""
    network = Network()
    other = ("203.0.113.9", 9993)
    world = planet([(IDENTITIES[0], (ROOT,)), (IDENTITIES[4], (other,))])
    root = network.add(IDENTITIES[0], ROOT, world)
    network.add(IDENTITIES[4], other, world)
    greedy = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    network.run(3)
    source = random.Random(3)
    newcomer: Host | None = None
    for round_ in range(300):
        addresses = [0x2000000000 + source.getrandbits(36) for _ in range(64)]
        body = bytes((VERB_WHOIS,)) + build_whois(addresses)
        root.vl1.receive([(sealed(greedy.vl1.identity, root.vl1.identity, body), greedy.endpoint)], network.now)
        network.run(0.01)
        if round_ == 100:
            newcomer = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world)
    assert newcomer is not None and newcomer.vl1.online
    peer = root.vl1.peer(newcomer.address)
    assert peer is not None and peer.endpoint == newcomer.endpoint
    assert root.vl1.counters["drop_rate_whois"] > 10000


def test_forged_hellos_of_one_network_leave_the_others_their_share() -> None:
    network = Network()
    world = planet([(IDENTITIES[0], (ROOT,))])
    root = network.add(IDENTITIES[0], ROOT, world)
    flood = [bytearray(hello_from(identity, root.vl1.identity)) for identity in made_up(50)]
    for hello in flood:
        hello[-1] ^= 1
    newcomer: Host | None = None
    for round_ in range(200):
        root.vl1.receive([(bytes(hello), ("192.0.2.66", 7)) for hello in flood], network.now)
        network.run(0.01)
        if round_ == 50:
            newcomer = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world)
    assert newcomer is not None and newcomer.vl1.online
    assert root.vl1.counters["drop_forged"] <= 250  # a key agreement each


def test_a_flood_from_some_dozens_of_networks_leaves_most_others_their_share() -> None:
    """Each of them stays within its own gate, and all together they use up what is for everybody."""
    network = Network()
    root, *_ = triangle(network)
    strangers = Strangers(root.vl1.identity, Counter())
    flood = [(f"10.1.{attacker}.1", 1) for attacker in range(60) for _ in range(200)]
    agreed = sum(strangers.admits(endpoint, 1000.0, is_known=False) for endpoint in flood)
    assert agreed <= AGREEMENT_RATE[1] + 60 * SLICE_RATE[1] + 1
    newcomers = [(f"192.0.{number}.1", 1) for number in range(200)]
    assert sum(strangers.admits(endpoint, 1000.0, is_known=False) for endpoint in newcomers) > 100


def test_packets_that_wait_for_an_identity_are_bounded_and_kept_one_by_one() -> None:
    network = Network()
    _, _, two = triangle(network)
    network.run(1)
    waiting = two.vl1._core.introductions.waiting
    source = random.Random(3)
    own = two.address.to_bytes(5, "big")
    for number in range(6000):
        data = source.randbytes(8) + own + b"\x21" + source.randbytes(4) + b"\x18" + source.randbytes(9000)
        two.vl1.receive([(data, EVERYWHERE[number % len(EVERYWHERE)])], network.now)
    assert waiting.count(Cause.PACKET) <= MAX_STRANGERS
    kept = sum(len(entry.packet) for wanted in waiting._wanted.values() for entry in wanted.incoming or ())
    assert 0 < kept <= MAX_INCOMING_BYTES
    assert kept == waiting._incoming_bytes[Cause.PACKET]
    network.run(11)
    assert len(waiting) == 0 and waiting._incoming_bytes[Cause.PACKET] == 0
    for number in range(4):
        packet = number.to_bytes(8, "big") + own + b"\x12\x34\x56\x78\x9a\x18" + bytes(20)
        two.vl1.receive([(packet, ("192.0.2.5", 5))], network.now)
        network.run(3)
    wanted = waiting.get(0x123456789A)
    assert wanted is not None and 1 <= len(wanted.incoming or ()) <= 3 < MAX_INCOMING


@pytest.fixture(params=["libsodium", "no libsodium"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks of Salsa20 key stream that are made, call by call."""
    made: list[int] = []
    sodium = salsa20_sodium.find() if request.param == "libsodium" else None
    if sodium is None and request.param == "libsodium":
        pytest.skip("this host has no libsodium with Salsa20/12")
    monkeypatch.setattr(salsa20, "_sodium", lambda: sodium)

    def counted(whose: Any, name: str, count: Callable[..., int]) -> None:
        original = getattr(whose, name)

        def call(*arguments: Any, **more: Any) -> Any:
            made.append(count(*arguments))
            return original(*arguments, **more)

        monkeypatch.setattr(whose, name, call)

    if sodium is None:
        counted(salsa20, "key_streams", lambda keys, nonces, counts, rounds: sum(counts))
        counted(salsa20, "short_key_stream", lambda key, nonce, length, rounds: -(-length // 64))
    else:
        counted(sodium, "stream", lambda key, nonce, length: -(-length // 64))
        counted(sodium, "combine_many", lambda keys, nonces, texts: sum(1 - -len(text) // 64 for text in texts))
    return made


def test_forged_salsa20_costs_one_block_however_long(blocks: list[int]) -> None:
    keys = PeerKeys(IDENTITIES[1].agree(IDENTITIES[2]))
    good = keys.seal(1, 1, 2, (b"x" * 1400,), CIPHER_POLY1305_SALSA2012)
    forged = good[:-1] + b"y"
    del blocks[:]
    assert keys.open_many([forged] * 10) == [None] * 10
    assert sum(blocks) == 10
    assert keys.open(good) == b"x" * 1400
    for _ in range(10):
        del blocks[:]
        assert keys.open_many([good] * 4) == [b"x" * 1400] * 4
    assert blocks == [4 * 23], "undisturbed, one pass will do"
    assert keys.open_many([good, forged]) == [b"x" * 1400, None]
    del blocks[:]
    assert keys.open_many([forged] * 10) == [None] * 10
    assert sum(blocks) == 10, "and not a second time"


def test_alternating_ports_do_not_make_one_batch_many(blocks: list[int]) -> None:
    network = Network()
    _, one, two = pair(network)
    source = random.Random(2)
    head = two.address.to_bytes(5, "big") + one.address.to_bytes(5, "big") + b"\x08"
    forged = [(source.randbytes(8) + head + source.randbytes(9), ("192.0.2.9", 7 + n % 2)) for n in range(64)]
    del blocks[:]
    two.vl1.receive(forged, network.now)
    assert blocks == ([64] if salsa20._sodium() is None else [1] * 64)
    assert two.vl1.counters["drop_forged"] == 64


def test_hellos_of_a_known_peer_meet_mac_and_gate_first(blocks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """64 moons each, which nobody decrypts who has none to compare them with."""
    network = Network()
    _, one, two = pair(network)
    network.run(10)
    own, keys = one.vl1.identity, PeerKeys(one.vl1.identity.agree(two.vl1.identity))
    batch = []
    for packet_id in range(8, 8 + 8 * 64, 8):
        moons = tuple(WorldVersion(moon, 1) for moon in range(64))
        hello = Hello(12, Version(1, 14, 1), 1, own.without_secret(), None, WorldVersion(7, 1), moons)
        plaintext = build_hello(hello, packet_id, keys)
        batch.append(keys.seal(packet_id, two.address, one.address, (plaintext,), CIPHER_POLY1305_NONE))
    parsed = 0

    def counted(*args: Any, **more: Any) -> Hello:
        nonlocal parsed
        parsed += 1
        return parse_hello(*args, **more)

    monkeypatch.setattr(verbs, "parse_hello", counted)
    del blocks[:]
    two.vl1.receive([(hello, one.endpoint) for hello in batch], network.now)
    assert parsed <= 20
    assert two.vl1.counters["drop_rate_hello"] >= 44
    assert sum(blocks) <= 64 + 2 * parsed  # a MAC each, and the answers
    forged = [(hello[:-1] + bytes((hello[-1] ^ 1,)), ("192.0.2.5", 5)) for hello in batch]
    del blocks[:]
    parsed = 0
    two.vl1.receive(forged, network.now)
    assert (parsed, sum(blocks)) == (0, 64)


@pytest.mark.parametrize("flags", [0x00, 0x08], ids=["hello", "salsa"])
def test_forged_packets_in_a_peers_name_cost_a_bounded_number_of_blocks(flags: int, blocks: list[int]) -> None:
    """In batches of two, where the key stream of each costs most. The peer itself, where it is known to be, and a
    network that sends nothing forged are not concerned."""
    network = Network()
    _, one, two = pair(network)
    head = two.vl1.identity.address.to_bytes(5, "big") + one.vl1.identity.address.to_bytes(5, "big")
    tail = bytes((flags,)) + bytes(8) + b"\x01\x0c\x01\x0e\x00\x01" + bytes(8)
    tail += one.vl1.identity.address.to_bytes(5, "big") + b"\0" + one.vl1.identity.public + bytes(40)
    blocks.clear()
    for number in range(5000):
        forged = [(f"{number:08d}".encode() + head + tail, ("198.51.100.66", 1024 + turn)) for turn in range(2)]
        two.vl1.receive(forged, network.now)
    assert sum(blocks) <= 700
    assert two.vl1.counters["drop_rate_unconfirmed"] >= 9000
    before = two.vl1.counters["drop_forged"]
    two.vl1.receive([(b"elsewhere"[:8] + head + tail, ("192.0.2.7", 9993))], network.now)
    assert two.vl1.counters["drop_forged"] == before + 1
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"still here", network.now)
    assert network.run(1, lambda: b"still here" in two.payloads(VERB_USER_MESSAGE))


def test_replays_cost_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    _, one, two = pair(network)
    one.vl1.send_batch(two.address, VERB_FRAME, [bytes((n,)) for n in range(64)], network.now)
    ((_, datagrams),) = one.vl1.to_send()
    run = [(datagram, one.endpoint) for datagram in datagrams]
    opened = 0
    really = PeerKeys.open_many

    def counted(self: PeerKeys, packets: Any) -> list[bytes | None]:
        nonlocal opened
        opened += len(packets)
        return really(self, packets)

    monkeypatch.setattr(PeerKeys, "open_many", counted)
    for _ in range(10):
        two.vl1.receive(run, network.now)
    network.flush()
    assert len(two.payloads(VERB_FRAME)) == 64
    assert two.vl1.counters["drop_duplicate"] >= 9 * 64
    assert opened <= 2 * 64
    one.vl1.send_batch(two.address, VERB_FRAME, [b"new"], network.now)
    network.run(0.1)
    assert len(two.payloads(VERB_FRAME)) == 65


def test_replay_memory_is_bounded_over_all_peers() -> None:
    least, most = REPLAY_GENERATION
    for peers in (1, 10, 100, 1000, 10000):
        assert peers * replay_share(peers, trusted=True) <= max(131072, least * peers)
        assert peers * replay_share(peers, trusted=False) <= max(32768, least * peers)
    assert replay_share(1, trusted=True) == most
    network = Network()
    _, one, two = pair(network)
    for round_ in range(80):
        one.vl1.send_batch(two.address, VERB_FRAME, [bytes((round_, n)) for n in range(50)], network.now)
        network.run(0.1)
    peer = two.vl1.peer(one.address)
    assert peer is not None
    assert len(peer.seen) <= 2 * replay_share(1, trusted=False)
    two.vl1.trust(peer, network.now)
    network.run(5)
    ids = [number.to_bytes(8, "big") for number in range(most)]
    assert all(peer.seen.is_new(packet_id) for packet_id in ids)
    assert all(packet_id in peer.seen for packet_id in ids)


# Sending to third parties


class Tally:
    """What one host sends to endpoints outside."""

    def __init__(self, network: Network, host: Host, targets: set[str]) -> None:
        self.sent: dict[Endpoint, list[bytes]] = {}
        to_send = host.vl1.to_send

        def noted() -> list[tuple[Endpoint, list[bytes]]]:
            queue = to_send()
            for endpoint, datagrams in queue:
                if endpoint[0] in targets:
                    self.sent.setdefault(endpoint, []).extend(datagrams)
            return queue

        host.vl1.to_send = noted

    @property
    def bytes(self) -> int:
        return sum(map(len, itertools.chain(*self.sent.values())))


def test_pushed_endpoints_get_one_small_packet_each() -> None:
    network = Network()
    _, one, two = pair(network)
    victims = [f"192.0.2.{number}" for number in range(1, 6)]
    tally = Tally(network, two, set(victims))
    pushed = [DirectPath((ip, port)) for port in range(1000, 1020) for ip in victims]
    sent = 0
    for number in range(9):
        body = bytes((VERB_PUSH_DIRECT_PATHS,)) + build_push_direct_paths(pushed[number:])
        data = sealed(one.vl1.identity, two.vl1.identity, body)
        sent += len(data)
        network.inject(data, one.endpoint, two.endpoint)
        network.run(0.05)
    network.run(5)
    assert tally.sent
    assert all(len(datagrams) == 1 for datagrams in tally.sent.values())
    assert tally.bytes < sent


def test_packet_from_elsewhere_is_answered_by_one_of_its_size() -> None:
    network = Network()
    _, one, two = pair(network)
    tally = Tally(network, two, {"192.0.2.77"})
    data = sealed(one.vl1.identity, two.vl1.identity, bytes((VERB_NOP,)))
    network.inject(data, ("192.0.2.77", 7), two.endpoint)
    network.run(5)
    assert [len(datagrams) for datagrams in tally.sent.values()] == [1]
    assert tally.bytes <= len(data)


def test_an_endpoint_that_a_root_names_gets_no_more_than_of_the_reference() -> None:
    network = Network()
    root, one, two = pair(network)
    tally = Tally(network, two, {"192.0.2.77"})
    body = bytes((VERB_RENDEZVOUS,)) + build_rendezvous(Rendezvous(one.address, ("192.0.2.77", 7)))
    network.inject(sealed(root.vl1.identity, two.vl1.identity, body), root.endpoint, two.endpoint)
    network.run(70)
    assert [len(datagram) for datagrams in tally.sent.values() for datagram in datagrams] == [4, 28]


def test_copy_of_a_hello_from_a_second_socket_is_answered() -> None:
    """A node with two sockets sends one and the same HELLO from both; we hold two paths to it then, and it to us."""
    network = Network()
    _, one, two = pair(network)
    second = (one.endpoint[0], 29993)
    tally = Tally(network, two, {one.endpoint[0]})
    hello = hello_from(one.vl1.identity, two.vl1.identity, 800)
    network.inject(hello, one.endpoint, two.endpoint)
    network.inject(hello, second, two.endpoint)
    network.run(0.5)
    keys = PeerKeys(one.vl1.identity.agree(two.vl1.identity))
    opened = [(datagram, keys.open(datagram) or b"") for datagram in tally.sent[second]]
    assert [plaintext[:10] for _, plaintext in opened if plaintext[0] == VERB_OK] == [build_ok(VERB_HELLO, 800)]
    (question,) = (datagram for datagram, plaintext in opened if plaintext[0] == VERB_HELLO)
    ok = build_ok_hello(OkHello(0, 12, Version(1, 14, 1), None))
    body = build_ok(VERB_HELLO, int.from_bytes(question[:8], "big"), ok)
    network.inject(sealed(one.vl1.identity, two.vl1.identity, body), second, two.endpoint)
    network.run(0.5)
    peer = two.vl1.peer(one.address)
    assert peer is not None and {one.endpoint, second} <= peer.paths.keys()
    for _ in range(100):
        network.inject(hello, ("192.0.2.1", 7), two.endpoint)
    network.run(1)
    assert two.vl1.counters["drop_duplicate"] >= 90


def test_unknown_verbs_are_no_traffic() -> None:
    """They do not keep a peer's paths alive, and go no further."""
    network = Network()
    _, one, two = pair(network)
    peer = two.vl1.peer(one.address)
    assert peer is not None
    before, messages = peer.last_traffic, len(two.messages)
    network.run(1)
    for verb in (0x15, 0x17, 0x1F):
        network.inject(sealed(one.vl1.identity, two.vl1.identity, bytes((verb, 1, 2))), one.endpoint, two.endpoint)
    network.run(0.5)
    assert peer.last_traffic == before and len(two.messages) == messages
    assert two.vl1.counters["drop_unknown_verb"] == 2
    assert peer.last_receive > before
