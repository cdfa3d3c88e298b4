"""``python -m tests.lab``: see the package."""

from __future__ import annotations

import argparse
import signal
import sys

from tests import lab
from tests.lab.places import LabError, unavailable
from tests.lab.scenarios import SCENARIOS, Sides
from tests.lab.walled import udp_blocked

ALL = {**SCENARIOS, "udp-blocked": udp_blocked}


def main() -> int:
    """Run scenarios, a line for each figure; 1 if one fails or misses what it must reach with ours."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description=lab.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", choices=[[], *ALL, "all"])
    parser.add_argument("--examine", choices=["both", "ours", "reference"], default="both", help="what to look at")
    parser.add_argument("--peer", choices=["ours", "reference"], default="reference", help="at the other end")
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    if not chosen.scenarios:
        for name, scenario in ALL.items():
            print(f"{name:16}{(scenario.__doc__ or '').split(chr(10))[0]}")
        return 0
    if (reason := unavailable()) is not None:
        print(f"no lab here: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends with us
    names = list(ALL) if "all" in chosen.scenarios else chosen.scenarios
    examined = [side == "ours" for side in ("ours", "reference") if chosen.examine in ("both", side)]
    missed = False
    for name in names:
        for _ in range(chosen.rounds):
            for ours in examined:
                missed = _run(name, Sides(ours, chosen.peer == "ours")) or missed
    return missed


def _run(name: str, sides: Sides) -> bool:
    who = "ztnode" if sides.ours else "zerotier-one"
    missed = False
    try:
        for figure in ALL[name](sides):
            value = f"{figure.value:8.2f}" if isinstance(figure.value, float) else f"{figure.value:>8}"
            late = figure.must is not None and float(figure.value) > figure.must
            must = "" if figure.must is None else f"must {figure.must:g}{', MISSED' if late else ''}"
            print(f"{name:16}{who:14}{figure.what:62}{value} {figure.unit:3}{must}", flush=True)
            missed = missed or (late and sides.ours)
    except LabError as error:
        print(f"{name:16}{who:14}FAILED: {error}", flush=True)
        return sides.ours
    return missed


if __name__ == "__main__":
    sys.exit(main())
