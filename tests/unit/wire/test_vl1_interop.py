"""The VL1 codecs against bytes that ZeroTier One made (see tests/vectors/vl1/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.wire import packet_views
from ztnode.wire import packet
from ztnode.wire.compression import compress, decompress
from ztnode.wire.default_planet import DEFAULT_PLANET
from ztnode.wire.hello import Hello, Version, build_hello, hello_identity, parse_hello, parse_ok_hello
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.push_direct_paths import build_push_direct_paths, parse_push_direct_paths
from ztnode.wire.rendezvous import build_rendezvous, parse_rendezvous
from ztnode.wire.reply import build_ok, parse_ok
from ztnode.wire.whois import build_ok_whois, build_whois, parse_ok_whois, parse_whois
from ztnode.wire.world import PLANET_ID_EARTH, World, WorldType, moon_file_name

VECTORS = Path(__file__).parents[2] / "vectors" / "vl1"
PACKETS: dict[str, Any] = json.loads((VECTORS / "packets.json").read_text())
EXCHANGES: dict[str, Any] = json.loads((VECTORS / "exchanges.json").read_text())
IDENTITIES: dict[str, Any] = json.loads((VECTORS / "identities.json").read_text())
MOONS: dict[str, Any] = json.loads((VECTORS / "moons.json").read_text())

HOSTS = {name: Identity.parse_text(text) for name, text in PACKETS["identities"].items()}
PEER = HOSTS["peer"]
KEYS = {name: PeerKeys(PEER.agree(host)) for name, host in HOSTS.items() if name != "peer"}


def name_of(vector: dict[str, Any]) -> str:
    parts = [vector["cipher"], vector["verb"], vector["in_re"] or "", vector["source"]]
    return "-".join(map(str, parts)) + ("-lz4" if vector["compressed"] else "") + f"-{len(vector['datagrams'])}"


def assemble(vector: dict[str, Any]) -> bytes:
    head, *rest = map(bytes.fromhex, vector["datagrams"])
    return head + b"".join(packet_views.parse_fragment(datagram).data for datagram in rest)


def keys_of(vector: dict[str, Any]) -> PeerKeys:
    return KEYS[vector["source"] if vector["destination"] == "peer" else vector["destination"]]


def plaintexts(cipher: int | None, verb: str, in_re: str | None = None) -> list[tuple[dict[str, Any], bytes]]:
    found = []
    for vector in PACKETS["packets"]:
        if vector["verb"] == verb and vector["in_re"] == in_re and cipher in (None, vector["cipher"]):
            opened = keys_of(vector).open(assemble(vector))
            assert opened is not None
            found.append((vector, decompress(opened)))
    assert found, "no such vector"
    return found


@pytest.mark.parametrize("vector", PACKETS["packets"], ids=name_of)
def test_real_packets_open(vector: dict[str, Any]) -> None:
    whole = assemble(vector)
    assert packet.source(whole) == HOSTS[vector["source"]].address
    assert packet.destination(whole) == HOSTS[vector["destination"]].address
    assert packet_views.cipher_suite(whole) == vector["cipher"]
    assert packet.hops(whole) == vector["hops"]
    assert packet_views.is_fragmented(whole) is (len(vector["datagrams"]) > 1)
    opened = keys_of(vector).open(whole)
    assert opened is not None
    assert bool(opened[0] & packet.VERB_FLAG_COMPRESSED) is vector["compressed"]
    plaintext = decompress(opened)
    assert packet_views.VERB_NAMES[plaintext[0]] == vector["verb"]
    assert len(plaintext) == vector["length"]
    if vector["verb"] == "OK":
        assert packet_views.VERB_NAMES[parse_ok(plaintext[1:]).in_re_verb] == vector["in_re"]


@pytest.mark.parametrize("vector", PACKETS["packets"], ids=name_of)
def test_real_packets_are_sealed_alike(vector: dict[str, Any]) -> None:
    """For the Poly1305 suites the packet id survives sealing, so what a real node sealed can be made again, bit by bit.
    AES-GMAC-SIV hides the id it was given; there, what was sealed again must open."""
    whole = packet_without_hops(assemble(vector))
    opened = keys_of(vector).open(whole)
    assert opened is not None
    sealed = keys_of(vector).seal(
        packet.packet_id(whole),
        packet.destination(whole),
        packet.source(whole),
        (opened[:1], opened[1:]),
        vector["cipher"],
    )
    if vector["cipher"] == packet.CIPHER_AES_GMAC_SIV:
        assert keys_of(vector).open(sealed) == opened
        assert sealed[8:19] == whole[8:19]
    else:
        assert sealed == whole


def packet_without_hops(whole: bytes) -> bytes:
    flags = whole[packet.OFFSET_FLAGS] & packet.FLAGS_AUTHENTICATED_MASK
    return whole[: packet.OFFSET_FLAGS] + bytes((flags,)) + whole[packet.OFFSET_MAC :]


def test_every_cipher_suite_and_feature_is_covered() -> None:
    vectors = PACKETS["packets"]
    assert {vector["cipher"] for vector in vectors} == {0, 1, 3}
    assert {1, 3} <= {vector["cipher"] for vector in vectors if vector["compressed"]}
    assert any(len(vector["datagrams"]) > 1 for vector in vectors)
    assert any(vector["hops"] for vector in vectors)


def test_batches_open_in_order() -> None:
    vectors = [vector for vector in PACKETS["packets"] if "root" in (vector["source"], vector["destination"])]
    packets = [assemble(vector) for vector in vectors]
    packets.insert(1, packets[0][:-1] + bytes((packets[0][-1] ^ 1,)))
    opened = KEYS["root"].open_many(packets)
    assert opened[1] is None
    assert [KEYS["root"].open(whole) for whole in packets] == opened
    assert None not in opened[:1] + opened[2:]


def test_hello_from_a_real_node() -> None:
    for vector, plaintext in plaintexts(0, "HELLO"):
        whole = assemble(vector)
        assert hello_identity(plaintext) == HOSTS[vector["source"]]
        hello = parse_hello(plaintext, packet.packet_id(whole), keys_of(vector))
        assert hello.identity.secret is None
        assert hello.protocol == 12
        assert str(hello.version) == "1.14.1"
        assert hello.surface == (PACKETS["addresses"][vector["destination"]], 9993)
        planet = World.parse(bytes.fromhex(PACKETS["planet"]))
        assert hello.planet is not None
        assert (hello.planet.id, hello.planet.timestamp) == (planet.id, planet.timestamp)
        assert hello.moons == ()
        assert build_hello(hello, packet.packet_id(whole), keys_of(vector)) == plaintext


def test_ok_hello_from_a_real_node() -> None:
    for vector, plaintext in plaintexts(None, "OK", "HELLO"):
        ok = parse_ok_hello(parse_ok(plaintext[1:]).payload)
        assert ok.version == Version(1, 14, 1)
        assert ok.surface == (PACKETS["addresses"][vector["destination"]], 9993)


def test_whois_from_real_nodes() -> None:
    known = {host.address: host for host in HOSTS.values()}
    for _, plaintext in plaintexts(None, "WHOIS"):
        addresses = parse_whois(plaintext[1:])
        assert set(addresses) <= set(known)
        assert build_whois(addresses) == plaintext[1:]
    for _, plaintext in plaintexts(None, "OK", "WHOIS"):
        ok = parse_ok(plaintext[1:])
        identities = parse_ok_whois(ok.payload)
        assert [known[identity.address] for identity in identities] == identities
        assert build_ok(ok.in_re_verb, ok.in_re_packet_id, build_ok_whois(identities)) == plaintext


def test_rendezvous_from_a_real_root() -> None:
    for _, plaintext in plaintexts(None, "RENDEZVOUS"):
        rendezvous = parse_rendezvous(plaintext[1:])
        names = {host.address: name for name, host in HOSTS.items()}
        assert rendezvous.endpoint[0] == PACKETS["addresses"][names[rendezvous.address]]
        assert build_rendezvous(rendezvous) == plaintext[1:]


def test_push_direct_paths_from_a_real_node() -> None:
    for vector, plaintext in plaintexts(None, "PUSH_DIRECT_PATHS"):
        paths = parse_push_direct_paths(plaintext[1:])
        assert (PACKETS["addresses"][vector["source"]], 9993) in [path.endpoint for path in paths]
        assert not any(path.forget or path.redirect for path in paths)
        assert build_push_direct_paths(paths) == plaintext[1:]


@pytest.mark.parametrize(
    "exchange", EXCHANGES["exchanges"], ids=lambda each: f"{each['what']}-{each['protocol']}-{each['cipher']}"
)
def test_a_real_root_answered_what_was_sealed_here(exchange: dict[str, Any]) -> None:
    us, root = Identity.parse_text(exchange["us"]), Identity.parse_text(EXCHANGES["root"])
    keys = PeerKeys(us.agree(root))
    sent, received = bytes.fromhex(exchange["sent"]), bytes.fromhex(exchange["received"])
    request, answer = keys.open(sent), keys.open(received)
    assert request is not None
    assert answer is not None
    request, answer = decompress(request), decompress(answer)
    ok = parse_ok(answer[1:])
    assert answer[0] == packet.VERB_OK
    assert (ok.in_re_verb, ok.in_re_packet_id) == (request[0], packet.packet_id(sent))
    match exchange["what"]:
        case "HELLO":
            hello = parse_hello(request, packet.packet_id(sent), keys)
            assert [moon.id for moon in hello.moons] == [0x1122334455]
            assert parse_ok_hello(ok.payload).timestamp == hello.timestamp
            assert parse_ok_hello(ok.payload).worlds == ()
        case "HELLO older planet":
            planet = World.parse(bytes.fromhex(EXCHANGES["planet"]))
            assert parse_ok_hello(ok.payload).worlds == (planet,)
        case "WHOIS":
            assert [identity.address for identity in parse_ok_whois(ok.payload)] == parse_whois(request[1:])
        case _:
            assert ok.payload == request[1:]


def test_a_real_node_reads_compressed_payloads_of_ours() -> None:
    """The compressed ECHO came back whole; so what was sent must be what ``compress`` makes still."""
    for exchange in EXCHANGES["exchanges"]:
        if exchange["what"] == "ECHO compressed":
            keys = PeerKeys(Identity.parse_text(exchange["us"]).agree(Identity.parse_text(EXCHANGES["root"])))
            sent = keys.open(bytes.fromhex(exchange["sent"]))
            assert sent is not None
            assert sent[0] == packet.VERB_ECHO | packet.VERB_FLAG_COMPRESSED
            assert decompress(compress(decompress(sent))) == decompress(sent)


@pytest.mark.parametrize("vector", IDENTITIES["identities"], ids=lambda each: each["public"][:10])
def test_identities_of_zerotier_idtool(vector: dict[str, str]) -> None:
    identity, public = Identity.parse_text(vector["secret"]), Identity.parse_text(vector["public"])
    assert identity.build_text(include_secret=True) == vector["secret"]
    assert identity.build_text() == vector["public"]
    assert identity == public
    assert identity.without_secret().secret is None
    message, signature = IDENTITIES["message"].encode(), bytes.fromhex(vector["signature"])
    assert public.verify(message, signature)
    assert identity.sign(message) == signature
    assert not public.verify(message + b".", signature)


def test_the_memory_hard_hash_agrees() -> None:
    for vector in IDENTITIES["identities"]:
        identity = Identity.parse_text(vector["secret"])
        assert identity.validate()
    assert not Identity(identity.address ^ 1, identity.public).validate()


def test_identities_agree_on_a_key() -> None:
    one, other = (Identity.parse_text(vector["secret"]) for vector in IDENTITIES["identities"][:2])
    assert one.agree(other.without_secret()) == other.agree(one.without_secret())


def test_moons_of_zerotier_idtool() -> None:
    definition = MOONS["definition"]
    first, second = (World.parse(bytes.fromhex(MOONS[which])) for which in ("first", "second"))
    assert first.build().hex() == MOONS["first"]
    assert first.type is WorldType.MOON
    assert moon_file_name(first.id) == MOONS["file_name"]
    assert f"{first.id:010x}" == definition["id"]
    assert {root.identity.build_text() for root in second.roots} == {root["identity"] for root in definition["roots"]}
    assert {endpoint for root in second.roots for endpoint in root.endpoints} == {
        ("203.0.113.7", 9993),
        ("2001:db8::7", 9993),
        ("198.51.100.10", 443),
    }
    assert first.may_be_replaced_by(second)
    assert not second.may_be_replaced_by(first)
    secret = bytes.fromhex(definition["signingKey_SECRET"])
    public = bytes.fromhex(definition["signingKey"])
    again = World.sign(WorldType.MOON, second.id, second.timestamp, public, second.roots, public=public, secret=secret)
    assert again == second


def test_the_default_planet() -> None:
    planet = World.parse(DEFAULT_PLANET)
    assert planet.build() == DEFAULT_PLANET
    assert (planet.type, planet.id) == (WorldType.PLANET, PLANET_ID_EARTH)
    assert len(planet.roots) == 4
    assert planet.is_signed_by(planet.updates_signed_by)
    assert not planet.may_be_replaced_by(planet)


def test_a_hello_of_protocol_11_and_12_were_both_answered() -> None:
    suites = {
        (exchange["protocol"], bytes.fromhex(exchange["received"])[packet.OFFSET_FLAGS] >> 3 & 7)
        for exchange in EXCHANGES["exchanges"]
    }
    assert {(12, packet.CIPHER_AES_GMAC_SIV), (11, packet.CIPHER_POLY1305_SALSA2012)} <= suites


def test_a_hello_has_a_planet() -> None:
    hello = Hello(12, Version(1, 14, 1), 0, PEER.without_secret(), None, None)
    with pytest.raises(ValueError, match="planet"):
        build_hello(hello, 0, KEYS["root"])
