"""Macros, tags and capabilities, before their rules are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ztnode.rules_language.arguments import U32, number, quoted
from ztnode.rules_language.reader import Block, Node, Word
from ztnode.rules_language.vocabulary import DEFINITIONS, RESERVED
from ztnode.wire.network_config import MAX_CAPABILITIES, MAX_TAGS


@dataclass(frozen=True, slots=True)
class Macro:
    """``parameters``: the place of each, from 0, by its name with the dollar."""

    parameters: Mapping[str, int]
    body: list[Node]


@dataclass(frozen=True, slots=True)
class TagDefinition:
    """``enums`` are names of values, ``flags`` names of masks of 32 bits."""

    id: int
    default: int | None = None
    enums: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CapabilityDefinition:
    """``default``: new members get it."""

    id: int
    default: bool
    body: list[Node]


@dataclass(slots=True)
class Definitions:
    """What a text defines, by name in the order of the text, and the rest of it."""

    macros: dict[str, Macro] = field(default_factory=dict)
    tags: dict[str, TagDefinition] = field(default_factory=dict)
    capabilities: dict[str, CapabilityDefinition] = field(default_factory=dict)
    rules: list[Node] = field(default_factory=list)


def split_call(text: str) -> tuple[str, list[str]]:
    """``name(a,b)`` as the name and what is in the parentheses; without them the list is empty. An empty place may be
    at either end."""
    name, parenthesis, rest = text.partition("(")
    if not name or not parenthesis:
        return text, []
    return name, re.split("[,)]+", rest)


def define(items: list[Node]) -> Definitions:
    """Sort the outermost items. Raises RulesError."""
    found = Definitions()
    nodes = iter(items)
    for node in nodes:
        keyword = node.text.lower() if isinstance(node, Word) else ""
        if isinstance(node, Block) or keyword not in DEFINITIONS:
            found.rules.append(node)
            continue
        block = next(nodes, None)
        if not isinstance(block, Block) or not isinstance(block.items[0], Word):
            raise node.error(f"{keyword}: a name is missing")
        head, body = block.items[0], block.items[1:]
        for each, taken, limit in (("cap", found.capabilities, MAX_CAPABILITIES), ("tag", found.tags, MAX_TAGS)):
            if keyword == each and len(taken) >= limit:
                raise node.error(f"{keyword}: a network has at most {limit} of them")
        if keyword == "macro":
            name, parameters = split_call(head.text.lower())
            _check_name(name, head, "macro", found.macros)
            places = {parameter: place for place, parameter in enumerate(parameters) if parameter}
            found.macros[name] = Macro(places, body)
        elif keyword == "tag":
            name = head.text.lower()
            _check_name(name, head, "tag", found.tags)
            found.tags[name] = _TagReader(head, body).read()
        else:
            name = head.text.lower()
            _check_name(name, head, "capability", found.capabilities)
            found.capabilities[name] = _capability(head, body, {each.id for each in found.capabilities.values()})
    return found


def _check_name(name: str, word: Word, what: str, taken: Mapping[str, object]) -> None:
    if not _is_name(name):
        raise word.error(f"{quoted(word)} is no name: letters, digits and _, with no digit first")
    if name in RESERVED:
        raise word.error(f"{quoted(word)} is a word of the language and cannot name a {what}")
    if name in taken:
        raise word.error(f"the {what} {quoted(word)} is defined twice")


def _is_name(text: str) -> bool:
    return (
        bool(text)
        and not "0" <= text[0] <= "9"
        and all(each == "_" or each.isalpha() or "0" <= each <= "9" for each in text)
    )


class _TagReader:
    """Reads ``id``, ``default``, ``flag`` and ``enum`` of one tag."""

    def __init__(self, head: Word, body: list[Node]) -> None:
        self._head = head
        self._rest = iter(body)
        self._enums: dict[str, int] = {}
        self._flags: dict[str, int] = {}
        self._id: int | None = None
        self._default: Word | None = None

    def read(self) -> TagDefinition:
        for node in self._rest:
            if isinstance(node, Block):
                raise node.opener.error("no block may stand in a tag")
            self._directive(node)
        if self._id is None:
            raise self._head.error("a tag needs an id")
        default = None
        if self._default is not None:
            names = self._enums if self._default.text in self._enums else self._flags
            default = number(self._default, U32, names)
        return TagDefinition(self._id, default, self._enums, self._flags)

    def _directive(self, word: Word) -> None:
        match word.text.lower():
            case "id":
                if self._id is not None:
                    raise word.error("the tag has an id already")
                self._id = number(next_word(self._rest, word, "a number"), U32)
            case "default":
                if self._default is not None:
                    raise word.error("the tag has a default already")
                self._default = next_word(self._rest, word, "a value")
            case "flag":
                bits = next_word(self._rest, word, "the number of a bit and a name")
                mask = 0
                for text in bits.text.lower().split(","):
                    each = Word(text, bits.line, bits.column)
                    mask |= self._flags[text] if text in self._flags else 1 << number(each, 31)
                self._name(word, self._flags, mask)
            case "enum":
                value = number(next_word(self._rest, word, "a value and a name"), U32)
                self._name(word, self._enums, value)
            case _:
                raise word.error(f"{quoted(word)} is none of id, default, enum and flag")

    def _name(self, keyword: Word, names: dict[str, int], value: int) -> None:
        word = next_word(self._rest, keyword, "a name")
        name = word.text.lower()
        if not _is_name(name):
            raise word.error(f"{quoted(word)} is no name: letters, digits and _, with no digit first")
        if name in names:
            raise word.error(f"{quoted(word)} is defined twice in this tag")
        names[name] = value


def next_word(rest: Iterator[Node], after: Word, what: str) -> Word:
    """The word behind ``after``. Raises RulesError, with ``what`` is missing."""
    node = next(rest, None)
    if not isinstance(node, Word):
        raise after.error(f"{quoted(after)} needs {what} after it")
    return node


def _capability(head: Word, items: list[Node], taken: set[int]) -> CapabilityDefinition:
    identifier: int | None = None
    default = False
    body: list[Node] = []
    rest = iter(items)
    for node in rest:
        match node.text.lower() if isinstance(node, Word) else "":
            case "id" if isinstance(node, Word):
                if identifier is not None:
                    raise node.error("the capability has an id already")
                identifier = number(next_word(rest, node, "a number"), U32)
                if identifier in taken:
                    raise node.error(f"another capability has the id {identifier}")
            case "default":
                default = True
            case _:
                body.append(node)
    if identifier is None:
        raise head.error("a capability needs an id")
    return CapabilityDefinition(identifier, default, body)
