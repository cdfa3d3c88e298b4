"""The rules of a network: their binary form, and the JSON form that controllers take and show.

A rule set is a flat list. MATCH entries narrow (or, with ``alternative``, widen) what the next ACTION applies to; see
``vl2/rules.py`` for how they are evaluated. Each entry is type (1 byte: bit 7 negates, bit 6 is "or", the rest is the
number), length of the value (1 byte), value. Source: reference Capability.hpp, serializeRules and deserializeRules; the
JSON form is that of EmbeddedNetworkController.cpp, _renderRule and _parseRule.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

from ztnode.wire.buffer import Buffer
from ztnode.wire.mac import format_mac, parse_mac
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

MAX_NETWORK_RULES: Final = 1024


class RuleType(enum.IntEnum):
    """Every action and match of rules engine revision 1."""

    ACTION_DROP = 0
    ACTION_ACCEPT = 1
    ACTION_TEE = 2
    ACTION_WATCH = 3
    ACTION_REDIRECT = 4
    ACTION_BREAK = 5
    ACTION_PRIORITY = 6
    MATCH_SOURCE_ZEROTIER_ADDRESS = 24
    MATCH_DEST_ZEROTIER_ADDRESS = 25
    MATCH_VLAN_ID = 26
    MATCH_VLAN_PCP = 27
    MATCH_VLAN_DEI = 28
    MATCH_MAC_SOURCE = 29
    MATCH_MAC_DEST = 30
    MATCH_IPV4_SOURCE = 31
    MATCH_IPV4_DEST = 32
    MATCH_IPV6_SOURCE = 33
    MATCH_IPV6_DEST = 34
    MATCH_IP_TOS = 35
    MATCH_IP_PROTOCOL = 36
    MATCH_ETHERTYPE = 37
    MATCH_ICMP = 38
    MATCH_IP_SOURCE_PORT_RANGE = 39
    MATCH_IP_DEST_PORT_RANGE = 40
    MATCH_CHARACTERISTICS = 41
    MATCH_FRAME_SIZE_RANGE = 42
    MATCH_RANDOM = 43
    MATCH_TAGS_DIFFERENCE = 44
    MATCH_TAGS_BITWISE_AND = 45
    MATCH_TAGS_BITWISE_OR = 46
    MATCH_TAGS_BITWISE_XOR = 47
    MATCH_TAGS_EQUAL = 48
    MATCH_TAG_SENDER = 49
    MATCH_TAG_RECEIVER = 50
    MATCH_INTEGER_RANGE = 51


MAX_ACTION: Final = 15
"""Rule numbers up to this one are actions, known or not; all above are matches."""

CHARACTERISTIC_INBOUND: Final = 1 << 63
CHARACTERISTIC_MULTICAST: Final = 1 << 62
CHARACTERISTIC_BROADCAST: Final = 1 << 61
CHARACTERISTIC_SENDER_IP_AUTHENTICATED: Final = 1 << 60
CHARACTERISTIC_SENDER_MAC_AUTHENTICATED: Final = 1 << 59
# Bits 0 to 11 are the TCP flags, FIN lowest, then the reserved bits.
CHARACTERISTIC_TCP_SYN: Final = 0x02
CHARACTERISTIC_TCP_ACK: Final = 0x10


@dataclass(frozen=True, slots=True)
class Forward:
    """Where TEE, WATCH and REDIRECT send: a ZeroTier address, flags, and the bytes to copy (0: all)."""

    address: int
    flags: int
    length: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """An IP address (4 or 16 bytes) and the number of its bits that count."""

    address: bytes
    bits: int


@dataclass(frozen=True, slots=True)
class Tos:
    """Matches if the traffic class, masked, lies in start to end inclusive."""

    mask: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class IcmpMatch:
    """Matches type and, if flag 1 is set, code."""

    type: int
    code: int
    flags: int


@dataclass(frozen=True, slots=True)
class Range:
    """Ports or frame sizes, both ends inclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TagMatch:
    """A tag's id and the number that it is compared with."""

    id: int
    value: int


@dataclass(frozen=True, slots=True)
class IntegerRange:
    """An integer inside the frame: ``offset`` in bytes, ``format`` bits minus one, bit 7 set for little-endian."""

    start: int
    end: int
    offset: int
    format: int


RuleValue: TypeAlias = int | bytes | Forward | Prefix | Tos | IcmpMatch | Range | TagMatch | IntegerRange | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry. ``type`` is a RuleType, or the bare number of a kind not known here.

    The value of an unknown kind is raw bytes, of addresses, MACs and plain numbers an int, of actions without argument
    None.
    """

    type: int
    value: RuleValue = None
    negate: bool = False
    alternative: bool = False

    @property
    def is_action(self) -> bool:
        return self.type <= MAX_ACTION


@dataclass(frozen=True, slots=True)
class _Codec:
    """``parse`` and ``build`` convert between the value and ``length`` bytes, the other two between it and JSON."""

    length: int
    parse: Callable[[bytes], RuleValue]
    build: Callable[[Any], bytes]
    build_json: Callable[[Any], dict[str, Any]]
    parse_json: Callable[[Mapping[str, Any]], RuleValue]


def _numbers(value: Any) -> list[int]:
    """The fields of a value, in order."""
    return [getattr(value, field.name) for field in fields(value)]


def _number(item: Any, base: int = 10) -> int:
    """An integer of the JSON form: a number, or its digits. The reference writes addresses and masks in hexadecimal."""
    if isinstance(item, str):
        if len(item) > 20:
            raise ValueError(f"not an integer: {item[:20]!r}…")
        return int(item, base)
    if isinstance(item, bool) or not isinstance(item, int):
        raise ValueError(f"not an integer: {item!r}")
    return item


def _unsigned(name: str, length: int, fmt: str | None = None) -> _Codec:
    limit = (1 << 8 * length) - 1
    return _Codec(
        length,
        lambda data: int.from_bytes(data, "big"),
        lambda value: int(value).to_bytes(length, "big"),
        lambda value: {name: value if fmt is None else format(value, fmt)},
        lambda item: _number(item.get(name, 0), 10 if fmt is None else 16) & limit,
    )


def _structured(layout: str, kind: type[Any], names: Sequence[str]) -> _Codec:
    """A value of several numbers, ``names`` being the JSON names of its fields."""
    codec = struct.Struct(layout)
    limits = [(1 << 8 * struct.calcsize(">" + code)) - 1 for code in layout[1:]]

    def parse_json(item: Mapping[str, Any]) -> RuleValue:
        numbers = [_number(item.get(name, 0)) & limit for name, limit in zip(names, limits, strict=True)]
        if kind is Range and "end" not in item:
            numbers[1] = numbers[0]
        result: RuleValue = kind(*numbers)
        return result

    return _Codec(
        codec.size,
        lambda data: kind(*codec.unpack(data)),
        lambda value: codec.pack(*_numbers(value)),
        lambda value: dict(zip(names, _numbers(value), strict=True)),
        parse_json,
    )


def _forward() -> _Codec:
    codec = struct.Struct(">QIH")
    return _Codec(
        codec.size,
        lambda data: Forward(*codec.unpack(data)),
        lambda value: codec.pack(*_numbers(value)),
        lambda value: {"address": f"{value.address:010x}", "flags": value.flags, "length": value.length},
        lambda item: Forward(
            _number(item.get("address", 0), 16) & 0xFFFFFFFFFF,
            _number(item.get("flags", 0)) & 0xFFFFFFFF,
            _number(item.get("length", 0)) & 0xFFFF,
        ),
    )


def _prefix(size: int) -> _Codec:
    def parse_json(item: Mapping[str, Any]) -> RuleValue:
        text, _, bits = str(item.get("ip", "0.0.0.0" if size == 4 else "::")).partition("/")
        packed = ip_address(text).packed
        if len(packed) != size:
            raise ValueError(f"{text} is of the wrong address family")
        return Prefix(packed, min(int(bits), 8 * size) if bits else 0)

    return _Codec(
        size + 1,
        lambda data: Prefix(data[:size], data[size]),
        lambda value: value.address + bytes((value.bits,)),
        lambda value: {"ip": f"{ip_address(value.address)}/{value.bits}"},
        parse_json,
    )


def _icmp() -> _Codec:
    def parse_json(item: Mapping[str, Any]) -> RuleValue:
        code = item.get("icmpCode")
        kind = _number(item.get("icmpType", 0)) & 0xFF
        return IcmpMatch(kind, 0, 0) if code is None else IcmpMatch(kind, _number(code) & 0xFF, 1)

    return _Codec(
        3,
        lambda data: IcmpMatch(*data),
        lambda value: bytes(_numbers(value)),
        lambda value: {"icmpType": value.type, "icmpCode": value.code if value.flags & 1 else None},
        parse_json,
    )


def _integer_range() -> _Codec:
    codec = struct.Struct(">QQHB")
    return _Codec(
        codec.size,
        lambda data: IntegerRange(*codec.unpack(data)),
        lambda value: codec.pack(*_numbers(value)),
        lambda value: {
            "start": f"{value.start:016x}",
            "end": f"{value.end:016x}",
            "idx": value.offset,
            "little": bool(value.format & 0x80),
            "bits": (value.format & 63) + 1,
        },
        lambda item: IntegerRange(
            _number(item.get("start", 0), 16) & (1 << 64) - 1,
            _number(item.get("end", 0), 16) & (1 << 64) - 1,
            _number(item.get("idx", 0)) & 0xFFFF,
            (0x80 if item.get("little") else 0) | ((_number(item.get("bits", 1)) - 1) & 63),
        ),
    )


def _mac() -> _Codec:
    return _Codec(
        6,
        lambda data: int.from_bytes(data, "big"),
        lambda value: int(value).to_bytes(6, "big"),
        lambda value: {"mac": format_mac(value)},
        lambda item: parse_mac(str(item.get("mac", "00:00:00:00:00:00"))),
    )


_T: TypeAlias = RuleType
_TAG: Final = _structured(">II", TagMatch, ("id", "value"))
_RANGE: Final = _structured(">HH", Range, ("start", "end"))
_CODECS: Final[dict[int, _Codec]] = {
    _T.ACTION_TEE: _forward(),
    _T.ACTION_WATCH: _forward(),
    _T.ACTION_REDIRECT: _forward(),
    _T.MATCH_SOURCE_ZEROTIER_ADDRESS: _unsigned("zt", 5, "010x"),
    _T.MATCH_DEST_ZEROTIER_ADDRESS: _unsigned("zt", 5, "010x"),
    _T.MATCH_VLAN_ID: _unsigned("vlanId", 2),
    _T.MATCH_VLAN_PCP: _unsigned("vlanPcp", 1),
    _T.MATCH_VLAN_DEI: _unsigned("vlanDei", 1),
    _T.MATCH_MAC_SOURCE: _mac(),
    _T.MATCH_MAC_DEST: _mac(),
    _T.MATCH_IPV4_SOURCE: _prefix(4),
    _T.MATCH_IPV4_DEST: _prefix(4),
    _T.MATCH_IPV6_SOURCE: _prefix(16),
    _T.MATCH_IPV6_DEST: _prefix(16),
    _T.MATCH_IP_TOS: _structured(">BBB", Tos, ("mask", "start", "end")),
    _T.MATCH_IP_PROTOCOL: _unsigned("ipProtocol", 1),
    _T.MATCH_ETHERTYPE: _unsigned("etherType", 2),
    _T.MATCH_ICMP: _icmp(),
    _T.MATCH_IP_SOURCE_PORT_RANGE: _RANGE,
    _T.MATCH_IP_DEST_PORT_RANGE: _RANGE,
    _T.MATCH_CHARACTERISTICS: _unsigned("mask", 8, "016x"),
    _T.MATCH_FRAME_SIZE_RANGE: _RANGE,
    _T.MATCH_RANDOM: _unsigned("probability", 4),
    _T.MATCH_TAGS_DIFFERENCE: _TAG,
    _T.MATCH_TAGS_BITWISE_AND: _TAG,
    _T.MATCH_TAGS_BITWISE_OR: _TAG,
    _T.MATCH_TAGS_BITWISE_XOR: _TAG,
    _T.MATCH_TAGS_EQUAL: _TAG,
    _T.MATCH_TAG_SENDER: _TAG,
    _T.MATCH_TAG_RECEIVER: _TAG,
    _T.MATCH_INTEGER_RANGE: _integer_range(),
}


def parse_rules_from(reader: Reader, count: int) -> tuple[Rule, ...]:
    """The next ``count`` rules, fewer if the message ends before. Raises WireError on a broken one."""
    rules: list[Rule] = []
    while len(rules) < count and reader.remaining:
        head = reader.u8()
        number = head & 0x3F
        data = reader.take(reader.u8())
        codec = _CODECS.get(number)
        value: RuleValue
        if codec is None:
            value = data or None
        elif len(data) < codec.length:
            raise WireError(f"rule {number} with a value of {len(data)} bytes")
        else:
            value = codec.parse(data[: codec.length])
        rules.append(Rule(number, value, bool(head & 0x80), bool(head & 0x40)))
    return tuple(rules)


def parse_rules(data: Buffer) -> tuple[Rule, ...]:
    """All rules in ``data``, at most MAX_NETWORK_RULES of them. Raises WireError."""
    return parse_rules_from(Reader(data), MAX_NETWORK_RULES)


def build_rules(rules: Iterable[Rule]) -> bytes:
    """The wire form."""
    parts = []
    for rule in rules:
        codec = _CODECS.get(rule.type)
        value = codec.build(rule.value) if codec is not None else _raw(rule)
        head = rule.type | (0x80 if rule.negate else 0) | (0x40 if rule.alternative else 0)
        parts.append(bytes((head, len(value))) + value)
    return b"".join(parts)


def _raw(rule: Rule) -> bytes:
    """The value of a rule without a codec."""
    return rule.value if isinstance(rule.value, bytes) else b""


def build_rule_json(rule: Rule) -> dict[str, Any]:
    """A rule as the controller's API shows it; an unknown kind as its number and its value in hexadecimal."""
    flags = {"not": rule.negate, "or": rule.alternative}
    try:
        name = RuleType(rule.type).name
    except ValueError:
        return {"type": "UNKNOWN", "number": rule.type, "value": _raw(rule).hex(), **flags}
    codec = _CODECS.get(rule.type)
    fields = codec.build_json(rule.value) if codec is not None else {}
    if name.startswith("ACTION_") and not rule.negate and not rule.alternative:
        flags = {}  # they mean nothing there, and the reference shows none
    return {"type": name.replace("MATCH_INTEGER", "INTEGER"), **fields, **flags}


def parse_rule_json(item: Mapping[str, Any]) -> Rule:
    """The inverse of ``build_rule_json``, as lenient as the reference about what is left out. Raises ValueError."""
    name = str(item.get("type", ""))
    negate, alternative = bool(item.get("not", False)), bool(item.get("or", False))
    if name == "UNKNOWN":
        raw = bytes.fromhex(item.get("value", ""))
        return Rule(_number(item.get("number")) & 0x3F, raw or None, negate, alternative)
    try:
        number = RuleType["MATCH_" + name if name == "INTEGER_RANGE" else name]
    except KeyError:
        raise ValueError(f"unknown rule type {name!r}") from None
    codec = _CODECS.get(number)
    return Rule(number, codec.parse_json(item) if codec is not None else None, negate, alternative)
