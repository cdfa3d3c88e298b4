"""Where the time of a bulk transfer goes in each process, by py-spy's samples."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import overlay

SECONDS = 5
RATE = 500
TOP = 15
BULK = 64 << 20
LOOPS = ("Runner.run (asyncio", "Worker.run (ztnode")
"""Where the work of a node and of a worker hangs. The node's own line of it is uvloop, the system calls included."""
WAITING = ("Poller.wait ",)


def show(console: Console) -> int:
    """Profile node and worker of the fetching member, each way; the exit status."""
    beside = Path(sys.executable).with_name("py-spy")
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        console.print("no profile: py-spy is not installed (pip install py-spy)")
        return 1
    with overlay.pair() as nodes:
        (worker,) = nodes.beta.node.status().workers
        processes = {"node": nodes.beta.process.pid, "worker": worker.pid}
        for way, transfer in (("download", nodes.get), ("upload", nodes.put)):
            for name, stacks in record(spy, processes, lambda: transfer(BULK)).items():  # noqa: B023
                console.print(table(f"{way}: the {name} process", stacks))
    return 0


def record(spy: str, processes: dict[str, int], work: Callable[[], object]) -> dict[str, Counter[tuple[str, ...]]]:
    """Samples of each process while ``work`` is done over and over: how often each stack was seen."""
    done = threading.Event()

    def toil() -> None:
        while not done.is_set():
            work()

    with tempfile.TemporaryDirectory() as folder:
        toiling = threading.Thread(target=toil)
        toiling.start()
        try:
            files = {name: Path(folder) / name for name in processes}
            sampling = ["--function", "--format", "raw", "--duration", str(SECONDS), "--rate", str(RATE)]
            spies = [
                subprocess.Popen(
                    [spy, "record", *sampling, "--output", str(files[name]), "--pid", str(pid)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for name, pid in processes.items()
            ]
            for process in spies:
                _, words = process.communicate()
                if process.returncode:
                    raise OSError(f"py-spy: {words.strip()[-500:]}")
        finally:
            done.set()
            toiling.join()
        return {name: parse(path.read_text()) for name, path in files.items()}


def parse(text: str) -> Counter[tuple[str, ...]]:
    """py-spy's raw format: frames from the outermost in, joined by semicolons, then a space and a count.

    Only what the process' loop called, without its waiting: py-spy takes threads that sleep in a lock for busy ones.
    """
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        stack = frames.split(";")
        start = next((index for index, frame in enumerate(stack) if frame.startswith(LOOPS)), None)
        if start is not None and not stack[-1].startswith(WAITING):
            stacks[tuple(stack[start:])] += int(count)
    return stacks


def table(title: str, stacks: Counter[tuple[str, ...]]) -> Table:
    """The functions with most time of their own, and with most time including what they called."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
        for frame in set(stack):
            whole[frame] += count
    total = own.total() or 1
    found = Table(title=f"{title}, {total} samples", title_justify="left")
    found.add_column("self", justify="right")
    found.add_column("function")
    found.add_column("cumulative", justify="right")
    found.add_column("function")
    for (mine, mine_count), (all_, all_count) in zip(own.most_common(TOP), whole.most_common(TOP), strict=False):
        found.add_row(f"{mine_count / total:.1%}", mine, f"{all_count / total:.1%}", all_)
    return found
