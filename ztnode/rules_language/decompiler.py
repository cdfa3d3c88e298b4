"""From tables to a text that compiles to them."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ztnode.rules_language.arguments import U32
from ztnode.rules_language.vocabulary import ACTIONS, CHARACTERISTICS, ETHERTYPES, IP_PROTOCOLS, MATCHES
from ztnode.wire.address import format_address
from ztnode.wire.mac import format_mac
from ztnode.wire.rules import Forward, Rule, RuleType, build_rule_json

_T: TypeAlias = RuleType
Capability: TypeAlias = tuple[int, bool, Sequence[Rule]]
"""Its number, whether new members get it, its rules."""


def decompile(
    rules: Sequence[Rule], capabilities: Iterable[Capability] = (), tags: Iterable[tuple[int, int | None]] = ()
) -> str:
    """``tags``: number and default value of each. What the language has no words for stands in a comment that says so;
    all else compiles to the same tables."""
    known = {}
    text = []
    for identifier, default in tags:
        known[identifier] = f"tag_{identifier}"
        default_line = "" if default is None else f"\tdefault {default}\n"
        text.append(f"tag {known[identifier]}\n\tid {identifier}\n{default_line};\n")
    writer = _Writer(known)
    for identifier, default, grant in capabilities:
        default_line = "\tdefault\n" if default else ""
        body = writer.table(grant, "\t")
        text.append(f"cap cap_{identifier}\n\tid {identifier}\n{default_line}{body};\n")
    text.append(writer.table(rules, ""))
    return "\n".join(filter(None, text))


class _Writer:
    def __init__(self, tags: Mapping[int, str]) -> None:
        self._tags = tags

    def table(self, rules: Sequence[Rule], indent: str) -> str:
        """The statements of one table."""
        parts: list[str] = []
        matches: list[Rule] = []
        last = len(rules) - 1
        for at, rule in enumerate(rules):
            if rule.is_action:
                parts.append(self._statement(rule, matches, indent, is_last=at == last))
                matches = []
            else:
                matches.append(rule)
        if matches:
            parts.append(_comment(matches, "matches without an action", indent))
        return "".join(parts) if indent else "\n".join(parts)

    def _statement(self, action: Rule, matches: Sequence[Rule], indent: str, *, is_last: bool) -> str:
        head = _action(action)
        words = [self._match(match) for match in matches]
        if head is None or None in words:
            return _comment([*matches, action], "the language has no words for this", indent)
        if words:
            return f"{indent}{head}\n" + "".join(f"{indent}\t{word}\n" for word in words) + f"{indent};\n"
        if isinstance(action.value, Forward):
            return f"{indent}{head};\n"
        # At the top "accept;" ends nothing, and takes what follows for its matches; in a block it ends that.
        return f"{indent}{head};\n" if is_last and not indent else f"{indent}{head} and ;\n"

    def _match(self, rule: Rule) -> str | None:
        words = self._words(rule)
        flags = ("or " if rule.alternative else "") + ("not " if rule.negate else "")
        return None if words is None else flags + words

    def _words(self, rule: Rule) -> str | None:
        value: Any = rule.value
        word = _WORDS.get(rule.type)
        if word is None:
            return None
        if rule.type in _TAGS:
            return f"{word} {self._tags.get(value.id, value.id)} {value.value}"
        arguments = _ARGUMENTS[rule.type](value)
        return None if arguments is None else f"{word} {arguments}"


def _comment(rules: Iterable[Rule], reason: str, indent: str) -> str:
    return "".join(f"{indent}# {reason}: {build_rule_json(rule)}\n" for rule in rules)


def _action(rule: Rule) -> str | None:
    word = _WORDS.get(rule.type)
    if word is None or not isinstance(rule.value, Forward):
        return word
    if rule.value.flags or rule.value.address >> 40:
        return None
    target = format_address(rule.value.address)
    if rule.type == _T.ACTION_REDIRECT:
        return None if rule.value.length else f"{word} {target}"
    return f"{word} {rule.value.length} {target}"


def _prefix(value: Any) -> str | None:
    address = ipaddress.ip_address(value.address)
    return f"{address}/{value.bits}" if value.bits <= address.max_prefixlen else None


def _range(value: Any) -> str | None:
    if value.start == value.end:
        return str(value.start)
    return f"{value.start}-{value.end}" if value.start < value.end else None


def _tos(value: Any) -> str | None:
    between = _range(value)
    return None if between is None else f"0x{value.mask:02x} {between}"


def _mask(value: int) -> str | None:
    names = [_BITS.get(bit, str(bit)) for bit in range(64) if value >> bit & 1]
    return ",".join(names) or None


def _probability(value: int) -> str:
    """A fraction that is rounded to the value again."""
    fraction = value / U32
    while math.floor(U32 * fraction) < value:
        fraction = math.nextafter(fraction, 2.0)
    return repr(fraction)


_WORDS: Final[dict[int, str]] = {
    RuleType[name.format(version)]: word for word, name in (ACTIONS | MATCHES).items() for version in (4, 6)
}
_TAGS: Final = frozenset(each for each in _T if each.name.startswith(("MATCH_TAG_", "MATCH_TAGS_")))
_BITS: Final = {bit: name for name, bit in CHARACTERISTICS.items()}
_ETHERTYPES: Final = {number: name for name, number in ETHERTYPES.items()}
_IP_PROTOCOLS: Final = {number: name for name, number in IP_PROTOCOLS.items()}
_ARGUMENTS: Final[dict[int, Callable[[Any], str | None]]] = {
    _T.MATCH_SOURCE_ZEROTIER_ADDRESS: format_address,
    _T.MATCH_DEST_ZEROTIER_ADDRESS: format_address,
    _T.MATCH_VLAN_ID: str,
    _T.MATCH_VLAN_PCP: str,
    _T.MATCH_VLAN_DEI: str,
    _T.MATCH_MAC_SOURCE: format_mac,
    _T.MATCH_MAC_DEST: format_mac,
    _T.MATCH_IPV4_SOURCE: _prefix,
    _T.MATCH_IPV4_DEST: _prefix,
    _T.MATCH_IPV6_SOURCE: _prefix,
    _T.MATCH_IPV6_DEST: _prefix,
    _T.MATCH_IP_TOS: _tos,
    _T.MATCH_IP_PROTOCOL: lambda value: _IP_PROTOCOLS.get(value, str(value)),
    _T.MATCH_ETHERTYPE: lambda value: _ETHERTYPES.get(value, f"0x{value:04x}"),
    _T.MATCH_ICMP: lambda value: f"{value.type} {value.code if value.flags & 1 else -1}",
    _T.MATCH_IP_SOURCE_PORT_RANGE: _range,
    _T.MATCH_IP_DEST_PORT_RANGE: _range,
    _T.MATCH_FRAME_SIZE_RANGE: _range,
    _T.MATCH_CHARACTERISTICS: _mask,
    _T.MATCH_RANDOM: _probability,
}
