"""What a benchmark found, and how it is shown: one table on the terminal, one JSON file with every sample."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

SHORTEST = 0.001
"""Smallest figure that is shown as it is, rather than as 0."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: ours, and beside it what somebody else's program did in the same run.

    ``must`` and ``aim`` are bounds on the figure or, where ``times`` is set, on the ratio of the figure to the peer's.
    """

    section: str
    what: str
    unit: str
    samples: Sequence[float]
    peer: str = ""
    peer_samples: Sequence[float] = ()
    must: float | None = None
    aim: float | None = None
    less_is_better: bool = False
    times: bool = False
    aim_samples: Sequence[float] = ()
    """An aim that was itself measured, in the figure's unit."""
    note: str = ""

    @property
    def value(self) -> float:
        """The median of our samples."""
        return statistics.median(self.samples)

    @property
    def peer_value(self) -> float | None:
        """The median of the peer's."""
        return statistics.median(self.peer_samples) if self.peer_samples else None

    @property
    def ratio(self) -> float | None:
        """How many times the peer's figure ours is."""
        peer = self.peer_value
        return self.value / peer if peer else None

    @property
    def verdict(self) -> str:
        """``aim``, ``must`` or ``missed``: the highest bar that was reached; empty where there is none."""
        judged = self.ratio if self.times else self.value
        aim = statistics.median(self.aim_samples) if self.aim_samples else self.aim
        aimed = self.value if self.aim_samples else judged
        if judged is None or aimed is None or (self.must is None and aim is None):
            return ""
        if self.must is not None and not self._reaches(judged, self.must):
            return "missed"
        if aim is not None and self._reaches(aimed, aim):
            return "aim"
        return "must" if self.must is not None else ""

    def _reaches(self, value: float, bound: float) -> bool:
        return value <= bound if self.less_is_better else value >= bound

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        found: dict[str, Any] = {
            "section": self.section,
            "what": self.what,
            "unit": self.unit,
            "median": self.value,
            "samples": list(self.samples),
        }
        if self.peer_samples:
            found |= {
                "peer": self.peer,
                "peer_median": self.peer_value,
                "peer_samples": list(self.peer_samples),
                "ratio": self.ratio,
            }
        if self.must is not None:
            found["must"] = {"bound": self.must, "of": "ratio" if self.times else "median"}
        if self.aim is not None:
            found["aim"] = {"bound": self.aim, "of": "ratio" if self.times else "median"}
        if self.aim_samples:
            found["aim"] = {
                "bound": statistics.median(self.aim_samples),
                "of": "median",
                "samples": list(self.aim_samples),
            }
        return found | {"verdict": self.verdict, "note": self.note}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What could not be measured here, and why."""

    section: str
    what: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {"section": self.section, "what": self.what, "left_out": self.reason}


Result = Row | LeftOut

_STYLE = {"aim": "green", "must": "yellow", "missed": "bold red"}


def show(results: Sequence[Result], title: str, console: Console) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "ours", "beside it", "ratio", "must", "aim", "", "note"):
        table.add_column(heading, justify="left" if heading in ("", "beside it", "note") else "right", no_wrap=True)
    section = ""
    for result in results:
        if result.section != section:
            section = result.section
            table.add_section()
            table.add_row(f"[bold]{section}[/bold]")
        if isinstance(result, LeftOut):
            table.add_row(f"  {result.what}", *[""] * 6, f"[dim]left out: {result.reason}[/dim]")
            continue
        verdict, peer = result.verdict, result.peer_value
        table.add_row(
            f"  {result.what}",
            f"{number(result.value)} {result.unit}",
            "" if peer is None else f"{result.peer} {number(peer)} {result.unit}",
            "" if result.ratio is None else f"{number(result.ratio)}×",
            _bound(result, result.must),
            _aim(result),
            f"[{_STYLE[verdict]}]{verdict}[/]" if verdict else "",
            f"[dim]{result.note}[/dim]",
        )
    console.print(table)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value and abs(value) < SHORTEST:
        return f"< {SHORTEST}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def _bound(row: Row, bound: float | None) -> str:
    if bound is None:
        return ""
    sign, unit = "≤" if row.less_is_better else "≥", "×" if row.times else f" {row.unit}"
    return f"{sign} {bound:g}{unit}"


def _aim(row: Row) -> str:
    if row.aim_samples:
        return f"{'≤' if row.less_is_better else '≥'} {number(statistics.median(row.aim_samples))} {row.unit}"
    return _bound(row, row.aim)
