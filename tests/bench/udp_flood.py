"""Datagrams at a steady rate from one program to another, through two nodes: what arrives, and what it costs whom.

    python -m tests.bench.udp_flood [RATE] [--size 1400] [--seconds 3] [--rounds 5]

Six processes work: the sender, its worker, its node, the other node, its worker, the receiver. Of each: CPU in us a
datagram, and in parentheses how often it went to sleep for every hundred, which tells how many go together.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench import doors, machine
from tests.bench.overlay import ipv4
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork

_SLEEPS = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)


def main() -> None:
    """One line a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rate", nargs="?", type=int, default=doors.FLOOD_RATE)
    parser.add_argument("--size", type=int, default=doors.FLOOD_SIZE)
    parser.add_argument("--seconds", type=float, default=doors.FLOOD_SECONDS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count = int(options.rate * options.seconds)
    with tempfile.TemporaryDirectory() as name, EmbeddedNetwork(Path(name)) as network:
        nwid = network.create()
        alpha, beta = network.add("alpha"), network.add("beta")
        for member in (alpha, beta):
            member.wait_online()
        ip = ipv4(alpha, nwid)
        ipv4(beta, nwid)
        _until_reached(beta, ip)
        with doors.running("--echo", str(alpha.state), ip, str(doors.ECHO_PORT)) as sender:
            assert sender.stdout is not None
            sender.stdout.readline()
            pids = {"sender": sender.pid, **_of("sender's", alpha), **_of("receiver's", beta), "receiver": os.getpid()}
            with beta.node.open_udp() as near:
                near.connect((ip, doors.ECHO_PORT))
                for _ in range(options.rounds):
                    before, began = _usage(pids), time.perf_counter()
                    share = doors.flooded(near, count, options.rate, options.size)
                    print(f"{share:7.2%} in {time.perf_counter() - began:.2f} s:", _costs(before, _usage(pids), count))


def _until_reached(member: EmbeddedMember, ip: str) -> None:
    """On a busy machine members take a while to find each other."""
    for _ in range(10):
        with contextlib.suppress(OSError):
            member.node.ping(ip, 5)
            return


def _of(whose: str, member: EmbeddedMember) -> dict[str, int]:
    worker = member.node.status().workers[0].pid
    node = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    return {f"{whose} worker": worker, f"{whose} node": node}


def _usage(pids: Mapping[str, int]) -> dict[str, tuple[float, int]]:
    """CPU seconds and sleeps of each."""
    return {name: (machine.run_seconds([pid]), _sleeps(pid)) for name, pid in pids.items()}


def _sleeps(pid: int) -> int:
    found = _SLEEPS.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found is not None else 0


def _costs(before: Mapping[str, tuple[float, int]], after: Mapping[str, tuple[float, int]], count: int) -> str:
    spent = {name: (after[name][0] - seconds) / count * 1e6 for name, (seconds, _) in before.items()}
    slept = {name: (after[name][1] - sleeps) / count * 100 for name, (_, sleeps) in before.items()}
    each = ", ".join(f"{name} {spent[name]:.1f} ({slept[name]:.0f})" for name in before)
    return f"{sum(spent.values()):.1f} us; {each}"


if __name__ == "__main__":
    main()
