"""From the text to the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ztnode.rules_language import matches
from ztnode.rules_language.arguments import address, number, quoted
from ztnode.rules_language.definitions import Definitions, TagDefinition, define, next_word, split_call
from ztnode.rules_language.reader import Block, Node, Word, read
from ztnode.rules_language.vocabulary import ACTIONS, MATCHES, OPENERS, PRIORITY, RESERVED
from ztnode.wire.capability import MAX_CAPABILITY_RULES
from ztnode.wire.rules import MAX_NETWORK_RULES

MAX_STEPS: Final = 100_000
"""Items that are looked at, those of a macro and its arguments each time that it is included: a bound on the work,
whatever the text."""
MAX_INCLUDE_DEPTH: Final = 64
RuleJson = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """The tables, each rule as the controller's API has it; by names what the text defines."""

    rules: tuple[RuleJson, ...]
    capabilities: tuple[dict[str, Any], ...]
    """``id``, ``default`` and ``rules`` of each."""
    tags: tuple[dict[str, Any], ...]
    """``id`` and ``default`` (a number or None) of each."""
    capabilities_by_name: Mapping[str, int]
    tags_by_name: Mapping[str, TagDefinition]

    def config(self) -> dict[str, Any]:
        """The settings of a network, as a controller takes them."""
        return {"rules": list(self.rules), "capabilities": list(self.capabilities), "tags": list(self.tags)}


def compile_rules(source: str) -> CompiledRules:
    """Raises RulesError, with the line, the column and what is wrong there. Time and memory are bounded by the length
    of the text and ``MAX_STEPS``."""
    definitions = define(read(source))
    renderer = _Renderer(definitions)
    capabilities = tuple(
        {"id": each.id, "default": each.default, "rules": renderer.render(each.body, MAX_CAPABILITY_RULES)}
        for each in definitions.capabilities.values()
    )
    return CompiledRules(
        rules=tuple(renderer.render(definitions.rules, MAX_NETWORK_RULES)),
        capabilities=capabilities,
        tags=tuple({"id": tag.id, "default": tag.default} for tag in definitions.tags.values()),
        capabilities_by_name={name: each.id for name, each in definitions.capabilities.items()},
        tags_by_name=definitions.tags,
    )


class _Renderer:
    """Writes the rules of one text, table by table."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._steps = 0
        self._limit = 0
        self._rules: list[RuleJson] = []

    def render(self, body: list[Node], limit: int) -> list[RuleJson]:
        """One table of at most ``limit`` rules."""
        self._limit = limit
        self._rules = []
        self._actions(body, {}, 0)
        return self._rules

    def _step(self, word: Word, items: int = 1) -> None:
        self._steps += items
        if self._steps > MAX_STEPS:
            raise word.error("macros that include macros come to more than can be worked out")

    def _append(self, rule: RuleJson, word: Word) -> None:
        if len(self._rules) >= self._limit:
            raise word.error(f"more than {self._limit} rules: each match and each action is one")
        self._rules.append(rule)

    def _actions(self, body: list[Node], parameters: Mapping[str, str], depth: int) -> None:
        rest = iter([*body, None])
        node = next(rest)
        while node is not None:
            following = next(rest)
            if isinstance(node, Word):
                self._step(node)
                match word := node.text.lower():
                    case "include":
                        self._include(following, node, depth)
                        following = next(rest)
                    case _ if word in ACTIONS:
                        items = following.items if isinstance(following, Block) else []
                        self._action(word, node, items, parameters)
                    case _ if word == PRIORITY:
                        raise node.error("a network's configuration has no room for priorities")
                    case _:
                        raise node.error(_not_an_action(word, node))
            node = following  # a block has been looked at with the word before it

    def _include(self, name: Node | None, word: Word, depth: int) -> None:
        if not isinstance(name, Word):
            raise word.error("include needs the name of a macro after it")
        called, given = split_call(name.text)
        self._step(name, len(given))
        macro = self._definitions.macros.get(called)
        if macro is None:
            hint = ": names of macros are kept in small letters" if called.lower() in self._definitions.macros else ""
            raise name.error(f'there is no macro "{called[:64]}"{hint}')
        if depth >= MAX_INCLUDE_DEPTH:
            raise name.error("macros include one another too deeply")
        self._step(name, len(macro.parameters))
        values = list(filter(None, given))
        if any(place >= len(values) for place in macro.parameters.values()):
            raise name.error(f'the macro "{called[:64]}" needs {", ".join(macro.parameters)}')
        self._actions(macro.body, {each: values[place] for each, place in macro.parameters.items()}, depth + 1)

    def _action(self, action: str, word: Word, items: list[Node], parameters: Mapping[str, str]) -> None:
        rest = iter(items)
        rule: RuleJson = {"type": ACTIONS[action]}
        if action in ("tee", "watch", "redirect"):
            length = None
            if action != "redirect":
                length = _length(next_word(rest, word, "a length in bytes (-1: all) and a ZeroTier address"))
            rule["address"] = address(next_word(rest, word, "a ZeroTier address"))
            if length is not None:
                rule["length"] = length
        self._matches(rest, parameters)
        self._append(rule, word)

    def _matches(self, rest: Iterator[Node], parameters: Mapping[str, str]) -> None:
        negate = alternative = False
        pending: Word | None = None
        for node in rest:
            if isinstance(node, Block):
                continue  # its opener, which is no match, has been refused before it
            self._step(node)
            match word := node.text.lower():
                case "and":
                    continue
                case "not":
                    negate, pending = True, node
                case "or":
                    alternative, pending = True, node
                case _ if word in MATCHES:
                    words = [self._argument(rest, node, parameters) for _ in range(matches.arity(word))]
                    rule = matches.fields(word, words, self._definitions.tags)
                    self._append({**rule, "not": negate, "or": alternative}, node)
                    negate = alternative = False
                    pending = None
                case _:
                    raise node.error(_not_a_match(word, node))
        if pending is not None:
            raise pending.error(f"{quoted(pending)} needs a match after it")

    def _argument(self, rest: Iterator[Node], match: Word, parameters: Mapping[str, str]) -> Word:
        word = next_word(rest, match, "an argument" if matches.arity(match.text.lower()) == 1 else "two arguments")
        self._step(word)
        if word.text in RESERVED:
            raise word.error(f"{quoted(word)} is a word of the language, where {quoted(match)} needs an argument")
        if not word.text.startswith("$"):
            return word
        if word.text not in parameters:
            raise word.error(f"there is no parameter {quoted(word)} here")
        return Word(parameters[word.text], word.line, word.column)


def _length(word: Word) -> int:
    return -1 if word.text == "-1" else number(word, 0xFFFF)


def _not_an_action(word: str, node: Word) -> str:
    if word in MATCHES or word in ("not", "or", "and"):
        return f"{quoted(node)} is a match, and no action is open here: they are written in small letters"
    return f"{quoted(node)} is no action: {', '.join(ACTIONS)} or include"


def _not_a_match(word: str, node: Word) -> str:
    if word in OPENERS or word == "include":
        return (
            f"{quoted(node)} is no match: a semicolon is missing before it, or the action that is open has "
            'none, which is written "accept and ;" where others follow'
        )
    return f"{quoted(node)} is no match"
