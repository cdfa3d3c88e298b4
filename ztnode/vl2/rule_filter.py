"""The rules engine: decides for every frame whether it may pass, and who else gets to see it.

Theory of operation. A rule set is a list of sets: matches, then one action that is taken if the matches hold.
Evaluation stops at the first ACCEPT, DROP, BREAK, PRIORITY or effective REDIRECT. Most of what is matched is the same
for all frames between two members (Ethernet type, MACs, addresses), so a set of rules is first specialised for one
``EthernetFlow``: matches that depend on the flow alone become constants, sets that cannot hold vanish, and what is left
is often a single verdict. The usual rule sets ("accept", "drop what is not IP or ARP") so cost nothing per frame.

Semantics: reference Network.cpp, _doZtFilter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from ztnode.wire import rules as wire
from ztnode.wire.buffer import Buffer
from ztnode.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6
from ztnode.wire.mac import BROADCAST, is_multicast
from ztnode.wire.rules import Rule, RuleType

NO_MATCH: Final = 0
DROP: Final = 1
REDIRECT: Final = 2
ACCEPT: Final = 3
SUPER_ACCEPT: Final = 4
"""Accepted as the target of a TEE or REDIRECT: MAC and bridging checks do not apply."""

_T: TypeAlias = RuleType
_FINAL: Final = (_T.ACTION_ACCEPT, _T.ACTION_BREAK, _T.ACTION_PRIORITY)
_PORT_PROTOCOLS: Final = (0x06, 0x11, 0x84, 0x88)  # TCP, UDP, SCTP, UDP-Lite
_IPV6_OPTIONS: Final = (0, 43, 60, 135)  # headers with a length field that may stand before the payload
_TCP: Final = 6
_ICMPV6: Final = 0x3A
_STATIC_CHARACTERISTICS: Final = (
    wire.CHARACTERISTIC_INBOUND | wire.CHARACTERISTIC_MULTICAST | wire.CHARACTERISTIC_BROADCAST
)


@dataclass(frozen=True, slots=True)
class EthernetFlow:
    """What is the same for all frames of one direction between two Ethernet addresses.

    ``tag`` gives the remote member's value for a tag id, None if unknown; ``owns`` says whether the sender has a
    certificate of ownership for an IP address or MAC. Addresses are 40-bit; ``destination`` is 0 where there is no
    single one.
    """

    inbound: bool
    local: int
    source: int
    destination: int
    source_mac: int
    destination_mac: int
    ethertype: int
    local_tags: Mapping[int, int]
    tag: Callable[[int], int | None]
    owns: Callable[[IPv4Address | IPv6Address | int], bool]
    random: Callable[[], int]
    """A random number of 32 bits."""
    unsupported_matches: bool = False


# Named tuples from here on, not dataclasses: made, or taken apart, for every frame that a rule looks at.


class Copy(NamedTuple):
    """A TEE or WATCH: the first ``length`` bytes go to ``address``, too; 0 is all of them."""

    address: int
    length: int
    watch: bool


class Outcome(NamedTuple):
    """``redirect`` is the address that gets the frame instead when the verdict is REDIRECT. The copy of a NO_MATCH is
    sent if a capability lets the frame pass."""

    verdict: int
    copy: Copy | None = None
    redirect: int = 0


DEAR: Final = 32
"""Matches that look at the frame from which on a filter is dear: its outcomes are remembered by what it looks at, and
whoever asks may want to count the cost."""
MAX_REMEMBERED: Final = 512
"""Outcomes that one dear filter remembers."""
_UNCACHEABLE: Final = (_T.MATCH_RANDOM, _T.MATCH_INTEGER_RANGE)

_PLAIN: Final = tuple(Outcome(verdict) for verdict in range(5))

Match: TypeAlias = Callable[[Buffer, "_State"], bool]


class _State:
    """What one evaluation carries along."""

    __slots__ = ("skip_drop", "super_accept")

    def __init__(self) -> None:
        self.skip_drop = False
        self.super_accept = False


class _Term(NamedTuple):
    """A match of a set: ``test`` is a constant or looks at the frame."""

    test: Match | bool
    negate: bool
    alternative: bool


class _Set(NamedTuple):
    """``terms`` empty: always holds."""

    terms: tuple[_Term, ...]
    action: Rule


class Filter:
    """A rule set specialised for one flow. ``constant`` is the outcome if it is the same for every frame, else None."""

    __slots__ = ("_flow", "_outcomes", "_sets", "constant", "cost")

    def __init__(self, rules: Sequence[Rule], flow: EthernetFlow) -> None:
        self._flow = flow
        self._sets = _specialise(rules, flow)
        needs_frame = any(entry.terms for entry in self._sets)
        self.constant: Outcome | None = None if needs_frame else self.evaluate(b"")
        self.cost = sum(len(entry.terms) for entry in self._sets)
        """Matches that one frame may need."""
        self._outcomes: dict[tuple[object, ...], Outcome] | None = None
        if self.cost >= DEAR and not any(rule.type in _UNCACHEABLE for rule in rules):
            self._outcomes = {}

    def known(self, frame: Buffer) -> Outcome | None:
        """The outcome for one frame if a frame that looks the same to these rules has come before."""
        return None if self._outcomes is None else self._outcomes.get(_appearance(frame, self._flow.ethertype))

    def learn(self, frame: Buffer) -> Outcome:
        """As ``evaluate``, and remembers the outcome where that can be done."""
        outcome = self.evaluate(frame)
        if self._outcomes is not None and (appearance := _appearance(frame, self._flow.ethertype)):
            if len(self._outcomes) >= MAX_REMEMBERED:
                self._outcomes.clear()
            self._outcomes[appearance] = outcome
        return outcome

    def evaluate(self, frame: Buffer) -> Outcome:
        """The outcome for one frame, given as its Ethernet payload."""
        flow = self._flow
        state = _State()
        copy: Copy | None = None
        for terms, action in self._sets:
            holds = True
            for test, negate, alternative in terms:
                if not holds and not alternative:
                    continue
                result = (test if isinstance(test, bool) else test(frame, state)) is not negate
                holds = (holds or result) if alternative else result
            kind = action.type
            forward = action.value
            if not holds:
                if isinstance(forward, wire.Forward) and flow.inbound and forward.address == flow.local:
                    state.super_accept = True
            elif kind == _T.ACTION_ACCEPT:
                verdict = SUPER_ACCEPT if state.super_accept else ACCEPT
                return Outcome(verdict, copy) if copy else _PLAIN[verdict]
            elif kind == _T.ACTION_PRIORITY:
                return Outcome(ACCEPT, copy) if copy else _PLAIN[ACCEPT]
            elif kind == _T.ACTION_DROP:
                if not state.skip_drop:
                    return _PLAIN[DROP]
                state.skip_drop = False
            elif kind == _T.ACTION_BREAK:
                break
            elif isinstance(forward, wire.Forward) and forward.address != flow.source:
                if flow.inbound and forward.address == flow.local:
                    return Outcome(SUPER_ACCEPT, copy)
                if forward.address in (flow.local, flow.destination):
                    pass
                elif kind == _T.ACTION_REDIRECT:
                    return Outcome(REDIRECT, copy, forward.address)
                else:
                    copy = Copy(forward.address, forward.length, kind == _T.ACTION_WATCH)
        return Outcome(NO_MATCH, copy) if copy else _PLAIN[NO_MATCH]


def _appearance(frame: Buffer, ethertype: int) -> tuple[object, ...]:
    """All that matches look at in an IP packet, random numbers and arbitrary octets excepted; empty for what cannot be
    put so shortly."""
    if ethertype == TYPE_IPV4 and len(frame) >= 20:
        offset, addresses, protocol = (frame[0] & 0x0F) * 4, bytes(frame[12:20]), frame[9]
    elif ethertype == TYPE_IPV6 and len(frame) >= 40:
        offset, addresses, protocol = 40, bytes(frame[8:40]), frame[6]
        if protocol in _IPV6_OPTIONS or protocol == _ICMPV6:
            return ()
    else:
        return ()
    transport = bytes(frame[offset : offset + 4]), bytes(frame[offset + 12 : offset + 14])
    return (len(frame), bytes(frame[:2]), protocol, addresses, *transport)


def _specialise(rules: Iterable[Rule], flow: EthernetFlow) -> tuple[_Set, ...]:
    sets: list[_Set] = []
    terms: list[_Term] = []
    for rule in rules:
        if not rule.is_action:
            terms.append(_Term(_match(rule, flow), rule.negate, rule.alternative))
            continue
        folded = _fold(terms)
        terms = []
        if folded is not None:
            sets.append(_Set(folded, rule))
            if not folded and (rule.type in _FINAL or (rule.type == _T.ACTION_DROP and not _looks_at_tags(sets))):
                break
        elif isinstance(rule.value, wire.Forward) and flow.inbound and rule.value.address == flow.local:
            # Never taken, but it tells us that we are its target (super accept).
            sets.append(_Set((_Term(False, False, False),), rule))
    return tuple(sets)


def _looks_at_tags(sets: Iterable[_Set]) -> bool:
    return any(isinstance(term.test, _TagTest) for entry in sets for term in entry.terms)


def _fold(terms: Sequence[_Term]) -> tuple[_Term, ...] | None:
    """The terms without constants where that changes nothing: empty if they always hold, None if they never do."""
    if all(isinstance(term.test, bool) for term in terms):
        holds = True
        for term in terms:
            if holds or term.alternative:
                result = term.test is not term.negate
                holds = (holds or result) if term.alternative else result
        return () if holds else None
    if any(term.alternative for term in terms):
        return tuple(terms)
    if any(isinstance(term.test, bool) and term.test is term.negate for term in terms):
        # The reference would evaluate the terms before this one, but in a conjunction only to no effect, unless one
        # looks at a tag, which may keep the next DROP from being taken.
        before = next(i for i, term in enumerate(terms) if isinstance(term.test, bool) and term.test is term.negate)
        if not any(isinstance(term.test, _TagTest) for term in terms[:before]):
            return None
        return tuple(terms)
    return tuple(term for term in terms if not isinstance(term.test, bool))


def _ipv6_payload(frame: Buffer) -> tuple[int, int] | None:
    """Offset and protocol of what an IPv6 packet carries behind its options; None if it is broken."""
    if len(frame) < 40:
        return None
    offset, protocol = 40, frame[6]
    while offset <= len(frame):
        if protocol not in _IPV6_OPTIONS:
            return offset, protocol
        if offset + 8 > len(frame):
            return None
        protocol = frame[offset]
        offset += frame[offset + 1] * 8 + 8
    return None


def _transport(frame: Buffer, ethertype: int) -> tuple[int, int] | None:
    """Offset and protocol of the transport header; None if there is none."""
    if ethertype == TYPE_IPV4:
        return ((frame[0] & 0x0F) * 4, frame[9]) if len(frame) >= 20 else None
    if ethertype == TYPE_IPV6:
        return _ipv6_payload(frame)
    return None


class _TagTest:
    """A match on tags. A tag that we cannot know yet matches, whatever the sense, and spares the frame the next DROP:
    the receiver knows better."""

    __slots__ = ("_flow", "_negate", "_rule", "_wanted")

    def __init__(self, rule: Rule, wanted: wire.TagMatch, flow: EthernetFlow) -> None:
        self._rule = rule.type
        self._negate = rule.negate
        self._wanted = wanted
        self._flow = flow

    def __call__(self, _frame: Buffer, state: _State) -> bool:
        if self._rule in (_T.MATCH_TAG_SENDER, _T.MATCH_TAG_RECEIVER):
            return self._one_side(state)
        return self._both_sides(state)

    def _unknown(self, state: _State) -> bool:
        state.skip_drop = True
        return not self._negate

    def _one_side(self, state: _State) -> bool:
        if state.super_accept:
            return self._unknown(state)
        flow, wanted = self._flow, self._wanted
        about_sender = self._rule == _T.MATCH_TAG_SENDER
        if about_sender == flow.inbound:
            value = flow.tag(wanted.id)
            if value is None and not about_sender:
                return self._unknown(state)
        else:
            value = flow.local_tags.get(wanted.id)
        return self._negate if value is None else value == wanted.value

    def _both_sides(self, state: _State) -> bool:
        flow, wanted = self._flow, self._wanted
        local = flow.local_tags.get(wanted.id)
        if local is None:
            return self._negate
        remote = flow.tag(wanted.id)
        if remote is None:
            return self._negate if flow.inbound and not state.super_accept else self._unknown(state)
        return _TAG_COMPARISONS[self._rule](local, remote, wanted.value)


_TAG_COMPARISONS: Final[dict[int, Callable[[int, int, int], bool]]] = {
    _T.MATCH_TAGS_DIFFERENCE: lambda a, b, value: abs(a - b) <= value,
    _T.MATCH_TAGS_BITWISE_AND: lambda a, b, value: a & b == value,
    _T.MATCH_TAGS_BITWISE_OR: lambda a, b, value: a | b == value,
    _T.MATCH_TAGS_BITWISE_XOR: lambda a, b, value: a ^ b == value,
    _T.MATCH_TAGS_EQUAL: lambda a, b, value: a == value and b == value,
}


def _match(rule: Rule, flow: EthernetFlow) -> Match | bool:
    """The test of one match for one flow. What cannot apply to the flow's frames at all gives the same result with NOT
    and without (``hardNo`` in the reference), hence the comparisons with ``rule.negate``."""
    kind, value = rule.type, rule.value
    never = rule.negate
    if isinstance(value, wire.TagMatch):
        return _TagTest(rule, value, flow)
    if isinstance(value, wire.Prefix):
        return _prefix_match(kind, value, flow.ethertype, never)
    if isinstance(value, wire.Tos):
        return _tos_match(value, flow.ethertype, never)
    if isinstance(value, wire.IcmpMatch):
        return _icmp_match(value, flow.ethertype, never)
    if isinstance(value, wire.IntegerRange):
        return _integer_match(value)
    if isinstance(value, wire.Range):
        if kind == _T.MATCH_FRAME_SIZE_RANGE:
            start, end = value.start, value.end
            return lambda frame, _state: start <= len(frame) <= end
        return _port_match(kind, value, flow.ethertype, never)
    if not isinstance(value, int):
        return flow.unsupported_matches
    if kind == _T.MATCH_IP_PROTOCOL:
        return _protocol_match(value, flow.ethertype, never)
    if kind == _T.MATCH_CHARACTERISTICS:
        return _characteristics_match(value, flow)
    if kind == _T.MATCH_RANDOM:
        return lambda _frame, _state: flow.random() <= value
    known: dict[int, int] = {
        _T.MATCH_SOURCE_ZEROTIER_ADDRESS: flow.source,
        _T.MATCH_DEST_ZEROTIER_ADDRESS: flow.destination,
        _T.MATCH_VLAN_ID: 0,
        _T.MATCH_VLAN_PCP: 0,
        _T.MATCH_VLAN_DEI: 0,
        _T.MATCH_MAC_SOURCE: flow.source_mac,
        _T.MATCH_MAC_DEST: flow.destination_mac,
        _T.MATCH_ETHERTYPE: flow.ethertype,
    }
    return known[kind] == value if kind in known else flow.unsupported_matches


def _prefix_match(kind: int, prefix: wire.Prefix, ethertype: int, never: bool) -> Match | bool:
    size = len(prefix.address)
    if ethertype != (TYPE_IPV4 if size == 4 else TYPE_IPV6):
        return never
    minimum = 20 if size == 4 else 40
    source, destination = (12, 16) if size == 4 else (8, 24)
    start = source if kind in (_T.MATCH_IPV4_SOURCE, _T.MATCH_IPV6_SOURCE) else destination
    shift = 8 * size - min(prefix.bits, 8 * size)
    wanted = int.from_bytes(prefix.address, "big") >> shift
    # The reference compares all bits of an IPv6 prefix with the masked address: host bits make it match nothing.
    if size == 16 and wanted << shift != int.from_bytes(prefix.address, "big"):
        wanted = -1

    def test(frame: Buffer, _state: _State) -> bool:
        if len(frame) < minimum:
            return never
        return int.from_bytes(frame[start : start + size], "big") >> shift == wanted

    return test


def _tos_match(tos: wire.Tos, ethertype: int, never: bool) -> Match | bool:
    if ethertype not in (TYPE_IPV4, TYPE_IPV6):
        return never
    version6 = ethertype == TYPE_IPV6

    def test(frame: Buffer, _state: _State) -> bool:
        if len(frame) < (40 if version6 else 20):
            return never
        traffic_class = (frame[0] << 4 & 0xF0 | frame[1] >> 4) if version6 else frame[1]
        return tos.start <= traffic_class & tos.mask <= tos.end

    return test


def _protocol_match(wanted: int, ethertype: int, never: bool) -> Match | bool:
    if ethertype not in (TYPE_IPV4, TYPE_IPV6):
        return never

    def test(frame: Buffer, _state: _State) -> bool:
        found = _transport(frame, ethertype)
        return never if found is None else found[1] == wanted

    return test


def _icmp_match(icmp: wire.IcmpMatch, ethertype: int, never: bool) -> Match | bool:
    if ethertype not in (TYPE_IPV4, TYPE_IPV6):
        return never
    protocol = 1 if ethertype == TYPE_IPV4 else _ICMPV6

    def test(frame: Buffer, _state: _State) -> bool:
        found = _transport(frame, ethertype)
        if found is None or found[1] != protocol or len(frame) < found[0] + 2 or frame[found[0]] != icmp.type:
            return never
        # A matching type alone matches whatever the sense of the rule; only the code can be negated.
        return frame[found[0] + 1] == icmp.code if icmp.flags & 1 else not never

    return test


def _port_match(kind: int, ports: wire.Range, ethertype: int, never: bool) -> Match | bool:
    if ethertype not in (TYPE_IPV4, TYPE_IPV6):
        return never
    skip = 2 if kind == _T.MATCH_IP_DEST_PORT_RANGE else 0

    def test(frame: Buffer, _state: _State) -> bool:
        found = _transport(frame, ethertype)
        if found is None:
            return never
        offset, protocol = found
        if protocol not in _PORT_PROTOCOLS or len(frame) <= offset + 4:
            return False
        return ports.start <= (frame[offset + skip] << 8 | frame[offset + skip + 1]) <= ports.end

    return test


def _integer_match(wanted: wire.IntegerRange) -> Match:
    bits = (wanted.format & 63) + 1
    size = (bits + 7) // 8
    little = bool(wanted.format & 0x80)
    start = wanted.offset if little else wanted.offset + 8 - size

    def test(frame: Buffer, _state: _State) -> bool:
        number = 0
        if start + size <= len(frame):
            number = int.from_bytes(frame[start : start + size], "little" if little else "big")
            number = number >> (8 * size - bits) if little else number & (1 << bits) - 1
        return wanted.start <= number <= wanted.end

    return test


def _characteristics_match(mask: int, flow: EthernetFlow) -> Match | bool:
    static = wire.CHARACTERISTIC_INBOUND if flow.inbound else 0
    if is_multicast(flow.destination_mac):
        static |= wire.CHARACTERISTIC_MULTICAST
    if flow.destination_mac == BROADCAST:
        static |= wire.CHARACTERISTIC_BROADCAST
    if static & mask:
        return True
    if not mask & ~_STATIC_CHARACTERISTICS:
        return False
    if mask & wire.CHARACTERISTIC_SENDER_MAC_AUTHENTICATED and flow.owns(flow.source_mac):
        return True
    authenticated = mask & wire.CHARACTERISTIC_SENDER_IP_AUTHENTICATED
    tcp = mask & 0xFFF

    def test(frame: Buffer, _state: _State) -> bool:
        if authenticated and _sender_authenticated(frame, flow):
            return True
        if not tcp:
            return False
        found = _transport(frame, flow.ethertype)
        if found is None or found[1] != _TCP or len(frame) < found[0] + 14:
            return False
        return bool((frame[found[0] + 12] & 0x0F) << 8 & tcp or frame[found[0] + 13] & tcp)

    return test


def _sender_authenticated(frame: Buffer, flow: EthernetFlow) -> bool:
    """Whether the sender owns the IP address that the frame claims to come from.

    Neighbour solicitations pass, since their source may be empty; advertisements must be for an owned address.
    """
    if flow.ethertype == TYPE_IPV4 and len(frame) >= 20:
        return flow.owns(IPv4Address(bytes(frame[12:16])))
    if flow.ethertype == TYPE_ARP and len(frame) >= 28:
        return flow.owns(IPv4Address(bytes(frame[14:18])))
    if flow.ethertype == TYPE_IPV6 and len(frame) >= 40:
        if len(frame) >= 64 and frame[6] == _ICMPV6 and frame[40] in (0x87, 0x88):
            return frame[40] == 0x87 or flow.owns(IPv6Address(bytes(frame[48:64])))
        return flow.owns(IPv6Address(bytes(frame[8:24])))
    return False
