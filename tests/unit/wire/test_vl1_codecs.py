"""Properties of the VL1 codecs: what is built is read back, and bad bytes raise WireError and nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from typing import Any

import lz4.block  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.wire import packet_views
from ztnode.wire import fragment, packet
from ztnode.wire.address import (
    controller_of,
    format_address,
    format_nwid,
    is_reserved,
    parse_address,
    parse_nwid,
)
from ztnode.wire.c25519 import derive_public
from ztnode.wire.compression import compress, decompress
from ztnode.wire.endpoint import Endpoint, build_endpoint, parse_endpoint_from, parse_ip
from ztnode.wire.hello import (
    MAX_MOONS,
    Hello,
    OkHello,
    Version,
    WorldVersion,
    build_hello,
    build_ok_hello,
    hello_identity,
    newer_worlds,
    parse_hello,
    parse_ok_hello,
)
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.push_direct_paths import (
    FLAG_CLUSTER_REDIRECT,
    FLAG_FORGET_PATH,
    DirectPath,
    build_push_direct_paths,
    parse_push_direct_paths,
)
from ztnode.wire.reader import Reader
from ztnode.wire.rendezvous import Rendezvous, build_rendezvous, parse_rendezvous
from ztnode.wire.reply import ErrorReply, OkReply, build_error, build_ok, parse_error, parse_ok
from ztnode.wire.whois import build_ok_whois, build_whois, parse_ok_whois, parse_whois
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import MAX_ROOTS, MAX_STABLE_ENDPOINTS, Root, World, WorldType

u8, u16, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 64))
addresses = st.integers(1, (0xFF << 32) - 1)
ips = st.one_of(
    st.integers(0, (1 << 32) - 1).map(lambda value: str(ipaddress.IPv4Address(value))),
    st.integers(0, (1 << 128) - 1).map(lambda value: str(ipaddress.IPv6Address(value))),
)
endpoints = st.tuples(ips, u16)
used_endpoints = st.tuples(ips, st.integers(1, 0xFFFF))
keys64 = st.binary(min_size=64, max_size=64)
identities = st.builds(Identity, addresses, keys64)
versions = st.builds(Version, u8, u8, u16)
roots = st.builds(Root, identities, st.lists(endpoints, max_size=4).map(tuple))
worlds = st.builds(
    World,
    st.sampled_from(WorldType),
    u64,
    u64,
    keys64,
    st.binary(min_size=96, max_size=96),
    st.lists(roots, max_size=MAX_ROOTS).map(tuple),
)
world_versions = st.builds(WorldVersion, u64, u64)
hellos = st.builds(
    Hello,
    u8,
    versions,
    u64,
    identities,
    st.none() | endpoints,
    world_versions,
    st.lists(world_versions, max_size=5).map(tuple),
)
ok_hellos = st.builds(OkHello, u64, u8, versions, st.none() | endpoints, st.lists(worlds, max_size=2).map(tuple))
direct_paths = st.lists(st.builds(DirectPath, endpoints, u8), max_size=8)

KEYS = PeerKeys(bytes(range(48)))
SEED = bytes(range(64))

BUILDERS: dict[str, st.SearchStrategy[bytes]] = {
    "endpoint": endpoints.map(build_endpoint),
    "identity": identities.map(Identity.build),
    "world": worlds.map(World.build),
    "hello": hellos.map(lambda hello: build_hello(hello, 7, KEYS)),
    "ok hello": ok_hellos.map(build_ok_hello),
    "ok": st.builds(build_ok, u8, u64, st.binary(max_size=40)),
    "error": st.builds(build_error, u8, u64, u8, st.binary(max_size=40)),
    "whois": st.lists(addresses, min_size=1, max_size=5).map(build_whois),
    "ok whois": st.lists(identities, min_size=1, max_size=3).map(build_ok_whois),
    "rendezvous": st.builds(Rendezvous, addresses, used_endpoints).map(build_rendezvous),
    "push direct paths": direct_paths.map(build_push_direct_paths),
    "fragment": st.binary(min_size=1500, max_size=4000).map(lambda whole: fragment.split(whole, 1432)[1]),
    "compressed": st.binary(min_size=1, max_size=50).map(lambda seed: compress(b"\x08" + seed * 20)),
}
PARSERS: dict[str, Callable[[bytes], Any]] = {
    "endpoint": lambda data: parse_endpoint_from(Reader(data)),
    "identity": Identity.parse,
    "world": World.parse,
    "hello": lambda data: (hello_identity(data), parse_hello(data, 7, KEYS)),
    "ok hello": parse_ok_hello,
    "ok": parse_ok,
    "error": parse_error,
    "whois": parse_whois,
    "ok whois": parse_ok_whois,
    "rendezvous": parse_rendezvous,
    "push direct paths": parse_push_direct_paths,
    "fragment": packet_views.parse_fragment,
    "compressed": decompress,
}


@pytest.mark.parametrize("codec", BUILDERS)
@given(data=st.data())
def test_damaged_input_raises_wire_error_only(codec: str, data: st.DataObject) -> None:
    message = bytearray(data.draw(BUILDERS[codec]))
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 2000), u8), max_size=4)):
        message[position % len(message) : position % len(message) + 1] = bytes((value,))
    del message[data.draw(st.integers(0, len(message))) :]
    with contextlib.suppress(WireError):
        PARSERS[codec](bytes(message))


@pytest.mark.parametrize("codec", PARSERS)
@given(data=st.binary(max_size=300))
def test_arbitrary_input_raises_wire_error_only(codec: str, data: bytes) -> None:
    with contextlib.suppress(WireError):
        PARSERS[codec](data)


@pytest.mark.parametrize("codec", ["identity", "world", "ok", "error", "rendezvous", "hello"])
@given(data=st.data())
def test_truncated_fixed_parts_are_noticed(codec: str, data: st.DataObject) -> None:
    message = data.draw(BUILDERS[codec])
    shortest = {"ok": 9, "error": 10, "hello": 14 + 71}.get(codec, len(message))
    with pytest.raises(WireError):
        PARSERS[codec](message[: data.draw(st.integers(0, shortest - 1))])


@given(endpoints)
def test_endpoints_survive(endpoint: Endpoint) -> None:
    reader = Reader(build_endpoint(endpoint))
    assert parse_endpoint_from(reader) == endpoint
    assert reader.remaining == 0


def test_the_kinds_of_endpoint() -> None:
    assert build_endpoint(("10.1.2.3", 9993)) == bytes.fromhex("04 0a010203 2709")
    assert build_endpoint(("2001:db8::1", 9993)) == bytes.fromhex("06 20010db8000000000000000000000001 2709")
    assert build_endpoint(None) == b"\0"
    for other in (b"\0", b"\x01" + bytes(6), b"\x02" + bytes(6), b"\x03\0\x05" + bytes(5)):
        reader = Reader(other + b"!")
        assert parse_endpoint_from(reader) is None
        assert reader.rest() == b"!"
    for bad in (("fe80::1%eth0", 1), ("host", 1), ("10.0.0.1", 65536)):
        with pytest.raises(ValueError, match=r".+"):
            build_endpoint(bad)
    with pytest.raises(WireError):
        parse_ip(b"123")


@given(st.integers(1, (0xFF << 32) - 1), st.integers(1, (1 << 64) - 1))
def test_written_addresses_survive(address: int, nwid: int) -> None:
    assert parse_address(format_address(address)) == address
    assert parse_nwid(format_nwid(nwid)) == nwid
    assert parse_nwid(format_nwid(nwid).upper()) == nwid


@pytest.mark.parametrize("text", ["", "9ad07d010", "9ad07d01093", "9ad07d010g", "0x9ad07d01", "0" * 10, "ff00000001"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_address(text)


@pytest.mark.parametrize("text", ["", "9ad07d01093a69e", "9ad07d01093a69e3a", " 9ad07d01093a69e3", "0" * 16, "٣" * 16])
def test_what_is_no_network_id(text: str) -> None:
    with pytest.raises(ValueError, match="network id"):
        parse_nwid(text)


def test_addresses_in_numbers() -> None:
    assert controller_of(0x9AD07D01093A69E3) == 0x9AD07D0109
    assert is_reserved(0)
    assert is_reserved(0xFF00000000)
    assert not is_reserved(0xFEFFFFFFFF)
    with pytest.raises(ValueError, match="40 bits"):
        format_address(1 << 40)
    with pytest.raises(ValueError, match="64 bits"):
        format_nwid(-1)


@given(identities, keys64)
def test_identities_survive(identity: Identity, secret: bytes) -> None:
    own = Identity(identity.address, identity.public, secret)
    assert Identity.parse_text(identity.build_text()) == identity
    assert Identity.parse(identity.build()) == identity
    for again in (
        Identity.parse_text(own.build_text(include_secret=True) + "\n"),
        Identity.parse(own.build(include_secret=True)),
    ):
        assert again == own
        assert again.secret == secret
    assert own.build_text() == identity.build_text()
    assert own.build() == identity.build()
    assert repr(own) == str(own) == f"<Identity {own.address:010x} with its secret>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9ad07d0109",
        "9ad07d0109:0",
        "9ad07d0109:0:00",
        f"9ad07d0109:1:{'00' * 64}",
        f"0000000000:0:{'00' * 64}",
        f"9ad07d01:0:{'00' * 64}",
        f"9ad07d0109:0:{'zz' * 64}",
        f"9ad07d0109:0:{'00' * 64}:{'00' * 63}",
        f"9ad07d0109:0:{'00' * 64}:{'00' * 64}:",
        f"9ad07d0109:0:{'00 ' * 64}",
    ],
)
def test_what_is_no_identity(text: str) -> None:
    with pytest.raises(WireError, match="not an identity"):
        Identity.parse_text(text)


def test_an_identity_without_a_secret_cannot_do_what_needs_one() -> None:
    identity = Identity(0x9AD07D0109, derive_public(SEED))
    for attempt in (
        lambda: identity.sign(b""),
        lambda: identity.agree(identity),
        lambda: identity.build_text(include_secret=True),
        lambda: identity.build(include_secret=True),
    ):
        with pytest.raises(ValueError, match="no secret"):
            attempt()


def test_a_public_key_of_small_order_is_refused() -> None:
    own = Identity(0x9AD07D0109, derive_public(SEED), SEED)
    with pytest.raises(WireError):
        own.agree(Identity(0x1122334455, bytes(64)))


def test_a_secret_that_is_not_the_public_keys_own_does_not_validate() -> None:
    assert not Identity(0x9AD07D0109, derive_public(SEED), SEED[::-1]).validate()


@given(worlds)
def test_worlds_survive(world: World) -> None:
    assert World.parse(world.build()) == world


@given(worlds, st.integers(0, 1000))
def test_a_damaged_world_is_not_accepted_as_update(world: World, position: int) -> None:
    public = derive_public(SEED)
    old = World(world.type, world.id, 5, public, bytes(96), ())
    update = World.sign(world.type, world.id, 6, public, world.roots, public=public, secret=SEED)
    assert old.may_be_replaced_by(update)
    damaged = bytearray(update.build())
    damaged[position % len(damaged)] ^= 1
    try:
        forged = World.parse(bytes(damaged))
    except WireError:
        return
    # The one place that no signature covers is what is not kept: the length of a moon's unused dictionary.
    assert forged == update or not old.may_be_replaced_by(forged)


def test_which_world_replaces_which() -> None:
    public, other = derive_public(SEED), derive_public(SEED[::-1])
    planet = World.sign(WorldType.PLANET, 1, 100, public, (), public=public, secret=SEED)

    def update(type: WorldType = WorldType.PLANET, id: int = 1, timestamp: int = 101) -> World:
        return World.sign(type, id, timestamp, other, (), public=public, secret=SEED)

    assert planet.may_be_replaced_by(update())
    assert not planet.may_be_replaced_by(update(timestamp=100))
    assert not planet.may_be_replaced_by(update(id=2))
    assert not planet.may_be_replaced_by(update(type=WorldType.MOON))
    # The key of the version after is the one that the update names.
    again = World.sign(WorldType.PLANET, 1, 102, public, (), public=public, secret=SEED)
    assert not update().may_be_replaced_by(again)


def test_worlds_are_bounded() -> None:
    public = derive_public(SEED)
    root = Root(Identity(0x9AD07D0109, public), (("10.0.0.1", 1),) * (MAX_STABLE_ENDPOINTS + 1))
    for tried in ((root,), (Root(root.identity, ()),) * (MAX_ROOTS + 1)):
        with pytest.raises(ValueError, match="at most"):
            World.sign(WorldType.PLANET, 1, 1, public, tried, public=public, secret=SEED)
        oversize = World(WorldType.PLANET, 1, 1, public, bytes(96), tried)
        with pytest.raises(WireError, match="is the most"):
            World.parse(oversize.build())
    with pytest.raises(WireError, match="follow"):
        World.parse(World(WorldType.PLANET, 1, 1, public, bytes(96), ()).build() + b"\0")


@given(hellos, u64)
def test_hellos_survive(hello: Hello, packet_id: int) -> None:
    plaintext = build_hello(hello, packet_id, KEYS)
    assert parse_hello(plaintext, packet_id, KEYS) == hello
    assert hello_identity(plaintext) == hello.identity


def test_hellos_of_older_nodes() -> None:
    hello = Hello(12, Version(1, 14, 1), 5, Identity(0x9AD07D0109, bytes(64)), None, WorldVersion(1, 2))
    plaintext = build_hello(hello, 0, KEYS)
    short = 1 + 13 + 71
    assert parse_hello(plaintext[:short], 0, KEYS) == Hello(12, hello.version, 5, hello.identity, None, None)
    assert parse_hello(plaintext[: short + 1 + 16], 0, KEYS) == hello


def test_more_moons_than_anybody_has_are_not_read() -> None:
    moons = tuple(WorldVersion(number, 0) for number in range(MAX_MOONS + 1))
    hello = Hello(12, Version(1, 14, 1), 5, Identity(0x9AD07D0109, bytes(64)), None, WorldVersion(1, 2), moons)
    assert parse_hello(build_hello(hello, 0, KEYS), 0, KEYS).moons == moons[:MAX_MOONS]


def test_moons_in_a_hello_are_not_readable_without_the_key() -> None:
    moon = WorldVersion(0x1122334455667788, 0x99AABBCCDDEEFF00)
    hello = Hello(12, Version(1, 14, 1), 5, Identity(0x9AD07D0109, bytes(64)), None, WorldVersion(1, 2), (moon,))
    assert moon.id.to_bytes(8, "big") not in build_hello(hello, 1234, KEYS)


@given(ok_hellos)
def test_ok_hellos_survive(ok: OkHello) -> None:
    assert parse_ok_hello(build_ok_hello(ok)) == ok


def test_which_worlds_are_sent_along() -> None:
    def world(type: WorldType, id: int) -> World:
        return World(type, id, 50, bytes(64), bytes(96), ())

    planet, moon = world(WorldType.PLANET, 1), world(WorldType.MOON, 2)

    def worlds_for(planet_version: WorldVersion | None, *moon_versions: WorldVersion) -> list[World]:
        identity = Identity(0x9AD07D0109, bytes(64))
        hello = Hello(12, Version(1, 14, 1), 5, identity, None, planet_version, moon_versions)
        return list(newer_worlds(hello, planet, [moon]))

    assert worlds_for(None) == []
    assert worlds_for(WorldVersion(1, 50), WorldVersion(2, 50)) == []
    assert worlds_for(WorldVersion(1, 49), WorldVersion(2, 0)) == [planet, moon]
    assert worlds_for(WorldVersion(9, 0), WorldVersion(3, 0)) == []


def test_the_worlds_sent_along_fit_a_packet() -> None:
    endpoints = (("2001:db8::1", 9993),) * MAX_STABLE_ENDPOINTS
    roots = (Root(Identity(0x9AD07D0109, bytes(64)), endpoints),) * MAX_ROOTS
    moons = [World(WorldType.MOON, number, 50, bytes(64), bytes(96), roots) for number in range(16)]
    planet = World(WorldType.PLANET, 99, 50, bytes(64), bytes(96), roots)
    wanted = tuple(WorldVersion(moon.id, 0) for moon in moons)
    hello = Hello(12, Version(1, 14, 1), 5, roots[0].identity, None, WorldVersion(99, 0), wanted)
    worlds = newer_worlds(hello, planet, moons)
    assert worlds == [planet, *moons[: len(worlds) - 1]]
    ok = build_ok_hello(OkHello(5, 12, Version(1, 14, 1), ("2001:db8::2", 9993), tuple(worlds)))
    sealed = KEYS.seal(1, 2, 3, (build_ok(packet.VERB_HELLO, 1, ok),))
    assert packet.MAX_PACKET_LENGTH - len(sealed) < len(planet.build()) + 100


@given(u8, u64, u8, st.binary(max_size=100))
def test_replies_survive(verb: int, packet_id: int, code: int, payload: bytes) -> None:
    verb &= packet.VERB_MASK
    assert parse_ok(build_ok(verb, packet_id, payload)[1:]) == OkReply(verb, packet_id, payload)
    assert parse_error(build_error(verb, packet_id, code, payload)[1:]) == ErrorReply(verb, packet_id, code, payload)


@given(st.lists(addresses, min_size=1, max_size=9), st.lists(identities, max_size=3), st.binary(max_size=4))
def test_whois_survives(asked: list[int], found: list[Identity], incomplete: bytes) -> None:
    assert parse_whois(build_whois(asked) + incomplete) == asked
    assert parse_ok_whois(build_ok_whois(found)) == found


@given(addresses, used_endpoints)
def test_rendezvous_survives(address: int, endpoint: Endpoint) -> None:
    rendezvous = Rendezvous(address, endpoint)
    assert parse_rendezvous(build_rendezvous(rendezvous)) == rendezvous


@given(direct_paths)
def test_direct_paths_survive(paths: list[DirectPath]) -> None:
    assert parse_push_direct_paths(build_push_direct_paths(paths)) == paths


def test_direct_paths_of_other_kinds_are_passed_over() -> None:
    payload = bytes.fromhex("0003 00 0002 beef 04 06 0a000001 2709  00 0000 05 02 ffff  03 0000 04 06 0a000002 0001")
    assert parse_push_direct_paths(payload) == [DirectPath(("10.0.0.1", 9993)), DirectPath(("10.0.0.2", 1), 3)]
    assert DirectPath(("10.0.0.1", 1), FLAG_FORGET_PATH).forget
    assert DirectPath(("10.0.0.1", 1), FLAG_CLUSTER_REDIRECT).redirect


@given(st.binary(min_size=28, max_size=packet.MAX_PACKET_LENGTH), st.integers(1400, 1500))
@example(bytes(packet.MAX_PACKET_LENGTH - 6 * fragment.OFFSET_DATA), 1432)
def test_fragments_join(whole: bytes, mtu: int) -> None:
    try:
        datagrams = fragment.split(whole, mtu)
    except ValueError:
        assert len(whole) > mtu + 6 * (mtu - fragment.OFFSET_DATA)
        return
    assert all(len(datagram) <= mtu for datagram in datagrams)
    head, *rest = datagrams
    parsed = [packet_views.parse_fragment(datagram) for datagram in rest]
    assert [part.number for part in parsed] == list(range(1, len(datagrams)))
    assert all(part.total == len(datagrams) for part in parsed)
    assert all(part.packet_id == packet.packet_id(whole) for part in parsed)
    assert all(part.destination == packet.destination(whole) for part in parsed)
    assert head + b"".join(part.data for part in parsed) == whole
    assert {len(datagram) for datagram in datagrams[:-1]} <= {len(head)}
    for datagram in rest:
        assert fragment.join_halves(head, datagram) == (whole if len(rest) == 1 else None)


def test_halves_of_different_packets_and_too_much_in_two_are_not_joined() -> None:
    head, second = fragment.split(bytes(range(200)), 150)
    assert fragment.join_halves(head, second) == bytes(range(200))
    assert fragment.join_halves(head, head) is None
    for index in (0, 7, 8, 12, 13, 14):  # id, destination, indicator, number
        assert fragment.join_halves(head, second[:index] + b"\x55" + second[index + 1 :]) is None
    assert fragment.join_halves(head, second[:15] + b"\7" + second[16:]) == bytes(range(200))  # hops of a relay
    assert fragment.join_halves(head, second + bytes(packet.MAX_PACKET_LENGTH)) is None


def test_an_mtu_without_room_for_fragments_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        fragment.split(bytes(100), fragment.OFFSET_DATA)


@pytest.mark.parametrize("numbers", ["00", "11", "22", "80", "81", "87", "f1", "20"])
def test_what_is_no_fragment(numbers: str) -> None:
    datagram = bytes(13) + b"\xff" + bytes.fromhex(numbers) + b"\0data"
    with pytest.raises(WireError):
        packet_views.parse_fragment(datagram)


def test_relays_add_a_hop_up_to_the_most() -> None:
    whole = KEYS.seal(1, 2, 3, (b"\x08echo",))
    datagram = bytes(13) + b"\xff\x21\0data"
    for expected in (1, 2, 3, 4, 5, 6, 7, 7):
        whole, datagram = packet.with_hop_added(whole), fragment.with_hop_added(datagram)
        assert packet.hops(whole) == packet_views.parse_fragment(datagram).hops == expected
    assert KEYS.open(whole) == b"\x08echo"
    for short in (b"", bytes(16)):
        with pytest.raises(WireError):
            packet.with_hop_added(short)
        with pytest.raises(WireError):
            fragment.with_hop_added(short)


@given(st.binary(min_size=1, max_size=200), st.integers(1, 40))
def test_compression_survives(seed: bytes, repeats: int) -> None:
    plaintext = b"\x06" + seed * repeats
    packed = compress(plaintext)
    assert len(packed) <= len(plaintext)
    assert decompress(packed) == plaintext


def test_decompression_is_bounded() -> None:
    bomb = b"\x86" + lz4.block.compress(bytes(1 << 24), store_size=False)
    with pytest.raises(WireError):
        decompress(bomb)
    with pytest.raises(WireError):
        decompress(b"")
    largest = packet.MAX_PACKET_LENGTH - packet.OFFSET_PAYLOAD
    assert decompress(b"\x86" + lz4.block.compress(bytes(largest), store_size=False)) == b"\x06" + bytes(largest)
    with pytest.raises(WireError):
        decompress(b"\x86" + lz4.block.compress(bytes(largest + 1), store_size=False))
    assert decompress(b"\x86") == b"\x06"
