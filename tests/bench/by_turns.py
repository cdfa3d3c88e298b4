"""This checkout's node, those of other checkouts and a zerotier-one with the kernel's TCP take turns at one real peer:
whether a change helps is seen on one machine in one run, whatever the machine is.

    ZEROTIER_ONE=/usr/sbin/zerotier-one python -m tests.bench.by_turns TREE [TREE ...] [--rounds 5] [--what WHAT ...]

``WHAT`` are the words of ``tests.bench.peer_client``. Of each, and for each node: the median of the rounds, each round,
and the CPU of every process. Nodes and clients of all checkouts run by the interpreter that runs this. Needs root, for
the places.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from tests.bench.options import Options
from tests.bench.overlay import p99
from tests.bench.real_peer import BULK_PORT, GB, MB, RIVAL, WEB_PORT, Place, set_up
from tests.lab.hosts import Lab, has_reference, lab, until
from tests.lab.places import unavailable

COUNTS: Final = {
    "get": 64 * MB,
    "put": 64 * MB,
    "ask": 1000,
    "row": 200,
    "apart": 200,
    "crowd": 1000,
    "threads": 4000,
    "selector": 10_000,
    "posts": 1000,
}
"""What is done in a round, and how often."""
_BULK: Final = ("get", "put")
_RATES: Final = ("crowd", "threads", "selector")
_CLIENT: Final = """
import sys
tree = sys.argv.pop(1)
sys.path.insert(0, tree)
import ztclient, ztnode
sys.path.remove(tree)
from tests.bench.peer_client import main
main(sys.argv[1:])
"""
"""The same client program, by the client of another checkout."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.by_turns", description=__doc__.partition("\n\n")[0])
    parser.add_argument("trees", nargs="+", metavar="TREE", help="other checkouts of this repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", nargs="+", choices=list(COUNTS), default=list(COUNTS), metavar="WHAT")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends with us
    arguments = parser.parse_args()
    if not has_reference():
        parser.error("needs zerotier-one 1.14.1: name the program in $ZEROTIER_ONE")
    if (reason := unavailable()) is not None:
        parser.error(reason)
    with lab("turns") as here:
        ours, theirs = set_up(here, Options())
        places = {"this checkout": ours}
        for number, tree in enumerate(arguments.trees):
            places[tree] = _of_a_tree(here, number, str(Path(tree).resolve()))
        places[RIVAL] = theirs
        for what in arguments.what:
            print(what)
            _take_turns(places, what, arguments.rounds)


def _of_a_tree(here: Lab, number: int, tree: str) -> Place:
    """A member that is another checkout's node, with a direct path to the peer."""
    name = f"tree{number}"
    here.places.plug(name, [f"203.0.113.{10 + number}/24"])
    host = here.host(name, ours=True, tree=tree).start()
    until(f"{name} is online", host.is_online)
    host.join(f"10.121.15.{40 + number}")
    assert host.process is not None
    (worker,) = host.node.status().workers
    processes = {"node": host.process.pid, "worker": worker.pid}
    peer = here.hosts["peer"].process
    assert peer is not None
    place = Place(host, {**processes, "peer": peer.pid}, (str(host.folder),), (sys.executable, "-c", _CLIENT, tree))
    place.run("get", BULK_PORT, MB)
    until("a direct path", lambda: host.paths(here.hosts["peer"].address))
    return place


def _take_turns(places: dict[str, Place], what: str, rounds: int) -> None:
    count = COUNTS[what]
    found: dict[str, list[float]] = defaultdict(list)
    tails: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds + 1):
        for name, place in places.items():
            figures: dict[str, Any] = place.run(what, BULK_PORT if what in _BULK else WEB_PORT, count)
            if not number:  # libraries are loaded, lanes are made
                continue
            if what in _BULK:
                found[name].append(count / figures["seconds"] / 1e6)
            elif what in _RATES:
                found[name].append(count / figures["seconds"])
            else:
                found[name].append(statistics.median(figures["times"]) * 1e3)
                tails[name].append(p99(figures["times"]) * 1e3)
            for process, seconds in figures["cpu"].items():
                costs[name][process].append(seconds / count * (GB if what in _BULK else 1e6))
    unit = "MB/s" if what in _BULK else "/s" if what in _RATES else "ms"
    for name, samples in found.items():
        each = " ".join(f"{sample:.3g}" for sample in samples)
        tail = f", p99 {statistics.median(tails[name]):.2f} ms" if tails else ""
        cpu = ", ".join(f"{process} {statistics.median(spent):.1f}" for process, spent in costs[name].items())
        per = "CPU s/GB" if what in _BULK else "µs of CPU"
        print(f"  {name}: {statistics.median(samples):.4g} {unit}{tail} [{each}]; {per}: {cpu}", flush=True)


if __name__ == "__main__":
    main()
