"""Where each microsecond of a 1 KB request on one connection goes, or of a connect, as the kernel's scheduler saw it:
who woke whom, how long that one took to run, and what it worked before it woke the next.

A real zerotier-one is the peer.

    ZEROTIER_ONE=/usr/sbin/zerotier-one python -m tests.bench.timeline [--count 1000] [--of connects]

Needs root and ``perf``. Medians over those that passed by the commonest chain of processes; the median of the
whole is longer than the sum, since chains that were disturbed are in it.
"""

from __future__ import annotations

import argparse
import bisect
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import real_peer
from tests.bench.options import Options
from tests.lab.hosts import has_reference, lab
from tests.lab.places import unavailable

COUNT = 1000
WHAT = {"requests": "ask", "connects": "row", "connects-apart": "apart"}
STARTS = 2.0
"""Seconds after which perf records."""
LONGEST = 32
"""Steps of a chain; what is longer is no request."""
_LINE = re.compile(r"\s*(\d+) \[\d+\] +(\d+\.\d+): +sched:(sched_\w+): (.*)")
_WOKEN = re.compile(r"\bpid=(\d+)")
_NEXT = re.compile(r"\bnext_pid=(\d+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One process's turn in a request. Seconds."""

    pid: int
    woken: float
    ran: float
    woke_next: float


class Trace:
    """What the scheduler said: when each thread was woken, and by which, and when it began to run; in order."""

    def __init__(self, lines: Iterable[str]) -> None:
        """``lines`` are those of ``perf script`` with the fields tid, cpu, time, event and trace."""
        self.woken: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        self._ran: defaultdict[int, list[float]] = defaultdict(list)
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                continue
            at = float(match[2])
            if match[3] == "sched_switch":
                if (other := _NEXT.search(match[4])) is not None:
                    self._ran[int(other[1])].append(at)
            elif (other := _WOKEN.search(match[4])) is not None:
                self.woken[int(other[1])].append((at, int(match[1])))

    def chains(self, client: int) -> list[list[Step]]:
        """Of each time that ``client`` was woken, the turns that led to it since it ran last: itself first."""
        found = [self._back(waker, at, client) for at, waker in self.woken[client]]
        return [chain for chain in found if chain is not None]

    def _back(self, pid: int, at: float, client: int) -> list[Step] | None:
        """The chain whose last process was ``pid`` at ``at``; None if it did not begin with the client."""
        steps: list[Step] = []
        while pid != client:
            before = bisect.bisect_left(self.woken[pid], (at, 0)) - 1
            if before < 0 or len(steps) == LONGEST:
                return None
            woken, by = self.woken[pid][before]
            steps.append(Step(pid, woken, self._first_run(pid, woken, at), at))
            pid, at = by, woken
        before = bisect.bisect_left(self.woken[client], (at, 0)) - 1
        if before < 0:
            return None
        began = self._first_run(client, self.woken[client][before][0], at)
        steps.append(Step(client, began, began, at))
        return steps[::-1]

    def _first_run(self, pid: int, woken: float, until: float) -> float:
        """When it began to run; it may have been put aside since, and run again. Where a core was idle some kernels do
        not say."""
        first = bisect.bisect_left(self._ran[pid], woken)
        return self._ran[pid][first] if first < len(self._ran[pid]) and self._ran[pid][first] <= until else woken


def table(found: list[list[Step]], names: dict[int, str]) -> Table:
    """The medians of the commonest chain."""
    ways = Counter(tuple(step.pid for step in chain) for chain in found)
    way, count = ways.most_common(1)[0]
    alike = [chain for chain in found if tuple(step.pid for step in chain) == way]
    drawn = Table(title=f"{count} of {len(found)} passed like this; µs")
    for column in ("process", "until it runs", "until it wakes the next"):
        drawn.add_column(column, justify="left" if column == "process" else "right")
    for place, pid in enumerate(way):
        waits = statistics.median((chain[place].ran - chain[place].woken) * 1e6 for chain in alike)
        works = statistics.median((chain[place].woke_next - chain[place].ran) * 1e6 for chain in alike)
        drawn.add_row(names.get(pid) or _name(pid, names), f"{waits:.0f}" if place else "", f"{works:.0f}")
    waited = statistics.median(sum(step.ran - step.woken for step in chain[1:]) * 1e6 for chain in alike)
    worked = statistics.median(sum(step.woke_next - step.ran for step in chain) * 1e6 for chain in alike)
    drawn.add_row("together", f"{waited:.0f}", f"{worked:.0f}")
    return drawn


def _name(thread: int, names: dict[int, str]) -> str:
    """Of a thread, that of its process; else what the kernel calls it."""
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return str(thread)
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return names.get(int(said["Tgid"])) or said["Name"]


def main() -> int:
    """Record and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.timeline", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--of", choices=WHAT, default="requests", help="or of connections, in a row or 20 ms apart")
    arguments = parser.parse_args()
    perf = shutil.which("perf")
    missing = "perf (apt install linux-perf)" if perf is None else unavailable()
    if missing is None and not has_reference():
        missing = "zerotier-one 1.14.1, named in $ZEROTIER_ONE"
    if perf is None or missing is not None:
        print(f"needs {missing}", file=sys.stderr)
        return 1
    console = Console()
    with lab("timeline") as here, tempfile.TemporaryDirectory() as folder:
        ours, theirs = real_peer.set_up(here, Options(rounds=1))
        for who, place in (("ours", ours), (real_peer.RIVAL, theirs)):
            file = Path(folder) / who
            events = ("-e", "sched:sched_switch", "-e", "sched:sched_waking")
            with subprocess.Popen([perf, "record", "-q", "-a", *events, "-o", str(file)]) as recorder:
                time.sleep(STARTS)
                said = place.run(WHAT[arguments.of], real_peer.WEB_PORT, arguments.count)
                recorder.terminate()
            script = [perf, "script", "-i", str(file), "-F", "tid,cpu,time,event,trace"]
            lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
            names = {pid: name for name, pid in place.processes.items()} | {said["pid"]: "client"}
            console.print(who, f"median {statistics.median(said['times']) * 1e6:.0f} µs")
            console.print(table(Trace(lines).chains(said["pid"]), names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
