"""Where the time goes in node and worker, by py-spy's samples: tables of a bulk transfer, flame graphs of that and of
small requests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import http_peer, overlay, peer_client

SECONDS = 5
RATE = 500
TOP = 15
BULK = 64 << 20
REQUESTS = 100
CONNECTIONS = 20
LOOPS = ("Runner.run (asyncio", "Worker.run (ztnode")
"""Where the work of a node and of a worker hangs. The node's own line of it is uvloop, the system calls included."""
WAITING = ("Poller.wait ",)


def show(console: Console) -> int:
    """Profile node and worker of the fetching member, each way; the exit status."""
    if (spy := _spy(console)) is None:
        return 1
    with overlay.pair() as nodes:
        for way, transfer in (("download", nodes.get), ("upload", nodes.put)):
            with tempfile.TemporaryDirectory() as folder:
                files = record(spy, "raw", nodes, Path(folder), partial(transfer, BULK))
                for name, file in files.items():
                    console.print(table(f"{way}: the {name} process", parse(file.read_text())))
    return 0


def draw(console: Console, folder: Path) -> int:
    """Write flame graphs, as SVG, of both processes of the fetching member; the exit status."""
    if (spy := _spy(console)) is None:
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with overlay.pair() as nodes:
        work: dict[str, Callable[[], object]] = {
            "download": lambda: nodes.get(BULK),
            "upload": lambda: nodes.put(BULK),
            "requests": lambda: _ask(nodes),
        }
        for what, each in work.items():
            for name, file in record(spy, "flamegraph", nodes, folder, each).items():
                drawn = picture(file.read_text(), f"{what}: the {name} process")
                (folder / f"{what}-{name}.svg").write_text(drawn)
                file.unlink()
    console.print(f"the flame graphs are in {folder}")
    return 0


def picture(drawn: str, title: str) -> str:
    """The SVG without its program, which a page that shows it does not run, and with a title of ours: its own is the
    command, with paths of this machine."""
    drawn = re.sub(r"<script.*?</script>", "", drawn, flags=re.DOTALL).replace(' onload="init(evt)"', "")
    drawn = re.sub(r'<text id="(?:search|unzoom|matched)".*?</text>', "", drawn)
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", drawn)


def _ask(nodes: overlay.Pair) -> None:
    """Small requests on several connections at once."""

    def ask() -> None:
        with nodes.connect((nodes.ip, overlay.PORT), 30) as sock:
            http_peer.request_response(sock, nodes.ip, f"/{peer_client.SMALL}", REQUESTS)

    asking = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()


def _spy(console: Console) -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        console.print("no profile: py-spy is not installed (pip install py-spy)")
    return spy


def record(spy: str, form: str, nodes: overlay.Pair, folder: Path, work: Callable[[], object]) -> dict[str, Path]:
    """Samples of node and worker of the fetching member while ``work`` is done over and over, in a file of py-spy's
    format ``form`` for each."""
    (worker,) = nodes.beta.node.status().workers
    processes = {"node": nodes.beta.process.pid, "worker": worker.pid}
    done = threading.Event()

    def toil() -> None:
        while not done.is_set():
            work()

    toiling = threading.Thread(target=toil)
    toiling.start()
    try:
        files = {name: folder / name for name in processes}
        sampling = ["--function", "--format", form, "--duration", str(SECONDS), "--rate", str(RATE)]
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
    return files


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
