"""The parts of VL1 one by one."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.vl1.vl1_network import IDENTITIES, planet
from ztnode.seen_ids import SeenIds
from ztnode.token_bucket import TokenBucket
from ztnode.vl1 import Path, Peer
from ztnode.vl1.gates import Cutoff, Interval, KeyedBucket, KeyedInterval
from ztnode.vl1.packet_assembler import TIMEOUT, PacketAssembler
from ztnode.vl1.peer import FIRST_REPLAY_GENERATION, MAX_PATHS, MAX_UNTRUSTED_PATHS
from ztnode.vl1.scope import PATH_SCOPES, Scope, scope_of
from ztnode.vl1.self_awareness import SelfAwareness
from ztnode.vl1.topology import Topology
from ztnode.vl1.traffic import Traffic
from ztnode.vl1.transmit import MAX_EXPECTED, MAX_PAYLOAD, Expected, Transmit, longest_payload
from ztnode.vl1.trusted_paths import TrustedPaths
from ztnode.wire.fragment import OFFSET_DATA, split
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import DEFAULT_PHYSICAL_MTU, OFFSET_PAYLOAD

ENDPOINT = ("203.0.113.5", 9993)


def peer(index: int = 2) -> Peer:
    return Peer(IDENTITIES[index].without_secret(), PeerKeys(IDENTITIES[1].agree(IDENTITIES[index])))


# Scopes, as InetAddress::ipScope has them


@pytest.mark.parametrize(
    ("ip", "scope"),
    [
        ("0.1.2.3", Scope.NONE),
        ("255.255.255.255", Scope.NONE),
        ("127.0.0.1", Scope.LOOPBACK),
        ("224.0.0.1", Scope.MULTICAST),
        ("239.255.255.255", Scope.MULTICAST),
        ("169.254.9.9", Scope.LINK_LOCAL),
        ("6.1.1.1", Scope.PSEUDOPRIVATE),
        ("30.0.0.1", Scope.PSEUDOPRIVATE),
        ("240.0.0.1", Scope.PSEUDOPRIVATE),
        ("10.0.0.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("100.128.0.1", Scope.GLOBAL),
        ("172.31.0.1", Scope.PRIVATE),
        ("172.32.0.1", Scope.GLOBAL),
        ("192.168.3.4", Scope.PRIVATE),
        ("198.18.0.1", Scope.PRIVATE),
        ("8.8.8.8", Scope.GLOBAL),
        ("::", Scope.NONE),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("fe80::2", Scope.LINK_LOCAL),
        ("fe80::1", Scope.LOOPBACK),
        ("fe80::1:1", Scope.LINK_LOCAL),
        ("56.1.2.3", Scope.PSEUDOPRIVATE),
        ("fe80::2%eth0", Scope.NONE),
        ("ff02::1", Scope.MULTICAST),
        ("fd00::1", Scope.PRIVATE),
        ("2001:db8::1", Scope.GLOBAL),
        ("a name", Scope.NONE),
        ("", Scope.NONE),
    ],
)
def test_scope(ip: str, scope: Scope) -> None:
    assert scope_of(ip) is scope


@given(st.ip_addresses())
def test_every_address_has_a_scope_and_near_ones_are_preferred(address: object) -> None:
    scope = scope_of(str(address))
    assert scope in Scope
    assert Scope.LOOPBACK not in PATH_SCOPES
    near, far = Path(("10.0.0.1", 1), 0.0), Path((str(address), 1), 0.0)
    if scope in PATH_SCOPES and not far.is_ipv6:
        assert near.cost <= far.cost


# Gates


def test_interval() -> None:
    gate = Interval(1.0)
    assert [gate.admit(now) for now in (5.0, 5.5, 6.0, 6.9, 7.0)] == [True, False, True, False, True]


def test_token_bucket() -> None:
    bucket = TokenBucket(rate=2, burst=4)
    assert [bucket.admit(10.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [bucket.admit(11.0) for _ in range(3)] == [True, True, False]
    assert sum(bucket.admit(1000.0) for _ in range(10)) == 4


def test_cutoff_needs_quiet() -> None:
    gate = Cutoff(limit=3, seconds=10.0)
    assert [gate.admit(now) for now in (0.0, 1.0, 2.0, 3.0, 12.0)] == [True, True, True, False, False]
    assert gate.admit(23.0)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5)), max_size=200))
def test_keyed_gates_are_bounded(requests: list[tuple[int, float]]) -> None:
    interval, bucket = KeyedInterval(1.0, 8), KeyedBucket(1.0, 2.0, 8)
    admitted: dict[int, float] = {}
    now = 0.0
    for key, step in requests:
        now += step
        if interval.admit(key, now):
            assert now - admitted.get(key, -10.0) >= 1.0
            admitted[key] = now
        bucket.admit(key, now)
        assert len(interval._last) <= 8
        assert len(bucket._buckets) <= 8


# Fragments


@settings(max_examples=60)
@given(st.lists(st.integers(1433, 9000), min_size=1, max_size=6), st.integers(), st.booleans())
def test_fragments_in_any_order(sizes: list[int], seed: int, duplicated: bool) -> None:
    shuffler = random.Random(seed)
    packets = []
    for number, size in enumerate(sizes):
        packets.append(number.to_bytes(8, "big") + b"dests" + b"source" + shuffler.randbytes(size - 19))
    datagrams = [(index == 0, datagram) for packet in packets for index, datagram in enumerate(split(packet, 1432))]
    if duplicated:
        datagrams += [entry for entry in datagrams if entry[0]]
    shuffler.shuffle(datagrams)
    reassembler = PacketAssembler(64, Counter())
    whole = []
    for is_head, datagram in datagrams:
        take = reassembler.head if is_head else reassembler.fragment
        if (result := take(datagram, ENDPOINT, 0.0)) is not None:
            whole.append(result[0])
    assert sorted(whole) == sorted(packets)


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=17, max_size=60)), max_size=60))
def test_fragments_of_rubbish_stay_bounded(datagrams: list[tuple[bool, bytes]]) -> None:
    reassembler = PacketAssembler(4, Counter())
    for is_head, datagram in datagrams:
        (reassembler.head if is_head else reassembler.fragment)(datagram, ENDPOINT, 0.0)
        assert len(reassembler) <= 4
    reassembler.purge(TIMEOUT)
    assert len(reassembler) == 0


@pytest.mark.parametrize("size", [60_000, 11_000])
@pytest.mark.parametrize("total", [2, 3])
def test_oversized_fragments_are_refused(size: int, total: int) -> None:
    counters: Counter[str] = Counter()
    reassembler = PacketAssembler(4, counters)
    reassembler.head(bytes(1000), ENDPOINT, 0.0)
    for number in range(1, total):
        data = bytes(13) + bytes((0xFF, total << 4 | number, 0)) + bytes(size)
        assert reassembler.fragment(data, ENDPOINT, 0.0) is None
        if counters["drop_oversized"]:
            break
    assert counters["drop_oversized"] == 1
    assert len(reassembler) == 0


# Transmit


def transmit(mtu: int = DEFAULT_PHYSICAL_MTU, first: bytes = bytes(8)) -> Transmit:
    world = planet([(IDENTITIES[0], (ENDPOINT,))])
    topology = Topology(IDENTITIES[1], world, (), {}, 100, 100, lambda event: None, Counter())
    return Transmit(topology, lambda count: first[:count], mtu, TrustedPaths(()), Traffic())


def test_packet_ids_do_not_repeat_even_at_the_end_of_the_numbers() -> None:
    sender = transmit(first=b"\xff" * 7 + b"\xf0")
    seen = [sender.new_id() for _ in range(10)]
    batch = sender._new_ids(20)
    seen += [int.from_bytes(batch[start : start + 8], "big") for start in range(0, 160, 8)]
    seen += [sender.new_id() for _ in range(10)]
    assert len(set(seen)) == 40


def test_hello_ids_differ_beyond_their_last_three_bits() -> None:
    sender = transmit(first=random.Random(1).randbytes(8))
    ids = []
    for _ in range(20):
        ids.append(sender.new_hello_id())
        sender.new_id()
    assert len({number >> 3 for number in ids}) == 20


def test_expected_answers_are_bounded() -> None:
    sender = transmit()
    for number in range(MAX_EXPECTED + 10):
        sender.expect(number, Expected(1, 2, 3.0))
    assert sender.expected(9) is None
    assert sender.expected(10) == Expected(1, 2, 3.0)
    sender.expect_no_more(10)
    assert sender.expected(10) is None


@given(st.integers(300, 9000))
def test_longest_payload_needs_seven_datagrams(mtu: int) -> None:
    longest = longest_payload(mtu)
    datagrams = split(bytes(longest + OFFSET_PAYLOAD), mtu)
    assert len(datagrams) <= 7
    assert all(len(datagram) <= mtu for datagram in datagrams)
    assert longest_payload(DEFAULT_PHYSICAL_MTU) == MAX_PAYLOAD == 7 * (1432 - OFFSET_DATA) + 16 - 28


def test_batches_of_any_size_and_kind() -> None:
    sender, other = transmit(), peer()
    other.protocol = 12
    path = Path(("203.0.113.9", 1), 0.0)
    frames = [b"frame %d" % number for number in range(150)]
    payloads = [frame if number % 2 else (frame[:3], memoryview(frame)[3:]) for number, frame in enumerate(frames)]
    sender.send_batch(other, 6, payloads, path, 5.0)
    ((endpoint, datagrams),) = sender.take()
    receiver = PeerKeys(IDENTITIES[2].agree(IDENTITIES[1]))
    assert endpoint == path.endpoint
    assert receiver.open_many(datagrams) == [b"\x06" + frame for frame in frames]
    assert path.last_send == 5.0
    assert sender.take() == []


# Peers and paths


def test_replay_memory_forgets_the_oldest_only() -> None:
    someone = peer()
    ids = [number.to_bytes(8, "big") for number in range(5000)]
    assert all(someone.seen.is_new(packet_id) for packet_id in ids)
    assert not any(someone.seen.is_new(packet_id) for packet_id in ids[-FIRST_REPLAY_GENERATION:])
    assert len(someone.seen) <= 2 * FIRST_REPLAY_GENERATION


@given(st.lists(st.integers(0, 40), max_size=60), st.lists(st.integers(0, 40), max_size=60), st.integers(0, 7))
def test_replay_memory_takes_what_others_have_seen_as_its_own(own: list[int], others: list[int], odd: int) -> None:
    ids = [number.to_bytes(8, "big") for number in others]
    singly, at_once = SeenIds(32), SeenIds(32)
    for memory in (singly, at_once):
        for number in own:
            memory.is_new(number.to_bytes(8, "big"))
    for wire_id in ids:
        singly.is_new(wire_id)
    at_once.add(memoryview(b"".join(ids) + bytes(odd)))  # half an id is none
    assert sorted(singly.some(100)) == sorted(at_once.some(100))
    assert len(at_once) <= 2 * 32


def test_paths_are_bounded_and_the_best_is_kept_until_a_clearly_better_one() -> None:
    someone = peer()
    for number in range(MAX_PATHS + 5):
        someone.learn((f"8.8.8.{number}", 1), float(number))
    assert len(someone.paths) == MAX_UNTRUSTED_PATHS
    someone.trusted_until = 1e9
    for number in range(MAX_PATHS + 5):
        someone.learn((f"8.8.8.{number}", 1), float(number))
    assert len(someone.paths) == MAX_PATHS
    assert ("8.8.8.0", 1) not in someone.paths
    for path in someone.paths.values():
        path.latency = 0.1
    assert someone.choose_path()
    first = someone.path
    other = next(path for path in someone.paths.values() if path is not first)
    other.latency = 0.09
    assert not someone.choose_path()
    other.latency = 0.01
    assert someone.choose_path()
    assert someone.path is other
    other.dead = True
    assert someone.choose_path()
    assert someone.path is not other
    for path in someone.paths.values():
        path.dead = True
    assert someone.choose_path()
    assert someone.path is None
    assert someone.last_resort() is not None


def test_of_the_ports_of_one_host_the_one_that_the_peer_uses_is_the_best() -> None:
    """The reference sends from several, and a transfer's queue makes the one in use seem slow."""
    someone = peer()
    first, second, far = (someone.learn(endpoint, 0.0) for endpoint in (("8.8.8.8", 1), ("8.8.8.8", 2), ("8.8.4.4", 1)))
    first.latency, second.latency, far.latency = 0.01, 0.02, 0.05
    assert someone.choose_path()
    assert someone.path is first
    first.latency = 0.04  # of which the other port is not free
    assert not someone.choose_path()
    someone.traffic_from = second.endpoint
    assert someone.choose_path()
    assert someone.path is second
    second.probes = 2  # it does not answer
    assert someone.choose_path()
    assert someone.path is first
    second.probes, first.probes = 0, 3
    assert someone.choose_path()
    assert someone.path is second
    someone.traffic_from = far.endpoint
    second.latency = 0.03
    assert not someone.choose_path()
    far.latency = 0.001
    assert someone.choose_path()
    assert someone.path is far


# Self-awareness


def test_surface_change_is_news_from_a_root_alone() -> None:
    awareness = SelfAwareness()
    root, other = ("8.8.8.8", 1), ("9.9.9.9", 1)
    assert awareness.report(1, root, ("5.5.5.5", 10), trusted=True, now=0.0) is None
    assert awareness.report(2, other, ("5.5.5.5", 11), trusted=False, now=0.0) is None
    assert awareness.report(2, other, ("7.7.7.7", 11), trusted=False, now=1.0) is None
    assert awareness.report(1, root, ("5.5.5.5", 99), trusted=True, now=1.0) is None
    assert awareness.report(1, root, ("7.7.7.7", 10), trusted=True, now=2.0) is Scope.GLOBAL
    assert awareness.surface_addresses() == [("7.7.7.7", 10)]
    assert awareness.report(2, other, ("7.7.7.7", 11), trusted=True, now=3.0) is None


@pytest.mark.parametrize("surface", [("127.0.0.1", 5), ("10.0.0.1", 5), ("5.5.5.5", 0), ("224.0.0.1", 5)])
def test_surface_of_another_scope_is_ignored(surface: tuple[str, int]) -> None:
    awareness = SelfAwareness()
    awareness.report(1, ("8.8.8.8", 1), surface, trusted=True, now=0.0)
    assert awareness.surface_addresses() == []


def test_what_strangers_say_of_us_never_pushes_out_what_roots_and_members_say() -> None:
    awareness = SelfAwareness()
    for number in range(40):
        awareness.report(1000 + number, ("8.8.8.8", number + 1), ("6.6.6.6", 10 + number), trusted=False, now=0.0)
    awareness.report(1, ("8.8.8.8", 1), ("5.5.5.6", 9993), trusted=False, now=0.0, known=True)
    awareness.report(2, ("8.8.4.4", 1), ("5.5.5.5", 9993), trusted=True, now=0.0)
    for number in range(1000):
        awareness.report(2000 + number, ("8.8.8.8", number + 1), ("6.6.6.6", 10 + number), trusted=False, now=0.0)
    assert awareness.surface_addresses()[:2] == [("5.5.5.5", 9993), ("5.5.5.6", 9993)]
    for number in range(1000):
        awareness.report(5000 + number, ("8.8.4.4", number + 2), ("5.5.5.5", number + 1), trusted=True, now=0.0)
    assert len(awareness.surface_addresses()) == 256
    awareness.report(9999, ("8.8.8.8", 1), ("6.6.6.6", 1), trusted=False, now=0.0)
    assert ("6.6.6.6", 1) not in awareness.surface_addresses()


def test_surface_reports_are_bounded_and_expire() -> None:
    awareness = SelfAwareness()
    for number in range(1000):
        awareness.report(number, ("8.8.8.8", number + 1), ("5.5.5.5", 10 + number), trusted=False, now=0.0)
    assert len(awareness.surface_addresses()) == 256
    awareness.expire(600.0)
    assert awareness.surface_addresses() == []
