"""What got worse since a saved run.

Where a program of others ran beside ours in both runs, the ratios are compared: whatever ails the machine ails both.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.report import Result, Row, number

LEAST: Final = 0.05
"""Share by which a figure must be worse; and it must lie outside all that the saved run's samples were."""


def load(path: Path) -> dict[str, Any] | None:
    """A saved run (``--json``); None where there is none. Raises ValueError for what is none."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no saved run: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("results"), list):
        raise ValueError(f"{path} is no saved run: it has no results")
    return found


def worse(results: Sequence[Result], saved: dict[str, Any]) -> list[str]:
    """One line for each figure that is worse than in the saved run, the worst first."""
    before = {(each["section"], each["what"]): each for each in saved["results"] if "samples" in each}
    found: list[tuple[float, str]] = []
    for row in results:
        if isinstance(row, Row) and (then := before.get((row.section, row.what))) is not None:
            share, words = _compared(row, then)
            if share > LEAST:
                found.append((share, f"{row.section}: {row.what}: {words}, {share:.0%} worse"))
    return [line for _, line in sorted(found, reverse=True)]


def _compared(row: Row, then: dict[str, Any]) -> tuple[float, str]:
    """By what share it is worse, 0 for what may be noise, and the two figures in words."""
    samples, now, unit = [float(each) for each in then["samples"]], row.value, row.unit
    if row.ratio is not None and then.get("peer_samples"):
        peer = statistics.median(then["peer_samples"])
        samples, now, unit = [sample / peer for sample in samples], row.ratio, f"times {row.peer}"
    median = statistics.median(samples)
    worst = max(samples) if row.less_is_better else min(samples)
    outside = now > worst if row.less_is_better else now < worst
    if not outside or not median or not now:
        return 0.0, ""
    share = now / median - 1 if row.less_is_better else median / now - 1
    return share, f"{number(now)} {unit}, {number(median)} then"
