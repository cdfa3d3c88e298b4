"""Tables written in the language compile to the same tables again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rules_language.test_compiler import CASES
from ztnode.controller.documents import parse_network
from ztnode.rules_language import compile_rules, decompile
from ztnode.wire.rules import Forward, IntegerRange, Rule, RuleType, build_rule_json, parse_rule_json, parse_rules
from ztnode.wire.wire_error import WireError

RICH = json.loads((Path(__file__).parents[2] / "vectors/vl2/rich-rules.json").read_text())


def parsed(config: dict[str, Any]) -> Any:
    """The tables as values, without the flags of actions, which mean nothing."""
    network = parse_network(config, 1)
    return network.rules, network.capabilities, network.tags


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "error" not in case])
def test_there_and_back(name: str) -> None:
    config = compile_rules("\n".join(CASES[name]["source"])).config()
    rules, capabilities, tags = parsed(config)
    text = decompile(rules, [(each.id, each.default, each.rules) for each in capabilities], tags)
    assert "#" not in text
    if len({tag for tag, _ in tags}) == len(tags):
        assert parsed(compile_rules(text).config()) == (rules, capabilities, tags), text


def test_what_it_has_no_words_for_is_a_comment() -> None:
    rules = [
        *(parse_rule_json(rule) for rule in RICH["rules"]),
        Rule(RuleType.MATCH_INTEGER_RANGE, IntegerRange(1, 2, 3, 4)),
        Rule(60, b"x"),
        Rule(RuleType.ACTION_DROP),
        Rule(RuleType.ACTION_TEE, Forward(0x0123456789, 1, 0)),
        Rule(RuleType.ACTION_PRIORITY),
        Rule(RuleType.MATCH_VLAN_ID, 5),
    ]
    text = decompile(rules)
    assert "INTEGER_RANGE" in text and "ACTION_TEE" in text and "ACTION_PRIORITY" in text and "UNKNOWN" in text
    assert "matches without an action" in text
    compile_rules(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([each.value for each in RuleType]), st.binary(max_size=20)), max_size=12))
def test_any_table_comes_back_or_says_so(entries: list[tuple[int, bytes]]) -> None:
    try:
        rules = parse_rules(b"".join(bytes((kind, len(data))) + data for kind, data in entries))
    except WireError:
        return
    text = decompile(rules)
    back = [build_rule_json(parse_rule_json(rule)) for rule in compile_rules(text).rules]
    if "#" not in text:
        assert back == [build_rule_json(rule) for rule in rules], text
