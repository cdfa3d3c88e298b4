"""What each match means: its words to the fields of the rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ztnode.rules_language import arguments
from ztnode.rules_language.arguments import U32, hexadecimal, number, number_range, quoted
from ztnode.rules_language.definitions import TagDefinition
from ztnode.rules_language.reader import Word
from ztnode.rules_language.vocabulary import ETHERTYPES, IP_PROTOCOLS, MATCHES

Fields = dict[str, Any]
_Tags = Mapping[str, TagDefinition]
_Words = Sequence[Word]


def arity(match: str) -> int:
    """How many arguments the match takes."""
    return 2 if match in ("icmp", "iptos") or match in _TAG_MATCHES else 1


def fields(match: str, words: _Words, tags: _Tags) -> Fields:
    """The members of the rule, its type among them. Raises RulesError."""
    if match in _TAG_MATCHES:
        return {"type": MATCHES[match], **_tag(words, tags)}
    if match in ("ipsrc", "ipdest"):
        return {"type": MATCHES[match].format(arguments.prefix(words[0])), "ip": words[0].text}
    return {"type": MATCHES[match], **_PLAIN[match](words)}


def _mac(words: _Words) -> Fields:
    digits = hexadecimal(words[0], 12, "MAC address")
    return {"mac": ":".join(digits[at : at + 2] for at in range(0, 12, 2))}


def _port_range(words: _Words) -> Fields:
    start, end = number_range(words[0], 0xFFFF)
    return {"start": start, "end": end}


def _tos(words: _Words) -> Fields:
    mask = number(words[0], 0xFF)
    start, end = number_range(words[1], 0xFF)
    return {"mask": mask, "start": start, "end": end}


def _address(words: _Words) -> Fields:
    return {"zt": hexadecimal(words[0], 10, "ZeroTier address")}


def _tag(words: _Words, tags: _Tags) -> Fields:
    name, value = words
    tag = tags.get(name.text)
    if tag is not None:
        names = tag.flags if value.text in tag.flags else tag.enums
        return {"id": tag.id, "value": number(value, U32, names)}
    if name.text.lower() in tags:
        raise name.error(f"there is no tag {quoted(name)}: names of tags are kept in small letters")
    if not name.text[:1].isdecimal():
        raise name.error(f"there is no tag {quoted(name)}")
    return {"id": number(name, U32), "value": number(value, U32)}


_TAG_MATCHES: Final = frozenset(("tand", "tor", "txor", "tdiff", "teq", "tseq", "treq"))
_PLAIN: Final[dict[str, Callable[[_Words], Fields]]] = {
    "ztsrc": _address,
    "ztdest": _address,
    "vlan": lambda words: {"vlanId": number(words[0], 0xFFFF)},
    "vlanpcp": lambda words: {"vlanPcp": number(words[0], 0xFF)},
    "vlandei": lambda words: {"vlanDei": number(words[0], 0xFF)},
    "ethertype": lambda words: {"etherType": number(words[0], 0xFFFF, ETHERTYPES)},
    "macsrc": _mac,
    "macdest": _mac,
    "iptos": _tos,
    "ipprotocol": lambda words: {"ipProtocol": number(words[0], 0xFF, IP_PROTOCOLS)},
    "icmp": lambda words: {"icmpType": number(words[0], 0xFF), "icmpCode": arguments.optional_byte(words[1])},
    "sport": _port_range,
    "dport": _port_range,
    "framesize": _port_range,
    "chr": lambda words: {"mask": f"{arguments.mask(words[0]):016x}"},
    "random": lambda words: {"probability": math.floor(U32 * arguments.probability(words[0]))},
}
