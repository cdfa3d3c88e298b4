"""Everything that is measured, in one table.

    python -m tests.bench [--json FILE] [--baseline FILE] [--rounds N] [--only NAME ...] [--congestion NAME] [--quick]
                          [--profile] [--flames FOLDER]

Medians of ``--rounds``, side by side in one run with the programs that others wrote. A figure below its bar is shown as
``missed`` and decides nothing: the status is 1 only where something broke. What cannot run here says why. What got
worse since the saved run is listed below the table: since the last one, or that of ``--baseline``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import beside_libzt, comparison, doors, machine, netstack, overlay, profiles, real_peer
from tests.bench.options import Options
from tests.bench.report import LeftOut, Result, Row, number, show
from ztnode.netstack.tcp.congestion import ALGORITHMS

SECTIONS: dict[str, Callable[[Options], Iterator[Result]]] = {
    "netstack": netstack.measure,
    "nodes": overlay.measure,
    "doors": doors.measure,
    "peer": real_peer.measure,
    "libzt": beside_libzt.measure,
    "lossy": beside_libzt.measure_lossy,
}
QUICK_ROUNDS = 1
PIPE_WIDTH = 220


def main() -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where the figures go")
    parser.add_argument("--baseline", type=Path, help="a saved run to compare with [default: what --json wrote last]")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each figure")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME", help="sections")
    parser.add_argument("--congestion", choices=ALGORITHMS, default="cubic", help="of our nodes")
    parser.add_argument("--quick", action="store_true", help="one round of a quarter: a smoke test")
    parser.add_argument("--profile", action="store_true", help="only show where the time of a bulk transfer goes")
    parser.add_argument("--flames", type=Path, metavar="FOLDER", help="only write flame graphs there")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends with us
    arguments = parser.parse_args()
    # What reads a pipe has no width of its own, and a table cut to 80 columns loses its figures.
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    if arguments.profile:
        return profiles.show(console)
    if arguments.flames is not None:
        return profiles.draw(console, arguments.flames)
    saved = comparison.load(arguments.baseline or arguments.json)
    if saved is None and arguments.baseline is not None:
        parser.error(f"there is no {arguments.baseline}")
    options = Options(QUICK_ROUNDS if arguments.quick else arguments.rounds, arguments.quick, arguments.congestion)
    facts = machine.facts()
    results: list[Result] = []
    status = 0
    started = time.perf_counter()
    for name in arguments.only:
        try:
            for result in SECTIONS[name](options):
                results.append(result)
                console.print(f"[dim]{time.perf_counter() - started:5.0f} s  {_line(result)}[/dim]", highlight=False)
        except Exception as error:
            # One section that breaks must not take with it what the others found.
            console.print_exception()
            results.append(LeftOut(name, "the rest", f"broke: {error!r}"))
            status = 1
    found = {
        "machine": facts,
        "rounds": options.rounds,
        "congestion": options.congestion,
        "results": [result.as_json() for result in results],
    }
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    title = f"medians of {options.rounds} on {facts['cores']} cores, Python {facts['python']}, Linux {facts['kernel']}"
    if options.congestion != "cubic":
        title += f"; our nodes with --congestion {options.congestion}"
    show(results, title, console)
    console.print(f"every sample is in {arguments.json}")
    if saved is not None:
        _compare(results, saved, facts, console)
    return status


def _compare(results: list[Result], saved: dict[str, Any], facts: dict[str, Any], console: Console) -> None:
    then = saved.get("machine", {})
    if any(then.get(name) != fact for name, fact in facts.items() if name != "load"):
        console.print("the saved run was on another machine, kernel or Python")
    lines = comparison.worse(results, saved)
    console.print("\n".join(lines) if lines else "nothing got worse since the saved run", highlight=False, markup=False)


def _line(result: Result) -> str:
    if isinstance(result, Row):
        return f"{result.what}: {number(result.value)} {result.unit}"
    return f"{result.what}: left out"


if __name__ == "__main__":
    sys.exit(main())
