"""How long a start takes: three lines of Python from nothing to a first byte, and the processor time behind them.

    python -m tests.bench.start [--rounds 5] [TREE ...]

By turns with other checkouts that are named, each by the interpreter that runs this. Each round is a program that
starts a node (``ztclient.run``), dials a page on the overlay and ends; the node's state is kept from the round before,
or there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ztclient
from tests.bench.overlay import ipv4
from tests.system.harness import Handler, identities
from ztnode.embedded import EmbeddedNetwork

PORT = 5380
PROGRAM = """
import sys, time
import ztclient
with ztclient.run(sys.argv[1], planet=sys.argv[2], state=sys.argv[4] or None) as node:
    connection = ztclient.HTTPConnection(sys.argv[3], 5380, node=node)
    connection.request("GET", "/1000")
    connection.getresponse().read(1)
    print(time.monotonic())
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.start", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("trees", nargs="*", metavar="TREE", help="other checkouts")
    arguments = parser.parse_args()
    trees = [str(Path(__file__).parents[2]), *arguments.trees]
    socketserver.BaseServer.handle_error = lambda *_: None  # type: ignore[method-assign]  # of who reads one byte alone
    with _page() as (nwid, planet, ip), tempfile.TemporaryDirectory() as folder:
        for title, states in (("kept state", [f"{folder}/{n}" for n in range(len(trees))]), ("new identity", [""])):
            kept = dict(zip(trees, states, strict=False)) if len(states) > 1 or states[0] else {}
            figures: dict[str, list[tuple[float, float]]] = {tree: [] for tree in trees}
            for number in range(arguments.rounds + 1):
                for tree in trees:
                    figure = _once(tree, nwid, planet, ip, kept.get(tree, ""))
                    if number:  # the first one makes the state, and what Python keeps of its modules
                        figures[tree].append(figure)
            for tree, measured in figures.items():
                first, cpu = ([each[which] for each in measured] for which in (0, 1))
                print(
                    f"{title}: first byte {min(first):.2f} s (median {statistics.median(first):.2f}), "
                    f"CPU of all processes {min(cpu):.2f} s ({statistics.median(cpu):.2f})  {tree}"
                )
    print(f"load {os.getloadavg()[0]:.1f}")


def _once(tree: str, nwid: str, planet: str, ip: str, state: str) -> tuple[float, float]:
    """Seconds to the first byte, and of processor time until all has ended."""
    before, began = _cpu(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, nwid, planet, ip, state],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": tree},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout) - began, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _page() -> Iterator[tuple[str, str, str]]:
    """A network id, the planet, and the address of a page."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedNetwork(Path(folder), identities=identities()) as network:
        nwid = network.create()
        alpha = network.add("alpha")
        alpha.wait_online()
        ip = ipv4(alpha, nwid)
        server = ztclient.HTTPServer((ip, PORT), Handler, node=alpha.node)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield nwid, str(network.planet), ip


if __name__ == "__main__":
    main()
