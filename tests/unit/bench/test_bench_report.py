"""The verdicts of the benchmark table."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pytest
from rich.console import Console

from tests.bench.comparison import worse
from tests.bench.report import LeftOut, Result, Row, number, show


@pytest.mark.parametrize(
    ("value", "verdict"), [(12.0, "aim"), (11.9, "must"), (6.0, "must"), (5.9, "missed")], ids=lambda case: str(case)
)
def test_more_is_better(value: float, verdict: str) -> None:
    row = Row("s", "w", "MB/s", [value], must=6, aim=12)
    assert row.verdict == verdict


@pytest.mark.parametrize(("value", "verdict"), [(2.0, "aim"), (2.1, "must"), (5.0, "must"), (5.1, "missed")])
def test_less_is_better(value: float, verdict: str) -> None:
    assert Row("s", "w", "ms", [value], must=5, aim=2, less_is_better=True).verdict == verdict


@pytest.mark.parametrize(("peers", "verdict"), [([10.0], "aim"), ([15.0], "must"), ([30.0], "missed")])
def test_the_bar_may_be_on_the_ratio(peers: list[float], verdict: str) -> None:
    row = Row("s", "w", "MB/s", [10.0], "libzt", peers, must=0.5, aim=1, times=True)
    assert row.verdict == verdict


def test_a_measured_aim_is_for_the_figure_and_the_must_for_the_ratio() -> None:
    """Twice libzt's is the bar, the kernel's figure the aim."""

    def verdict(ours: float, libzt: float) -> str:
        return Row(
            "s", "w", "MB/s", [ours], "libzt", [libzt], must=2.0, times=True, aim_samples=[9.0, 8.0, 70.0]
        ).verdict

    assert verdict(9.0, 4.5) == "aim"
    assert verdict(9.0, 4.6) == "missed"
    assert verdict(8.9, 4.0) == "must"
    assert verdict(8.9, 6.0) == "missed"


def test_no_bar_no_verdict_and_no_peer_no_ratio() -> None:
    row = Row("s", "w", "MB/s", [1.0, 3.0, 100.0])
    assert (row.verdict, row.ratio, row.value) == ("", None, 3.0)
    assert Row("s", "w", "MB/s", [1.0], must=2, times=True).verdict == ""


def test_the_table_shows_what_was_left_out_and_why() -> None:
    page = io.StringIO()
    rows: list[Result] = [Row("one", "speed", "MB/s", [123.4], must=200), LeftOut("two", "rival", "not to be had")]
    show(rows, "title", Console(file=page, width=200))
    text = page.getvalue()
    assert "123 MB/s" in text and "missed" in text and "left out: not to be had" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.0004, "< 0.001"), (0.9561, "0.956"), (9.41, "9.41"), (93.0, "93.0"), (538.8, "539")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_what_got_worse_is_told_and_noise_is_not() -> None:
    def row(what: str, *samples: float, less: bool = False, peer: Sequence[float] = ()) -> Row:
        return Row("s", what, "ms", samples, "zerotier-one", peer, less_is_better=less)

    before: list[Result] = [
        row("slower", 1, 1.1, 1.2, less=True),
        row("within what it was", 1, 1.1, 1.5, less=True),
        row("less of the good", 100, 110, 105),
        row("a busy machine", 100, 110, 105, peer=[50, 50, 50]),
        row("worse than the other", 100, 110, 105, peer=[50, 50, 50]),
        LeftOut("s", "not here", "no reason"),
    ]
    saved = {"results": [each.as_json() for each in before]}
    now: list[Result] = [
        row("slower", 2, 2.2, 2.1, less=True),
        row("within what it was", 1.4, 1.4, 1.4, less=True),
        row("less of the good", 90, 91, 92),
        row("a busy machine", 50, 55, 52, peer=[25, 25, 25]),
        row("worse than the other", 100, 110, 105, peer=[90, 90, 90]),
        row("new", 1),
        row("not here", 1),
    ]
    assert worse(now, json.loads(json.dumps(saved))) == [
        "s: slower: 2.10 ms, 1.10 then, 91% worse",
        "s: worse than the other: 1.17 times zerotier-one, 2.10 then, 80% worse",
        "s: less of the good: 91.0 ms, 105 then, 15% worse",
    ]
    assert worse(before, saved) == []
