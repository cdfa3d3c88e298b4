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
    kept: str, rules: Sequence[Rule], capabilities: Iterable[Capability], tags: Iterable[tuple[int, int | None]]
) -> str:
    """``kept``: what the tables were set from, empty where nobody knows; another program may have changed them."""
    tables = list(rules), [(number, default, list(each)) for number, default, each in capabilities], list(tags)
    if kept and _tables_of(kept) == tables:
        return kept if kept.endswith("\n") else kept + "\n"
    return (CHANGED if kept else "") + decompile(*tables)


def parse_tables(table: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """Rules from their JSON."""
    return [parse_rule_json(rule) for rule in table]


def _tables_of(text: str) -> tuple[list[Rule], list[tuple[int, bool, list[Rule]]], list[tuple[int, int | None]]] | None:
    try:
        compiled = compile_rules(text)
    except RulesError:
        return None
    capabilities = [(each["id"], each["default"], parse_tables(each["rules"])) for each in compiled.capabilities]
    return parse_tables(compiled.rules), capabilities, [(tag["id"], tag["default"]) for tag in compiled.tags]
