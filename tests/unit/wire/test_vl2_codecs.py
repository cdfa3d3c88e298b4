"""Every VL2 codec: what is encoded is decoded again, and hostile bytes raise WireError or nothing."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ztnode.wire import c25519
from ztnode.wire.capability import MAX_CAPABILITY_RULES, Capability, Custody
from ztnode.wire.certificate_of_membership import CertificateOfMembership, Qualifier
from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.computed_ipv6 import rfc4193_address
from ztnode.wire.config_chunk import ConfigChunk, build_accepted, parse_accepted, split_config
from ztnode.wire.config_request import ConfigRequest, RequestMetadata, build_auth_info, parse_auth_info
from ztnode.wire.dictionary import MAX_DICTIONARY_SIZE, Dictionary
from ztnode.wire.frame import ExtFrame, build_ext_frame, parse_ext_frame
from ztnode.wire.identity import Identity
from ztnode.wire.mac import address_of, format_mac, is_multicast, mac_of, parse_mac
from ztnode.wire.multicast import (
    Gather,
    Gathered,
    Like,
    MulticastFrame,
    MulticastFrameReply,
    MulticastGroup,
    build_gather,
    build_gathered,
    build_likes,
    build_multicast_frame,
    build_multicast_frame_reply,
    parse_gather,
    parse_gathered,
    parse_likes,
    parse_multicast_frame,
    parse_multicast_frame_reply,
)
from ztnode.wire.network_config import Dns, ManagedRoute, NetworkConfig, SingleSignOn
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.reader import Reader
from ztnode.wire.revocation import Revocation
from ztnode.wire.rules import (
    Forward,
    IcmpMatch,
    IntegerRange,
    Prefix,
    Range,
    Rule,
    RuleType,
    TagMatch,
    Tos,
    build_rule_json,
    build_rules,
    parse_rule_json,
    parse_rules,
)
from ztnode.wire.tag import Tag
from ztnode.wire.wire_error import WireError

VECTORS = Path(__file__).parents[2] / "vectors" / "vl2"
# Known key pairs; the address need not fit the key for signing and verifying.
SECRET = bytes(range(64))
PUBLIC_TEXT = (VECTORS / "ctrl.identity").read_text()


def _signing_identity() -> Identity:
    return Identity(0x1122334455, c25519.derive_public(SECRET), SECRET)


SIGNER = _signing_identity()
NWID = SIGNER.address << 24 | 0xABCDEF
OTHER = Identity.parse_text(PUBLIC_TEXT)

u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
addresses = st.integers(1, (1 << 40) - 1)
macs = st.integers(0, (1 << 48) - 1)
groups = st.builds(MulticastGroup, macs, u32)
T = RuleType


def _values(kind: int) -> st.SearchStrategy[Any]:
    tags = st.builds(TagMatch, u32, u32)
    ranges = st.builds(Range, u16, u16)
    by_kind: dict[int, st.SearchStrategy[Any]] = {
        **dict.fromkeys((T.ACTION_TEE, T.ACTION_WATCH, T.ACTION_REDIRECT), st.builds(Forward, addresses, u32, u16)),
        **dict.fromkeys((T.MATCH_SOURCE_ZEROTIER_ADDRESS, T.MATCH_DEST_ZEROTIER_ADDRESS), addresses),
        **dict.fromkeys((T.MATCH_VLAN_ID, T.MATCH_ETHERTYPE), u16),
        **dict.fromkeys((T.MATCH_VLAN_PCP, T.MATCH_VLAN_DEI, T.MATCH_IP_PROTOCOL), u8),
        **dict.fromkeys((T.MATCH_MAC_SOURCE, T.MATCH_MAC_DEST), macs),
        **dict.fromkeys(
            (T.MATCH_IPV4_SOURCE, T.MATCH_IPV4_DEST),
            st.builds(Prefix, st.binary(min_size=4, max_size=4), st.integers(0, 32)),
        ),
        **dict.fromkeys(
            (T.MATCH_IPV6_SOURCE, T.MATCH_IPV6_DEST),
            st.builds(Prefix, st.binary(min_size=16, max_size=16), st.integers(0, 128)),
        ),
        T.MATCH_IP_TOS: st.builds(Tos, u8, u8, u8),
        T.MATCH_ICMP: st.one_of(
            st.builds(IcmpMatch, u8, u8, st.just(1)), st.builds(IcmpMatch, u8, st.just(0), st.just(0))
        ),
        **dict.fromkeys((T.MATCH_IP_SOURCE_PORT_RANGE, T.MATCH_IP_DEST_PORT_RANGE, T.MATCH_FRAME_SIZE_RANGE), ranges),
        T.MATCH_CHARACTERISTICS: u64,
        T.MATCH_RANDOM: u32,
        T.MATCH_INTEGER_RANGE: st.builds(IntegerRange, u64, u64, u16, u8.map(lambda value: value & 0xBF)),
        **dict.fromkeys(
            (
                T.MATCH_TAGS_DIFFERENCE,
                T.MATCH_TAGS_BITWISE_AND,
                T.MATCH_TAGS_BITWISE_OR,
                T.MATCH_TAGS_BITWISE_XOR,
                T.MATCH_TAGS_EQUAL,
                T.MATCH_TAG_SENDER,
                T.MATCH_TAG_RECEIVER,
            ),
            tags,
        ),
        **dict.fromkeys((T.ACTION_ACCEPT, T.ACTION_DROP, T.ACTION_BREAK, T.ACTION_PRIORITY), st.none()),
    }
    unknown = st.binary(min_size=1, max_size=30)
    return by_kind.get(kind, unknown)


rules = st.integers(0, 63).flatmap(
    lambda kind: st.builds(Rule, st.just(kind), _values(kind), st.booleans(), st.booleans())
)
rule_sets = st.lists(rules, max_size=8).map(tuple)
ips = st.ip_addresses()
interfaces = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(ipaddress.IPv4Interface),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(ipaddress.IPv6Interface),
)
plain_text = st.text(st.characters(min_codepoint=1, codec="utf-8"), max_size=30)
signatures = st.binary(min_size=96, max_size=96)
com_qualifiers = st.lists(st.builds(Qualifier, u64, u64, u64), max_size=8).map(lambda items: tuple(sorted(items)))
coms = st.one_of(
    st.builds(CertificateOfMembership, com_qualifiers, st.just(0), st.just(b"")),
    st.builds(CertificateOfMembership, com_qualifiers, addresses, signatures),
)
tags = st.builds(Tag, st.just(NWID), u64, addresses, u32, u32, addresses, signatures)
custody = st.lists(st.builds(Custody, addresses, addresses, signatures), max_size=2).map(tuple)
capabilities = st.builds(Capability, st.just(NWID), u64, u32, rule_sets, st.integers(2, 7), custody)
things = st.lists(st.tuples(u8, st.binary(min_size=16, max_size=16)), max_size=16).map(tuple)
ownerships = st.builds(CertificateOfOwnership, st.just(NWID), u64, addresses, u32, things, u64, addresses, signatures)
revocations = st.builds(Revocation, st.just(NWID), u32, u32, u64, u64, addresses, u8, addresses, signatures)


@given(st.dictionaries(st.text("abcdefXYZ019", min_size=1, max_size=5), st.binary(max_size=60), max_size=10))
@example({"a": b"\\", "b": b"=\x00\r\n\\e\\0", "c": b""})
def test_dictionary_round_trip(items: dict[str, bytes]) -> None:
    assert Dictionary.parse(Dictionary(items).build()) == Dictionary(items)


@given(u64, st.integers(-(1 << 63), (1 << 63) - 1), addresses, st.booleans(), plain_text)
def test_dictionary_values(number: int, signed: int, address: int, flag: bool, text: str) -> None:
    d = Dictionary()
    d.put_unsigned("u", number)
    d.put_integer("i", signed)
    d.put_address("a", address)
    d.put_boolean("b", flag)
    d.put_text("t", text)
    d = Dictionary.parse(d.build())
    assert (d.unsigned("u"), d.unsigned("a"), d.boolean("b"), d.text("t")) == (number, address, flag, text)
    assert d.integer("i") == signed
    assert len(d["u"]) == 16 and len(d["a"]) == 10


def test_dictionary_is_as_lenient_as_the_reference() -> None:
    d = Dictionary.parse(b"a=1\r\nnonsense\nb= 0xFFg\na=2\nneg=-1\nbig=ffffffffffffffffff\nbad=xyz\nend=x\\\x00tail=1")
    assert (d.unsigned("a"), d.unsigned("b"), d.integer("neg"), d.unsigned("neg")) == (1, 0xFF, -1, (1 << 64) - 1)
    assert (d.unsigned("big"), d.unsigned("bad", 7), d.unsigned("none", 7)) == ((1 << 64) - 1, 0, 7)
    assert d["end"] == b"x" and "tail" not in d
    with pytest.raises(WireError):
        Dictionary.parse(bytes(MAX_DICTIONARY_SIZE + 1))
    for key in ("a=b", "a\n", "a\x00"):
        with pytest.raises(ValueError):
            Dictionary({key: b""}).build()


@given(rule_sets)
def test_rules_round_trip(table: tuple[Rule, ...]) -> None:
    assert parse_rules(build_rules(table)) == table
    for rule in table:
        assert parse_rule_json(build_rule_json(rule)) == rule


def test_rules_from_json_refuses_nonsense() -> None:
    for item in (
        {"type": "MATCH_NOTHING"},
        {"type": "MATCH_ETHERTYPE", "etherType": [1]},
        {"type": "MATCH_IPV4_SOURCE", "ip": "fd00::/8"},
        {"type": "MATCH_MAC_SOURCE", "mac": "no"},
        {},
    ):
        with pytest.raises(ValueError):
            parse_rule_json(item)
    assert parse_rule_json({"type": "MATCH_IP_DEST_PORT_RANGE", "start": 80}).value == Range(80, 80)


@pytest.mark.parametrize(
    ("read", "strategy"),
    [
        (CertificateOfMembership.parse, coms),
        (lambda data: NetworkCredentials.parse(b"\x00" + bytes(2) + b"\x00\x01" + data).tags[0], tags),
        (lambda data: NetworkCredentials.parse(b"\x00\x00\x01" + data).capabilities[0], capabilities),
        (lambda data: NetworkCredentials.parse(bytes(8) + b"\x01" + data).certificates_of_ownership[0], ownerships),
        (lambda data: NetworkCredentials.parse(bytes(5) + b"\x00\x01" + data).revocations[0], revocations),
    ],
    ids=["com", "tag", "capability", "ownership", "revocation"],
)
def test_credential_round_trip(read: Callable[[bytes], Any], strategy: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=40)
    @given(strategy)
    def check(credential: Any) -> None:
        data = credential.build()
        assert read(data) == credential
        for cut in {0, 1, len(data) // 2, len(data) - 1}:
            with pytest.raises(WireError):
                read(data[:cut])

    check()


def test_signatures_cover_every_field() -> None:
    tag = Tag(NWID, 1, OTHER.address, 2, 3).sign(SIGNER)
    assert tag.verify(SIGNER) and not tag.verify(OTHER)
    capability = Capability(NWID, 1, 2, (Rule(T.ACTION_ACCEPT),), 2).sign(SIGNER, SIGNER.address)
    single = Capability(NWID, 1, 2, (Rule(T.ACTION_ACCEPT),)).sign(SIGNER, OTHER.address)
    chain = capability.sign(SIGNER, OTHER.address)
    known = {SIGNER.address: SIGNER}.get
    assert chain.verify(known) is True and chain.issued_to == OTHER.address
    with pytest.raises(ValueError):
        chain.sign(SIGNER, 5)
    for credential in (
        tag,
        CertificateOfOwnership(NWID, 1, OTHER.address, 2).with_thing(7).sign(SIGNER),
        Revocation(NWID, 1, 2, 3, 1, OTHER.address, 1).sign(SIGNER),
        CertificateOfMembership.issue(NWID, 1, 2, OTHER).sign(SIGNER),
        single,
    ):
        data = bytearray(credential.build())
        kind = type(credential)
        for at in range(len(data) - (0 if kind is CertificateOfMembership else 2)):
            data[at] ^= 1
            try:
                damaged = kind.parse_from(Reader(bytes(data)))
            except WireError:
                pass
            else:
                verdict = damaged.verify(known) if isinstance(damaged, Capability) else damaged.verify(SIGNER)
                if isinstance(damaged, Capability) and damaged.custody[0].holder != OTHER.address:
                    assert verdict, "the protocol leaves the holder unsigned; see the note in capability.py"
                else:
                    assert not verdict or damaged == credential, (kind, at)
            data[at] ^= 1


def test_com_agreement() -> None:
    mine = CertificateOfMembership.issue(NWID, 10_000, 500, SIGNER)
    assert mine.agrees_with(CertificateOfMembership.issue(NWID, 10_500, 500, OTHER), OTHER)
    assert mine.agrees_with(CertificateOfMembership.issue(NWID, 9_500, 500, OTHER), OTHER)
    assert not mine.agrees_with(CertificateOfMembership.issue(NWID, 10_501, 500, OTHER), OTHER)
    assert not mine.agrees_with(CertificateOfMembership.issue(NWID + 1, 10_000, 500, OTHER), OTHER)
    assert not mine.agrees_with(CertificateOfMembership.issue(NWID, 10_000, 500, OTHER), SIGNER)
    assert not mine.agrees_with(CertificateOfMembership(()), OTHER)


def _by_id(items: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(items, key=lambda item: item.id))


configs = st.builds(
    NetworkConfig,
    network_id=st.just(NWID),
    issued_to=addresses,
    timestamp=st.integers(0, 1 << 62),
    credential_time_max_delta=st.integers(0, 1 << 62),
    revision=u64,
    remote_trace_target=addresses,
    remote_trace_level=u8,
    flags=u64,
    multicast_limit=u32,
    type=st.sampled_from([0, 1]),
    name=plain_text,
    mtu=st.integers(1280, 10000),
    static_addresses=st.lists(interfaces, max_size=6).map(tuple),
    routes=st.lists(
        st.builds(ManagedRoute, interfaces.map(lambda i: i.network), st.one_of(st.none(), ips), u16, u16), max_size=6
    ).map(tuple),
    specialists=st.lists(u64, max_size=6).map(tuple),
    rules=rule_sets,
    certificate_of_membership=st.one_of(st.none(), coms),
    tags=st.lists(tags, max_size=3, unique_by=lambda tag: tag.id).map(_by_id),
    capabilities=st.lists(capabilities, max_size=2, unique_by=lambda c: c.id).map(_by_id),
    dns=st.builds(Dns, st.text("abc.", min_size=1, max_size=40), st.lists(ips, max_size=4).map(tuple)),
    sso=st.one_of(
        st.builds(SingleSignOn, st.just(True), st.just(0), plain_text, st.integers(0, 1 << 62)),
        st.builds(SingleSignOn, st.just(True), st.just(1), plain_text, st.just(0), *[plain_text] * 5, st.just("auth0")),
    ),
    unknown=st.dictionaries(st.sampled_from(["zz", "future"]), st.binary(max_size=20)),
)


@settings(max_examples=40)
@given(configs)
def test_network_config_round_trip(config: NetworkConfig) -> None:
    assert NetworkConfig.parse(config.build()) == config


@settings(max_examples=40)
@given(configs)
def test_legacy_fields_change_nothing_for_us(config: NetworkConfig) -> None:
    assert NetworkConfig.parse(config.build(legacy=True)) == config


def test_legacy_fields_are_what_old_nodes_read() -> None:
    config = NetworkConfig(
        NWID,
        5,
        specialists=(1 << 41 | 7,),
        static_addresses=(rfc4193_address(NWID, 5),),
        rules=(Rule(T.MATCH_ETHERTYPE, 0x0800), Rule(T.ACTION_ACCEPT), Rule(T.ACTION_ACCEPT)),
    )
    d = Dictionary.parse(config.build(legacy=True))
    assert (d.text("et"), d.text("ab"), d.text("p"), d.text("eb")) == ("0800,0000", "0000000007", "1", "1")
    assert d.text("v6s").endswith("/88") and "v4s" not in d


def test_out_of_range_values_are_bounded() -> None:
    d = Dictionary.parse(NetworkConfig(NWID, 5).build())
    for mtu, expected in ((0, 1280), (1 << 40, 10000)):
        d.put_unsigned("mtu", mtu)
        assert NetworkConfig.parse(d.build()).mtu == expected
    d.put("I", b"\x04\x0a\x00\x00\x01\x00\x21" + b"\x04\x0a\x00\x00\x02\x00\x20" * 50)
    assert len(NetworkConfig.parse(d.build()).static_addresses) == 32
    d.put("S", bytes(8 * 1000))
    assert len(NetworkConfig.parse(d.build()).specialists) == 256
    for key, value in (("nwid", b""), ("id", b""), ("v", b"5")):
        broken = Dictionary.parse(NetworkConfig(NWID, 5).build())
        broken.put(key, value)
        with pytest.raises(WireError):
            NetworkConfig.parse(broken.build())


def test_capability_with_too_many_rules_is_refused() -> None:
    too_many = Capability(NWID, 1, 1, (Rule(T.ACTION_ACCEPT),) * (MAX_CAPABILITY_RULES + 1)).build()
    with pytest.raises(WireError):
        NetworkCredentials.parse(b"\x00\x00\x01" + too_many)


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 1 << 32), u8)
def test_config_chunks_put_together_again(data: bytes, update_id: int, flags: int) -> None:
    chunks = [
        ConfigChunk.parse(chunk.build())
        for chunk in split_config(NWID, data, update_id, SIGNER, flags=flags, chunk_size=1000)
    ]
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(chunk.verify(SIGNER) and chunk.update_id == update_id for chunk in chunks)


def test_legacy_and_impossible_chunks() -> None:
    legacy = ConfigChunk.parse(NWID.to_bytes(8, "big") + b"\x00\x03abc")
    assert (legacy.data, legacy.update_id, legacy.signature) == (b"abc", 0, b"")
    assert not legacy.verify(SIGNER)
    beyond = ConfigChunk(NWID, b"abc", 1, 4, 2).sign(SIGNER).build()
    with pytest.raises(WireError):
        ConfigChunk.parse(beyond)
    with pytest.raises(WireError):
        ConfigChunk.parse(ConfigChunk(NWID, b"abc", 1, MAX_DICTIONARY_SIZE + 1, 0).sign(SIGNER).build())


metadata = st.builds(RequestMetadata, u8, u8, st.tuples(u8, u8, u16), u16, u16, u16, u16, u8, plain_text, plain_text)


@given(metadata, u64, u64)
def test_config_request_round_trip(metadata: RequestMetadata, revision: int, timestamp: int) -> None:
    request = ConfigRequest(NWID, metadata.build_dictionary(), revision, timestamp)
    decoded = ConfigRequest.parse(request.build())
    assert decoded == request
    assert RequestMetadata.parse_dictionary(decoded.metadata) == metadata
    assert ConfigRequest.parse(NWID.to_bytes(8, "big")).metadata == Dictionary()


@given(
    st.one_of(
        st.builds(SingleSignOn, st.just(True), st.just(0), plain_text),
        st.builds(
            SingleSignOn, st.just(True), st.just(1), st.just(""), st.just(0), *[plain_text] * 5, plain_text.filter(bool)
        ),
    )
)
def test_auth_info_round_trip(sso: SingleSignOn) -> None:
    assert parse_auth_info(build_auth_info(sso)) == sso
    assert parse_auth_info(b"") == SingleSignOn(enabled=True)


@given(st.lists(coms, max_size=2), st.lists(capabilities, max_size=2), st.lists(tags, max_size=4),
       st.lists(revocations, max_size=2), st.lists(ownerships, max_size=2))  # fmt: skip
def test_network_credentials_round_trip(
    members: list[Any], granted: list[Any], pinned: list[Any], revoked: list[Any], owned: list[Any]
) -> None:
    lists = (members, granted, pinned, revoked, owned)
    credentials = NetworkCredentials(*(tuple(items) for items in lists))
    assert NetworkCredentials.parse(credentials.build()) == credentials
    packets = [NetworkCredentials.parse(packet) for packet in credentials.packets(limit=400)]
    for name in NetworkCredentials.__dataclass_fields__:
        assert sum((getattr(packet, name) for packet in packets), ()) == getattr(credentials, name)


gathers = st.builds(Gather, u64, groups, u32, st.one_of(st.none(), coms))
answers = st.builds(Gathered, u64, groups, u32, st.lists(addresses, max_size=5).map(tuple))


@given(st.lists(st.builds(Like, u64, groups), max_size=5), gathers, answers)
def test_multicast_round_trips(likes: list[Like], gather: Gather, gathered: Gathered) -> None:
    assert parse_likes(build_likes(likes)) == likes
    assert parse_gather(build_gather(gather)) == gather
    assert parse_gathered(build_gathered(gathered)) == gathered


frames = st.builds(
    MulticastFrame,
    u64,
    groups,
    u16,
    st.binary(max_size=50),
    st.one_of(st.none(), macs),
    u32,
    st.booleans(),
    st.one_of(st.none(), coms),
)
replies = st.builds(
    MulticastFrameReply, u64, groups, u32, st.lists(addresses, max_size=5).map(tuple), st.one_of(st.none(), coms)
)
evens = st.integers(0, 127).map(lambda flags: flags << 1)
ext_frames = st.one_of(
    st.builds(ExtFrame, u64, evens, macs, macs, u16, st.binary(max_size=50), st.none()),
    st.builds(ExtFrame, u64, st.just(1), macs, macs, u16, st.binary(max_size=50), coms),
)


@given(frames, replies, ext_frames)
def test_frame_round_trips(frame: MulticastFrame, reply: MulticastFrameReply, ext: ExtFrame) -> None:
    assert parse_multicast_frame(build_multicast_frame(frame)) == frame
    assert parse_multicast_frame_reply(build_multicast_frame_reply(reply)) == reply
    assert parse_ext_frame(build_ext_frame(ext)) == ext


@given(addresses, u64)
def test_mac_of_an_address_gives_the_address_back(address: int, nwid: int) -> None:
    mac = mac_of(address, nwid)
    assert address_of(mac, nwid) == address
    assert not is_multicast(mac) and mac >> 40 & 2 and mac >> 40 != 0x52
    assert parse_mac(format_mac(mac)) == mac


DECODERS: list[Callable[[bytes], Any]] = [
    lambda data: Dictionary.parse(data).build(),
    NetworkConfig.parse,
    lambda data: NetworkConfig.parse(b"v=7\nnwid=1\nid=2\nf=" + data),
    parse_rules,
    NetworkCredentials.parse,
    CertificateOfMembership.parse,
    ConfigChunk.parse,
    ConfigRequest.parse,
    parse_auth_info,
    parse_accepted,
    parse_likes,
    parse_gather,
    parse_gathered,
    parse_multicast_frame,
    parse_multicast_frame_reply,
    parse_ext_frame,
]
REAL = [(VECTORS / "rich.conf").read_bytes(), (VECTORS / "private.conf").read_bytes()]


@given(st.sampled_from(DECODERS), st.binary(max_size=300))
def test_random_bytes_raise_wire_error_or_nothing(decode: Callable[[bytes], Any], data: bytes) -> None:
    try:
        decode(data)
        decode(memoryview(data))  # type: ignore[arg-type]
    except WireError:
        pass


@given(st.sampled_from(REAL), st.integers(0, 3000), u8, st.booleans())
def test_damaged_configs_raise_wire_error_or_nothing(data: bytes, at: int, byte: int, cut: bool) -> None:
    at %= len(data)
    damaged = data[:at] if cut else data[:at] + bytes((byte,)) + data[at + 1 :]
    with contextlib.suppress(WireError):
        NetworkConfig.parse(damaged)


def test_accepted_round_trip() -> None:
    assert parse_accepted(build_accepted(NWID, 7)) == (NWID, 7)
