"""Routes, path MTUs, port numbers, rate limits and fragments: the stack's tables, each on its own."""

from __future__ import annotations

import itertools
import random
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.netstack.ephemeral import choose_port
from ztnode.netstack.path_mtu_cache import FLOOR_IPV4, FLOOR_IPV6, PathMtuCache
from ztnode.netstack.reassembler import Reassembler
from ztnode.netstack.routing_table import NextHop, RoutingTable


def packed(text: str) -> bytes:
    return ip_address(text).packed


# --- routes ---


def test_longest_prefix_wins_over_all_ports() -> None:
    table = RoutingTable()
    table.replace(1, ["10.1.0.7/16"], [("0.0.0.0/0", "10.1.0.1"), ("10.2.3.0/24", "10.1.0.9")])
    table.replace(2, ["10.2.0.7/16", "fd00::7/64"], [("fd00:1::/32", "fd00::1")])
    every = {1, 2}
    assert table.lookup(packed("10.1.200.1"), every) == NextHop(0, 1)
    assert table.lookup(packed("10.2.200.1"), every) == NextHop(0, 2)
    assert table.lookup(packed("10.2.3.4"), every) == NextHop(0, 1, packed("10.1.0.9"))
    assert table.lookup(packed("10.2.3.4"), {2}) == NextHop(0, 2)
    assert table.lookup(packed("192.0.2.1"), every) == NextHop(0, 1, packed("10.1.0.1"))
    assert table.lookup(packed("fd00:1::5"), every) == NextHop(0, 2, packed("fd00::1"))
    assert table.lookup(packed("2001:db8::1"), every) is None
    table.remove(1)
    assert table.lookup(packed("192.0.2.1"), every) is None


def test_metric_then_index_decide_between_equal_prefixes() -> None:
    table = RoutingTable()
    table.replace(3, ["10.0.0.3/24"], [], metric=0)
    table.replace(1, ["10.0.0.1/24"], [], metric=5)
    table.replace(2, ["10.0.0.2/24"], [("10.0.0.0/24", "10.0.0.9")], metric=5)
    answer = [table.lookup(packed("10.0.0.77"), ports) for ports in ({1, 2, 3}, {1, 2}, {2})]
    assert answer == [NextHop(0, 3), NextHop(5, 1), NextHop(5, 2)]


def test_gateways_of_the_wrong_family_are_left_out() -> None:
    table = RoutingTable()
    table.replace(0, [], [("10.0.0.0/8", "fd00::1")])
    assert table.lookup(packed("10.1.1.1"), {0}) is None
    with pytest.raises(ValueError, match="does not appear"):
        table.replace(0, ["nonsense"], [])


NETWORK = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 32)).map(lambda p: ip_network(p, strict=False))


@given(st.lists(NETWORK, max_size=12), st.integers(0, (1 << 32) - 1))
def test_lookup_is_the_linear_search(networks: list[object], value: int) -> None:
    """Against the definition: of all networks that contain the address, the longest."""
    table = RoutingTable()
    for index, network in enumerate(networks):
        table.replace(index, [str(network)], [])
    address = ip_address(value)
    best = max(
        ((network.prefixlen, -index) for index, network in enumerate(networks) if address in network),  # type: ignore[attr-defined, operator]
        default=None,
    )
    route = table.lookup(address.packed, range(len(networks)))
    assert (route.port_index if route else None) == (-best[1] if best else None)


# --- path MTU ---


def test_path_mtu_only_falls_and_comes_back_after_ten_minutes() -> None:
    cache = PathMtuCache(10, 600)
    key = (0, packed("10.0.0.1"))
    assert cache.get(key, 2800) == 2800
    assert cache.lower(key, 1400, 2800, now=0) == 1400
    assert cache.lower(key, 1500, 1400, now=1) is None
    assert cache.get(key, 2800) == 1400
    assert cache.get(key, 1300) == 1300
    assert cache.next_timer() == 600
    assert cache.handle_timer(599) == []
    assert cache.handle_timer(600) == [key]
    assert cache.get(key, 2800) == 2800
    assert cache.next_timer() is None


def test_path_mtu_has_a_floor_and_a_bound() -> None:
    cache = PathMtuCache(2, 600)
    assert cache.lower((0, packed("10.0.0.1")), 68, 2800, now=0) == FLOOR_IPV4
    assert cache.lower((0, packed("fd00::1")), 68, 2800, now=0) == FLOOR_IPV6
    assert cache.lower((0, packed("fd00::2")), 1279, 1280, now=0) is None
    assert cache.lower((0, packed("fd00::2")), 1300, 2800, now=0) == 1300
    assert cache.get((0, packed("10.0.0.1")), 2800) == 2800  # the oldest had to go


# --- port numbers, rates ---


def test_ports_are_spread_and_never_taken_ones() -> None:
    generator = random.Random(1)
    taken: set[int] = set()
    for _ in range(100):
        port = choose_port(generator.randbytes, (40000, 40099), taken)
        assert port is not None
        assert 40000 <= port <= 40099
        assert port not in taken
        taken.add(port)
    assert choose_port(generator.randbytes, (40000, 40099), taken) is None


# --- fragments ---

KEY = (0, b"source", b"destination", 17, 4711)


def reassembler(max_bytes: int = 1 << 20, max_datagrams: int = 8, max_fragments: int = 128) -> Reassembler:
    return Reassembler(
        max_bytes=max_bytes, max_datagrams=max_datagrams, max_fragments=max_fragments, timeout=30, counters={}
    )


def add(table: Reassembler, offset: int, data: bytes, more: bool, key: object = KEY) -> tuple[int, bytes, bytes] | None:
    packet = memoryview(b"another" if offset else b"packet")
    return table.add(key, offset, more, 17, memoryview(data), packet, 0.0)  # type: ignore[arg-type]


@given(
    st.binary(min_size=9, max_size=400),
    st.lists(st.integers(1, 49), min_size=1, max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_any_order_and_duplicates_give_the_datagram(data: bytes, cuts: list[int], generator: random.Random) -> None:
    edges = sorted({0, *(8 * cut for cut in cuts if 8 * cut < len(data)), len(data)})
    pieces = [(start, data[start:end], end < len(data)) for start, end in itertools.pairwise(edges)]
    last = generator.choice(pieces)
    others = [piece for piece in pieces if piece is not last]
    others += generator.sample(others, len(others) // 2)
    generator.shuffle(others)
    table = reassembler()
    for piece in others:
        assert add(table, *piece) is None
    assert add(table, *last) == (17, data, b"packet")
    assert len(table) == 0
    assert table.buffered == 0


@pytest.mark.parametrize(
    ("offset", "size", "more"),
    [(0, 24, True), (8, 8, True), (8, 16, True), (24, 16, True), (40, 8, True), (32, 16, False), (16, 24, False)],
)
def test_overlaps_kill_the_datagram(offset: int, size: int, more: bool) -> None:
    """RFC 5722: all that came and all that will come is dropped."""
    table = reassembler()
    assert add(table, 0, bytes(16), True) is None
    assert add(table, 32, bytes(8), False) is None
    assert add(table, offset, b"\1" * size, more) is None
    assert table.counters == {"overlapping_fragment": 1}
    assert table.buffered == 0
    assert add(table, 16, bytes(16), True) is None  # what would have made it whole
    assert add(table, 0, bytes(16), True) is None
    assert len(table) == 1  # remembered as dead until its time is over
    assert table.handle_timer(30.0) == []
    assert len(table) == 0


@pytest.mark.parametrize(("offset", "size", "more"), [(0, 0, True), (0, 7, True), (65528, 8, False), (65520, 64, True)])
def test_bad_fragments_are_dropped(offset: int, size: int, more: bool) -> None:
    table = reassembler()
    assert add(table, offset, bytes(size), more) is None
    assert table.counters == {"bad_fragment": 1}
    assert len(table) == 0


def test_memory_is_bounded() -> None:
    table = reassembler(max_bytes=10_000, max_datagrams=5, max_fragments=4)
    for number in range(100):
        assert add(table, 0, bytes(1000), True, key=(0, b"", b"", 0, number)) is None
        assert len(table) <= 5
    for number in range(3):
        for piece in range(3):
            add(table, 8 + piece * 1600, bytes(1600), True, key=(0, b"", b"", 1, number))
            assert table.buffered <= 10_000
    many = reassembler(max_fragments=4)
    for piece in range(5):
        add(many, piece * 16, bytes(8), True)
    assert many.counters == {"too_many_fragments": 1}
    assert many.buffered == 0


def test_too_old_ones_are_given_up() -> None:
    table = reassembler()
    add(table, 0, bytes(8), True)
    add(table, 8, bytes(8), True, key=(0, b"", b"", 0, 1))
    assert table.next_timer() == 30.0
    assert table.handle_timer(29.9) == []
    # Only of the first is the first fragment here, which an error must quote.
    assert table.handle_timer(30.0) == [(KEY, b"packet")]
    assert table.next_timer() is None
