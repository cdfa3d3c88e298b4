"""What the machine is, and what a process takes of it, by /proc."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def facts() -> dict[str, Any]:
    """The machine, for whoever reads the figures later."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def tree(pid: int) -> list[int]:
    """A process and all that came of it, itself first."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(OSError):
                waiting += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time, user and system, that the processes have taken. In steps of a tick, mostly 10 ms."""
    ticks = 0
    for pid in pids:
        # The second field is the name in parentheses, which may hold anything; the third comes after the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * TICK


def run_seconds(pids: Sequence[int]) -> float:
    """As ``cpu_seconds``, in nanosecond steps where the kernel keeps them, but without threads that have ended."""
    nanoseconds = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                nanoseconds += int((task / "schedstat").read_text().split()[0])
            except OSError:
                return cpu_seconds(pids)
    return nanoseconds / 1e9


def wake_ups(pids: Sequence[int]) -> int:
    """How often threads of the processes went to wait, those that have ended left out: a figure that the machine's mood
    does not change."""
    waits = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                waits += int((task / "status").read_text().rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return waits


def resident(pids: Sequence[int]) -> int:
    """Resident memory of the processes together, in bytes; pages that they share count for each."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE
