"""The text of a network's tables: the one that they were set from, as long as it is that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ztnode.rules_language.compiler import compile_rules
from ztnode.rules_language.decompiler import Capability, decompile
from ztnode.rules_language.rules_error import RulesError
from ztnode.wire.rules import Rule, parse_rule_json

CHANGED: Final = "# The kept text is not that of the rules in force, which are these.\n\n"


def current_text(
    kept: str, rules: Sequence[Rule], capabilities: Sequence[Capability], tags: Sequence[tuple[int, int | None]]
) -> str:
    """``kept``: what the tables were set from, empty where nobody knows; another program may have changed them."""
    if kept and is_text_of(kept, rules, capabilities, tags):
        return kept if kept.endswith("\n") else kept + "\n"
    return (CHANGED if kept else "") + decompile(rules, capabilities, tags)


def is_text_of(
    text: str, rules: Sequence[Rule], capabilities: Sequence[Capability], tags: Sequence[tuple[int, int | None]]
) -> bool:
    """Whether a text compiles to these tables."""
    try:
        compiled = compile_rules(text)
    except RulesError:
        return False
    return (
        parse_tables(compiled.rules) == list(rules)
        and [(each["id"], each["default"], parse_tables(each["rules"])) for each in compiled.capabilities]
        == [(number, default, list(each)) for number, default, each in capabilities]
        and [(tag["id"], tag["default"]) for tag in compiled.tags] == list(tags)
    )


def parse_tables(table: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """Rules from their JSON."""
    return [parse_rule_json(rule) for rule in table]
