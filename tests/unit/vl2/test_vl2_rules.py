"""The rules engine against an independent reading of the rules' meaning, and the specialisation against the whole."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztnode.vl2.flow_filter import PASSED, PASSED_UNCHECKED, REFUSED, FlowFilter
from ztnode.vl2.rule_filter import ACCEPT, DROP, NO_MATCH, REDIRECT, SUPER_ACCEPT, Copy, EthernetFlow, Filter, Outcome
from ztnode.wire import rules as wire
from ztnode.wire.rules import Forward, IcmpMatch, IntegerRange, Prefix, Range, Rule, TagMatch, Tos
from ztnode.wire.rules import RuleType as T

ALICE, BOB, EVE = 0xA11CE00001, 0xB0B0000002, 0xE0E0000003
MAC_A, MAC_B = 0x020000000001, 0x020000000002
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD


def flow(**fields: Any) -> EthernetFlow:
    """Alice sends to Bob, seen by Alice; ``inbound``: seen by Bob."""
    inbound = fields.get("inbound", False)
    values: dict[str, Any] = {
        "inbound": False,
        "local": BOB if inbound else ALICE,
        "source": ALICE,
        "destination": BOB,
        "source_mac": MAC_A,
        "destination_mac": MAC_B,
        "ethertype": IPV4,
        "local_tags": {},
        "tag": lambda tag_id: None,
        "owns": lambda thing: False,
        "random": lambda: 0x80000000,
    }
    return EthernetFlow(**(values | fields))


def tcp4(sport: int = 40000, dport: int = 80, flags: int = 0x02, tos: int = 0, length: int = 60) -> bytes:
    packet = bytearray(max(length, 40))
    packet[0], packet[1], packet[9] = 0x45, tos, 6
    packet[12:20] = IPv4Address("10.0.0.1").packed + IPv4Address("10.0.0.2").packed
    packet[20:24] = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    packet[32], packet[33] = 0x50, flags
    return bytes(packet)


def icmp4(kind: int, code: int) -> bytes:
    packet = bytearray(tcp4())
    packet[9], packet[20], packet[21] = 1, kind, code
    return bytes(packet)


def udp6(dport: int = 53, *, options: bool = False, source: str = "fd00::1") -> bytes:
    head = bytearray(40)
    head[0], head[6] = 0x60, 0 if options else 17
    head[8:24], head[24:40] = IPv6Address(source).packed, IPv6Address("fd00::2").packed
    return bytes(head) + (b"\x11" + bytes(7) if options else b"") + b"\x13\x88" + dport.to_bytes(2, "big") + bytes(8)


def ndp(kind: int, target: str = "fd00::9") -> bytes:
    packet = bytearray(72)
    packet[0], packet[6], packet[40] = 0x60, 0x3A, kind
    packet[48:64] = IPv6Address(target).packed
    return bytes(packet)


def verdict(rules: list[Rule], frame: bytes = b"", **fields: Any) -> int:
    built = Filter(rules, flow(**fields))
    outcome = built.evaluate(frame)
    assert built.constant is None or built.constant == outcome
    return outcome.verdict


def holds(rule: Rule, frame: bytes = b"", **fields: Any) -> bool:
    """Whether a single match matches."""
    return verdict([rule, Rule(T.ACTION_ACCEPT), Rule(T.ACTION_DROP)], frame, **fields) == ACCEPT


P4 = Prefix(IPv4Address("10.0.0.0").packed, 8)
P6 = Prefix(IPv6Address("fd00::").packed, 8)
MATCHES = [
    (T.MATCH_SOURCE_ZEROTIER_ADDRESS, ALICE, tcp4(), {}, True),
    (T.MATCH_SOURCE_ZEROTIER_ADDRESS, BOB, tcp4(), {}, False),
    (T.MATCH_DEST_ZEROTIER_ADDRESS, BOB, tcp4(), {}, True),
    (T.MATCH_VLAN_ID, 0, tcp4(), {}, True),
    (T.MATCH_VLAN_ID, 5, tcp4(), {}, False),
    (T.MATCH_VLAN_PCP, 0, tcp4(), {}, True),
    (T.MATCH_VLAN_DEI, 1, tcp4(), {}, False),
    (T.MATCH_MAC_SOURCE, MAC_A, tcp4(), {}, True),
    (T.MATCH_MAC_DEST, MAC_A, tcp4(), {}, False),
    (T.MATCH_IPV4_SOURCE, P4, tcp4(), {}, True),
    (T.MATCH_IPV4_DEST, Prefix(IPv4Address("10.0.0.3").packed, 32), tcp4(), {}, False),
    (T.MATCH_IPV4_DEST, Prefix(IPv4Address("10.0.0.3").packed, 31), tcp4(), {}, True),
    (T.MATCH_IPV4_DEST, Prefix(IPv4Address("1.2.3.4").packed, 0), tcp4(), {}, True),
    (T.MATCH_IPV6_SOURCE, P6, udp6(), {"ethertype": IPV6}, True),
    (T.MATCH_IPV6_DEST, Prefix(IPv6Address("fd00::2").packed, 128), udp6(), {"ethertype": IPV6}, True),
    (T.MATCH_IPV6_DEST, Prefix(IPv6Address("fd00::3").packed, 128), udp6(), {"ethertype": IPV6}, False),
    (T.MATCH_IP_TOS, Tos(0xFC, 0x10, 0x20), tcp4(tos=0x13), {}, True),
    (T.MATCH_IP_TOS, Tos(0xFC, 0x11, 0x20), tcp4(tos=0x13), {}, False),
    (T.MATCH_IP_TOS, Tos(0xFF, 0, 0), udp6(), {"ethertype": IPV6}, True),
    (T.MATCH_IP_PROTOCOL, 6, tcp4(), {}, True),
    (T.MATCH_IP_PROTOCOL, 17, udp6(), {"ethertype": IPV6}, True),
    (T.MATCH_IP_PROTOCOL, 17, udp6(options=True), {"ethertype": IPV6}, True),
    (T.MATCH_ETHERTYPE, IPV4, tcp4(), {}, True),
    (T.MATCH_ETHERTYPE, ARP, tcp4(), {}, False),
    (T.MATCH_ICMP, IcmpMatch(3, 4, 1), icmp4(3, 4), {}, True),
    (T.MATCH_ICMP, IcmpMatch(3, 4, 1), icmp4(3, 5), {}, False),
    (T.MATCH_ICMP, IcmpMatch(0x87, 0, 1), ndp(0x87), {"ethertype": IPV6}, True),
    (T.MATCH_IP_SOURCE_PORT_RANGE, Range(40000, 40001), tcp4(), {}, True),
    (T.MATCH_IP_DEST_PORT_RANGE, Range(80, 90), tcp4(dport=80), {}, True),
    (T.MATCH_IP_DEST_PORT_RANGE, Range(80, 90), tcp4(dport=91), {}, False),
    (T.MATCH_IP_DEST_PORT_RANGE, Range(53, 53), udp6(53, options=True), {"ethertype": IPV6}, True),
    (T.MATCH_IP_DEST_PORT_RANGE, Range(0, 65535), icmp4(8, 0), {}, False),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_INBOUND, b"", {"inbound": True}, True),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_INBOUND, b"", {}, False),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_MULTICAST, b"", {"destination_mac": 0x333300000001}, True),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_BROADCAST, b"", {"destination_mac": 0x333300000001}, False),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_BROADCAST, b"", {"destination_mac": (1 << 48) - 1}, True),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_TCP_SYN, tcp4(flags=0x12), {}, True),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_TCP_SYN, tcp4(flags=0x10), {}, False),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_SENDER_MAC_AUTHENTICATED, b"", {"owns": {MAC_A}.__contains__}, True),
    (T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_SENDER_MAC_AUTHENTICATED, tcp4(), {}, False),
    (T.MATCH_FRAME_SIZE_RANGE, Range(60, 60), tcp4(), {}, True),
    (T.MATCH_FRAME_SIZE_RANGE, Range(61, 99), tcp4(), {}, False),
    (T.MATCH_RANDOM, 0x80000000, tcp4(), {}, True),
    (T.MATCH_RANDOM, 0x7FFFFFFF, tcp4(), {}, False),
    (T.MATCH_INTEGER_RANGE, IntegerRange(0x45, 0x45, 0, 7 | 0x80), tcp4(), {}, True),
    (T.MATCH_INTEGER_RANGE, IntegerRange(80, 80, 16, 15), tcp4(), {}, True),
    (T.MATCH_INTEGER_RANGE, IntegerRange(0x5000, 0x5000, 22, 15 | 0x80), tcp4(), {}, True),
    (T.MATCH_INTEGER_RANGE, IntegerRange(1, 9, 5000, 15), tcp4(), {}, False),
]


@pytest.mark.parametrize(("kind", "value", "frame", "fields", "expected"), MATCHES)
def test_match(kind: int, value: Any, frame: bytes, fields: dict[str, Any], expected: bool) -> None:
    assert holds(Rule(kind, value), frame, **fields) is expected
    assert holds(Rule(kind, value, negate=True), frame, **fields) is not expected


INAPPLICABLE = [
    (T.MATCH_IPV4_SOURCE, P4, udp6(), IPV6),
    (T.MATCH_IPV4_DEST, P4, b"\x45", IPV4),
    (T.MATCH_IPV6_DEST, P6, tcp4(), IPV4),
    (T.MATCH_IP_PROTOCOL, 6, bytes(60), ARP),
    (T.MATCH_IP_PROTOCOL, 17, b"\x60" + bytes(10), IPV6),
    (T.MATCH_IP_TOS, Tos(0, 0, 255), bytes(60), ARP),
    (T.MATCH_ICMP, IcmpMatch(8, 0, 0), tcp4(), IPV4),
    (T.MATCH_IP_DEST_PORT_RANGE, Range(0, 65535), bytes(60), ARP),
]


@pytest.mark.parametrize(("kind", "value", "frame", "ethertype"), INAPPLICABLE)
def test_what_cannot_apply_matches_neither_way(kind: int, value: Any, frame: bytes, ethertype: int) -> None:
    assert not holds(Rule(kind, value), frame, ethertype=ethertype)
    assert not holds(Rule(kind, value, negate=True), frame, ethertype=ethertype)


def test_icmp_type_alone_matches_either_way() -> None:
    for negate in (False, True):
        assert holds(Rule(T.MATCH_ICMP, IcmpMatch(8, 0, 0), negate), icmp4(8, 7))
        assert not holds(Rule(T.MATCH_ICMP, IcmpMatch(0, 0, 0), negate), icmp4(8, 7))


def test_sender_ip_authentication() -> None:
    rule = Rule(T.MATCH_CHARACTERISTICS, wire.CHARACTERISTIC_SENDER_IP_AUTHENTICATED)

    def only(address: str) -> Any:
        wanted = IPv6Address(address) if ":" in address else IPv4Address(address)
        return lambda thing: thing == wanted

    arp = bytearray(28)
    arp[14:18] = IPv4Address("10.0.0.1").packed
    assert holds(rule, tcp4(), owns=only("10.0.0.1"))
    assert not holds(rule, tcp4(), owns=only("10.0.0.2"))
    assert holds(rule, bytes(arp), ethertype=ARP, owns=only("10.0.0.1"))
    assert holds(rule, udp6(), ethertype=IPV6, owns=only("fd00::1"))
    assert holds(rule, ndp(0x87), ethertype=IPV6), "solicitations have no source to check"
    assert holds(rule, ndp(0x88), ethertype=IPV6, owns=only("fd00::9"))
    assert not holds(rule, ndp(0x88), ethertype=IPV6, owns=only("fd00::8"))
    assert not holds(rule, b"", ethertype=0x1234)


COMPARISONS = [
    (T.MATCH_TAGS_DIFFERENCE, 2, 5, 3, True),
    (T.MATCH_TAGS_DIFFERENCE, 2, 6, 3, False),
    (T.MATCH_TAGS_BITWISE_AND, 6, 3, 2, True),
    (T.MATCH_TAGS_BITWISE_OR, 6, 3, 7, True),
    (T.MATCH_TAGS_BITWISE_XOR, 6, 3, 5, True),
    (T.MATCH_TAGS_BITWISE_XOR, 6, 3, 4, False),
    (T.MATCH_TAGS_EQUAL, 4, 4, 4, True),
    (T.MATCH_TAGS_EQUAL, 4, 5, 4, False),
]


@pytest.mark.parametrize(("kind", "local", "remote", "value", "expected"), COMPARISONS)
def test_tags(kind: int, local: int, remote: int, value: int, expected: bool) -> None:
    known: dict[str, Any] = {"local_tags": {1: local}, "tag": {1: remote}.get}
    for inbound in (False, True):
        assert holds(Rule(kind, TagMatch(1, value)), inbound=inbound, **known) is expected
        assert holds(Rule(kind, TagMatch(1, value), True), inbound=inbound, **known) is not expected
        assert not holds(Rule(kind, TagMatch(2, value)), inbound=inbound, **known), "we have no such tag"


def test_unknown_remote_tags_are_for_the_receiver_to_judge() -> None:
    rules = [Rule(T.MATCH_TAGS_EQUAL, TagMatch(1, 1), True), Rule(T.ACTION_DROP), Rule(T.ACTION_ACCEPT)]
    assert verdict(rules, local_tags={1: 1}) == ACCEPT, "outbound: the next DROP is skipped"
    assert verdict([*rules[:2], Rule(T.ACTION_DROP), rules[2]], local_tags={1: 1}) == DROP, "but only that one"
    strict = [Rule(T.MATCH_TAGS_EQUAL, TagMatch(1, 1)), Rule(T.ACTION_ACCEPT), Rule(T.ACTION_DROP)]
    assert verdict(strict, local_tags={1: 1}, inbound=True) == DROP


def test_sender_and_receiver_tags() -> None:
    sender, receiver = (Rule(kind, TagMatch(1, 5)) for kind in (T.MATCH_TAG_SENDER, T.MATCH_TAG_RECEIVER))
    assert holds(sender, local_tags={1: 5}) and not holds(sender, local_tags={1: 6}) and not holds(sender)
    assert holds(sender, inbound=True, tag={1: 5}.get) and not holds(sender, inbound=True, local_tags={1: 5})
    assert holds(receiver, inbound=True, local_tags={1: 5}) and not holds(receiver, inbound=True)
    assert holds(receiver, tag={1: 5}.get) and not holds(receiver, tag={1: 6}.get)
    assert holds(receiver), "not known yet: the receiver will say"


def test_sets_and_or() -> None:
    tcp, udp, web = (
        Rule(T.MATCH_IP_PROTOCOL, 6),
        Rule(T.MATCH_IP_PROTOCOL, 17, alternative=True),
        Rule(T.MATCH_IP_DEST_PORT_RANGE, Range(80, 80)),
    )
    rules = [tcp, udp, web, Rule(T.ACTION_ACCEPT), Rule(T.ACTION_DROP)]
    assert verdict(rules, tcp4(dport=80)) == ACCEPT
    assert verdict(rules, tcp4(dport=81)) == DROP
    assert verdict(rules, icmp4(8, 0)) == DROP
    assert verdict(rules, udp6(80), ethertype=IPV6) == ACCEPT


def test_actions() -> None:
    assert verdict([]) == NO_MATCH
    assert verdict([Rule(T.ACTION_BREAK), Rule(T.ACTION_ACCEPT)]) == NO_MATCH
    assert verdict([Rule(T.ACTION_PRIORITY)]) == ACCEPT
    assert verdict([Rule(9), Rule(T.ACTION_DROP)]) == DROP, "an unknown action does nothing"
    for supported in (False, True):
        assert holds(Rule(60, b"future"), unsupported_matches=supported) is supported


def test_forwarding_actions() -> None:
    def outcome(rules: list[Rule], **fields: Any) -> Outcome:
        return Filter(rules, flow(**fields)).evaluate(b"")

    accept = Rule(T.ACTION_ACCEPT)
    tee, watch, redirect = (
        Rule(kind, Forward(EVE, 0, 9)) for kind in (T.ACTION_TEE, T.ACTION_WATCH, T.ACTION_REDIRECT)
    )
    assert outcome([tee, accept]) == Outcome(ACCEPT, Copy(EVE, 9, False))
    assert outcome([watch, accept]) == Outcome(ACCEPT, Copy(EVE, 9, True))
    assert outcome([redirect, accept]) == Outcome(REDIRECT, None, EVE)
    for source_or_target in (ALICE, BOB):
        rule = Rule(T.ACTION_REDIRECT, Forward(source_or_target, 0, 0))
        assert outcome([rule, accept]) == Outcome(ACCEPT)
    to_bob = Rule(T.ACTION_TEE, Forward(BOB, 0, 0))
    assert outcome([to_bob, Rule(T.ACTION_DROP)], inbound=True).verdict == SUPER_ACCEPT
    unmatched = [Rule(T.MATCH_ETHERTYPE, ARP), to_bob, accept]
    assert outcome(unmatched, inbound=True).verdict == SUPER_ACCEPT, "we may be shown what we would not match"
    assert outcome(unmatched).verdict == ACCEPT


def test_usual_rule_sets_cost_nothing_per_frame() -> None:
    only_ip = [
        *(Rule(T.MATCH_ETHERTYPE, kind, True) for kind in (IPV4, ARP, IPV6)),
        Rule(T.ACTION_DROP),
        Rule(T.ACTION_ACCEPT),
    ]
    for rules, ethertype, expected in (
        ([Rule(T.ACTION_ACCEPT)], 0x1234, PASSED),
        (only_ip, IPV4, PASSED),
        (only_ip, ARP, PASSED),
        (only_ip, 0x1234, REFUSED),
    ):
        assert FlowFilter(rules, [], flow(ethertype=ethertype), _never).constant == expected


def _never(address: int, flags: int, payload: Any) -> None:
    raise AssertionError("nothing is to be forwarded")


def test_capabilities_decide_where_rules_do_not() -> None:
    web = (Rule(T.MATCH_IP_DEST_PORT_RANGE, Range(80, 80)), Rule(T.ACTION_ACCEPT))
    never = (Rule(T.ACTION_DROP),)
    for rules, capabilities, frame, expected in (
        ([], [web], tcp4(dport=80), PASSED),
        ([], [web], tcp4(dport=81), REFUSED),
        ([], [never, web], tcp4(dport=80), PASSED),
        ([], [], tcp4(), REFUSED),
        ([Rule(T.ACTION_DROP)], [web], tcp4(dport=80), REFUSED),
    ):
        assert FlowFilter(rules, capabilities, flow(), _never).passes(frame) == expected


def test_copies_and_redirects_are_sent() -> None:
    sent: list[tuple[int, int, bytes]] = []

    def forward(address: int, flags: int, payload: Any) -> None:
        sent.append((address, flags, bytes(payload)))

    tee = [Rule(T.ACTION_TEE, Forward(EVE, 0, 3)), Rule(T.ACTION_ACCEPT)]
    watch = [Rule(T.ACTION_WATCH, Forward(EVE, 0, 0)), Rule(T.ACTION_ACCEPT)]
    redirect = [Rule(T.ACTION_REDIRECT, Forward(EVE, 0, 0)), Rule(T.ACTION_ACCEPT)]
    for inbound, flags in ((False, (0x02, 0x16, 0x04)), (True, (0x08, 0x1C, 0x0A))):
        sent.clear()
        filters = [FlowFilter(rules, [], flow(inbound=inbound), forward) for rules in (tee, watch, redirect)]
        assert all(filter_.constant is None for filter_ in filters)
        assert [filter_.passes(b"abcdef") for filter_ in filters] == [PASSED, PASSED, REFUSED]
        assert sent == [(EVE, flags[0], b"abc"), (EVE, flags[1], b"abcdef"), (EVE, flags[2], b"abcdef")]
        sent.clear()
        assert filters[0].passes(b"abcdef", copies=False) == PASSED and not sent
    to_us = [Rule(T.ACTION_TEE, Forward(BOB, 0, 0)), Rule(T.ACTION_ACCEPT)]
    assert FlowFilter(to_us, [], flow(inbound=True), forward).passes(b"") == PASSED_UNCHECKED


simple_rules = st.one_of(
    st.builds(Rule, st.just(T.MATCH_ETHERTYPE), st.sampled_from([IPV4, ARP]), st.booleans(), st.booleans()),
    st.builds(Rule, st.just(T.MATCH_IP_PROTOCOL), st.sampled_from([6, 17]), st.booleans(), st.booleans()),
    st.builds(
        Rule,
        st.sampled_from([T.MATCH_IP_DEST_PORT_RANGE, T.MATCH_FRAME_SIZE_RANGE]),
        st.sampled_from([Range(0, 79), Range(60, 90)]),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Rule, st.just(T.MATCH_TAGS_EQUAL), st.just(TagMatch(1, 1)), st.booleans(), st.booleans()),
    st.builds(Rule, st.sampled_from([T.ACTION_ACCEPT, T.ACTION_DROP, T.ACTION_BREAK])),
)


def naive(rules: list[Rule], frame: bytes, ethertype: int, tags: dict[int, int], inbound: bool) -> int:
    """The same few rules straight from the documentation, rule by rule."""
    matches, skip_drop = True, False
    for rule in rules:
        if rule.is_action:
            if matches:
                if rule.type == T.ACTION_ACCEPT:
                    return ACCEPT
                if rule.type == T.ACTION_BREAK:
                    return NO_MATCH
                if not skip_drop:
                    return DROP
                skip_drop = False
            matches = True
            continue
        if not matches and not rule.alternative:
            continue
        result: bool | None  # None: does not apply
        if rule.type == T.MATCH_ETHERTYPE:
            result = ethertype == rule.value
        elif rule.type == T.MATCH_IP_PROTOCOL:
            result = frame[9] == rule.value if ethertype == IPV4 else None
        elif rule.type == T.MATCH_FRAME_SIZE_RANGE:
            assert isinstance(rule.value, Range)
            result = rule.value.start <= len(frame) <= rule.value.end
        elif rule.type == T.MATCH_IP_DEST_PORT_RANGE:
            assert isinstance(rule.value, Range)
            port = int.from_bytes(frame[22:24], "big")
            result = rule.value.start <= port <= rule.value.end if ethertype == IPV4 else None
        elif 1 not in tags or inbound:
            result = None
        else:
            skip_drop = True
            result = not rule.negate
        found = False if result is None else result is not rule.negate
        matches = (matches or found) if rule.alternative else found
    return NO_MATCH


@settings(max_examples=400)
@given(
    st.lists(simple_rules, max_size=10),
    st.sampled_from([40, 60, 75, 200]),
    st.sampled_from([22, 80]),
    st.sampled_from([IPV4, ARP, IPV6]),
    st.sampled_from([{}, {1: 1}]),
    st.booleans(),
)
def test_specialised_rules_say_what_the_whole_set_says(
    rules: list[Rule], length: int, port: int, ethertype: int, tags: dict[int, int], inbound: bool
) -> None:
    frame = tcp4(dport=port, length=length)
    expected = naive(rules, frame, ethertype, tags, inbound)
    assert verdict(rules, frame, ethertype=ethertype, local_tags=tags, inbound=inbound) == expected


@pytest.mark.parametrize("kind", [T.ACTION_TEE, T.ACTION_WATCH])
@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("ending", [[], [Rule(T.ACTION_BREAK)]])
def test_copies_of_base_rules_are_sent_when_a_capability_accepts(kind: int, inbound: bool, ending: list[Rule]) -> None:
    """Network::filterOutgoingPacket sends the capability's copy first and then that of the base rules."""
    sent: list[tuple[int, bytes]] = []
    base = [Rule(kind, Forward(EVE, 0, 9)), *ending]
    capability = [Rule(kind, Forward(EVE + 1, 0, 5)), Rule(T.ACTION_ACCEPT)]
    drop = [Rule(T.ACTION_DROP)]

    def forward(address: int, _flags: int, payload: Any) -> None:
        sent.append((address, bytes(payload)))

    passing = FlowFilter(base, [drop, capability], flow(inbound=inbound), forward)
    assert passing.constant is None
    assert passing.passes(tcp4()) == PASSED
    assert sent == [(EVE + 1, tcp4()[:5]), (EVE, tcp4()[:9])]
    assert passing.passes(tcp4(), copies=False) == PASSED and len(sent) == 2
    refused = FlowFilter(base, [drop], flow(inbound=inbound), forward)
    assert refused.passes(tcp4()) == REFUSED and len(sent) == 2


def test_ipv6_prefix_with_host_bits_matches_nothing() -> None:
    """InetAddress::containsAddress masks the address alone for IPv6, and both for IPv4."""
    address = IPv6Address("fd00::1").packed
    frame = udp6(source="fd00::1")
    assert holds(Rule(T.MATCH_IPV6_SOURCE, Prefix(IPv6Address("fd00::").packed, 64)), frame, ethertype=IPV6)
    assert holds(Rule(T.MATCH_IPV6_SOURCE, Prefix(address, 128)), frame, ethertype=IPV6)
    assert not holds(Rule(T.MATCH_IPV6_SOURCE, Prefix(address, 64)), frame, ethertype=IPV6)
    assert holds(Rule(T.MATCH_IPV6_SOURCE, Prefix(address, 64), negate=True), frame, ethertype=IPV6)
    assert holds(Rule(T.MATCH_IPV4_SOURCE, Prefix(IPv4Address("10.0.0.9").packed, 24)), tcp4())
