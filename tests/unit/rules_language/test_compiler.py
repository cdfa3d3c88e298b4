"""The language of rules: what ZeroTier's own compiler makes of a text, ours makes too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rules_language.reference_compiler import VECTORS, compile_there
from ztnode.rules_language import CompiledRules, RulesError, compile_rules, compiler
from ztnode.rules_language.reader import MAX_SOURCE
from ztnode.rules_language.vocabulary import ACTIONS, CHARACTERISTICS, MATCHES, RESERVED
from ztnode.wire.capability import MAX_CAPABILITY_RULES
from ztnode.wire.rules import MAX_NETWORK_RULES

CASES = {case["name"]: case for case in json.loads(VECTORS.read_text())}
ELSEWHERE = {
    "reserved protocol": (1, 17),
    "second argument missing": (1, 6),
    "reserved argument": (1, 12),
    "tee without target": (1, 1),
    "tee length": (1, 5),
    "macro reserved": (1, 7),
    "macro of itself": (1, 17),
}
"""Errors that we show at the word itself, and the reference before it, behind it or nowhere."""
WRONG_THERE = {"characteristics with the highest bit": "c000000000000000"}
"""Masks in which the reference loses a bit to the sign of a 32-bit number."""


def compiled(case: dict[str, Any]) -> CompiledRules:
    return compile_rules("\n".join(case["source"]))


def same(ours: CompiledRules, theirs: dict[str, Any]) -> None:
    assert ours.config() == theirs["config"]
    assert ours.capabilities_by_name == theirs["capabilitiesByName"]
    shown = {
        name: {"id": tag.id, "default": tag.default, "enums": tag.enums, "flags": tag.flags}
        for name, tag in ours.tags_by_name.items()
    }
    assert shown == theirs["tagsByName"]


@pytest.mark.parametrize("name", CASES)
def test_as_the_reference_compiles_it(name: str) -> None:
    case = CASES[name]
    if name in WRONG_THERE:
        ours, theirs = compiled(case).rules, case["config"]["rules"]
        assert ours[0]["mask"] == WRONG_THERE[name] != theirs[0]["mask"] and ours[1:] == tuple(theirs[1:])
    elif "error" not in case:
        same(compiled(case), case)
    else:
        with pytest.raises(RulesError) as refused:
            compiled(case)
        line, column = case["error"]
        place = (line, column + 1) if line == 1 else (line, column)
        assert (refused.value.line, refused.value.column) == ELSEWHERE.get(name, place)


@pytest.mark.skipif("ZTNODE_RULE_COMPILER" not in os.environ, reason="ZTNODE_RULE_COMPILER names no rule-compiler/")
def test_the_reference_itself() -> None:
    directory = Path(os.environ["ZTNODE_RULE_COMPILER"])
    garbles_macs = "charcount" not in (directory / "rule-compiler.js").read_text()  # npm's 1.2.2-2
    for name, case in CASES.items():
        if not (name in ("macs", "mac short") and garbles_macs):
            there = compile_there(directory, "\n".join(case["source"]))
            assert there == {key: value for key, value in case.items() if key not in ("name", "source")}, name
    for example in sorted((directory / "examples").glob("*.ztrules")):
        same(compile_rules(example.read_text()), compile_there(directory, example.read_text()))


@pytest.mark.parametrize(
    ("source", "line", "column", "said"),
    [
        # There the number before the junk counts.
        ("drop dport 22x ;", 1, 12, "no number"),
        ("drop dport 22#ssh\n;", 1, 12, "no number"),
        # There the controller cuts these to the bits that there are.
        ("drop vlan 65536 ;", 1, 11, "65535"),
        ("drop ethertype 0x10800 ;", 1, 16, "65535"),
        ("drop ipprotocol 262 ;", 1, 17, "255"),
        ("drop ipsrc 10.0.0.0/33 ;", 1, 12, "32"),
        ("drop ipsrc 10.0.0.0/ ;", 1, 12, "lacks"),
        ("drop ipsrc x10.0.0.0/8 ;", 1, 12, "no network"),
        ("drop macsrc 01:02:03:04:05:06:07 ;", 1, 13, "12 hexadecimal"),
        # There they mean nothing, without a word.
        ("drop not ;", 1, 6, "needs a match"),
        ("drop chr , ;", 1, 10, "no bit"),
        ("drop random often ;", 1, 13, "probability"),
        ("tag t id 1 default nothing ;", 1, 20, "no name for one"),
        ("accept ;\ndrop dport 1 ;\ndrop ;", 3, 1, "holds nothing"),
    ],
)
def test_what_would_mean_something_else_is_refused(source: str, line: int, column: int, said: str) -> None:
    with pytest.raises(RulesError, match=said) as refused:
        compile_rules(source)
    assert (refused.value.line, refused.value.column) == (line, column)


def test_the_highest_bit_of_a_tag() -> None:
    result = compile_rules("tag t id 1 default top flag 31 top ;\naccept tand t top ;")
    assert result.tags == ({"id": 1, "default": 1 << 31},) and result.rules[0]["value"] == 1 << 31
    assert compile_rules("tag t id 1 default 0xffffffff ;").tags[0]["default"] == 0xFFFFFFFF


def test_a_message_says_what_to_do() -> None:
    for source, said in (
        ("drop;\naccept;", '"accept and ;"'),
        ("tag Dep id 1 ;\naccept teq Dep 1 ;", "small letters"),
        ("DROP dport 1 ;", "small letters"),
        ("macro m($a,$b) drop dport $a ; ;\ninclude m(1)", r"needs \$a, \$b"),
        ("priority 1 dport 2 ;", "priorities"),
        ("cap c id 1 accept dport 22;;", '"; ;"'),
    ):
        with pytest.raises(RulesError, match=said.replace("(", r"\(")):
            compile_rules(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x" * (MAX_SOURCE + 1), "longer"),
        ("drop " * 40_000, "holds nothing"),
        ("drop dport 1 ;\n" * (MAX_NETWORK_RULES // 2 + 1), "1024 rules"),
        ("cap c id 1\n" + "drop dport 1 ;\n" * (MAX_CAPABILITY_RULES // 2 + 1), "64 rules"),
        ("\n".join(f"tag t{n} id {n} ;" for n in range(129)), "at most 128"),
        ("\n".join(f"cap c{n} id {n} ;" for n in range(129)), "at most 128"),
        ("macro a include b ;\nmacro b include a ;\ninclude a", "too deeply"),
        # 2^40 includes that come to not one rule, and 2^40 that come to one each.
        (
            "".join(f"macro m{n} include m{n + 1} include m{n + 1} ;\n" for n in range(40)) + "macro m40;\ninclude m0",
            "more",
        ),
        (
            "".join(f"macro m{n} include m{n + 1} include m{n + 1} ;\n" for n in range(40))
            + "macro m40 drop dport 1 ; ;\ninclude m0",
            "1024 rules",
        ),
        ("tag t id 1" + " enum 1 a" * 20_000, "twice"),
        ("drop dport " + "9" * 200_000 + " ;", "no number"),
        ("drop chr " + ",0" * 100_000 + " ;\ndrop dport x ;", "no number"),
        ("macro m(" + "$a," * 60_000 + ") drop dport $a ; ;\ninclude m(1)", "needs"),
        # 81,000,000 arguments.
        (
            f"macro m({'$a,' * 9000}) ;\nmacro a include m({'1,' * 9000}) ;\n" + "include a " * 9000,
            "more than can be worked out",
        ),
    ],
    ids=range(14),
)
def test_no_text_takes_more_than_its_share(source: str, said: str, count_steps: Callable[[], int]) -> None:
    with pytest.raises(RulesError, match=said) as refused:
        compile_rules(source)
    assert len(str(refused.value)) < 1000
    assert count_steps() <= compiler.MAX_STEPS + 1


@pytest.fixture
def count_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    steps = 0
    step = compiler._Renderer._step

    def counted(self: Any, word: Any, items: int = 1) -> None:
        nonlocal steps
        steps += min(items, 1)
        step(self, word, items)

    monkeypatch.setattr(compiler._Renderer, "_step", counted)
    return lambda: steps


LOOSE = "id flag $a m m($a) m(1) t tcp 22 1-9 10.0.0.0/8 0123456789 , ; ;; # \n -1"
WORDS = [*sorted(RESERVED), *LOOSE.split(" "), "\r"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=60), st.sampled_from([" ", "\n", ";\n"]))
def test_any_text_compiles_or_is_refused_in_place(words: list[str], between: str) -> None:
    source = between.join(words)
    try:
        result = compile_rules(source)
    except RulesError as error:
        assert 1 <= error.line <= source.count("\n") + source.count("\r") + 1
        assert error.column >= 1 and error.message and "\n" not in error.message
    else:
        assert len(result.rules) <= MAX_NETWORK_RULES


def test_every_match_of_the_reference_is_tried() -> None:
    text = " ".join(" ".join(case["source"]) for case in CASES.values())
    assert MATCHES.keys() <= set(text.split())


def test_the_example_of_the_docs_compiles() -> None:
    text = (Path(__file__).parents[3] / "docs/RULES.md").read_text()
    result = compile_rules(text.partition('title="rules.ztrules"\n')[2].partition("```")[0])
    assert result.capabilities_by_name == {"ssh": 5} and result.tags_by_name["department"].enums["sales"] == 7
    assert [rule["type"] for rule in result.rules if rule["type"].startswith("ACTION")] == [
        "ACTION_DROP",
        "ACTION_ACCEPT",
        "ACTION_ACCEPT",
        "ACTION_ACCEPT",
    ]
    # Every word is explained there.
    assert {*MATCHES, *ACTIONS, *CHARACTERISTICS} - {"tcp_rs0", "tcp_rs1", "tcp_rs2"} <= set(re.findall(r"\w+", text))
