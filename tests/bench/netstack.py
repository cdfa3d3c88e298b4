"""The stack alone against the Linux kernel's TCP over a TAP device, and PyTCP against the same peer in the same run."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import bench_netstack
from tests.bench.options import Options
from tests.bench.report import LeftOut, Result, Row
from tests.interop.processes import ProcessError, Talker
from tests.netns.tapharness import Harness, Namespace, unavailable

SECTION = "netstack alone, the Linux kernel over a TAP"
MTUS = (1500, 2800)
COMPARED = 2800
"""The MTU of a ZeroTier network, at which PyTCP runs beside us."""
PYTCP_SHARE = 4
"""PyTCP moves that part of what we do: it would take too long otherwise."""
PYTCP = "pmd-pytcp"
"""Its name in the package registry."""
DIRECTIONS: tuple[tuple[str, Callable[[Harness, int], tuple[float, float]]], ...] = (
    ("download", bench_netstack.download),
    ("upload", bench_netstack.upload),
)


class PytcpMissing(Exception):
    """PyTCP cannot be had; the text says why."""


@dataclass
class Figures:
    """Samples of one direction at one MTU."""

    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    pytcp: list[float] = field(default_factory=list)


def measure(options: Options) -> Iterator[Result]:
    """All rows of this section."""
    reason = unavailable()
    if reason is not None:
        yield LeftOut(SECTION, "all", reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        for mtu in MTUS:
            rival: Talker | None = None
            with contextlib.ExitStack() as stack:
                if mtu == COMPARED:
                    try:
                        rival = stack.enter_context(pytcp(Path(folder), mtu))
                    except (PytcpMissing, ProcessError) as error:
                        yield LeftOut(SECTION, f"PyTCP, MTU {mtu}", str(error))
                net = stack.enter_context(bench_netstack.network(mtu))
                yield from at_mtu(net, rival, mtu, options)


def at_mtu(net: Harness, rival: Talker | None, mtu: int, options: Options) -> Iterator[Result]:
    """Both ways, PyTCP's turn after each of ours."""
    size = options.bulk << 20
    for name, transfer in DIRECTIONS:
        figures = Figures()
        transfer(net, size // 8)
        for _ in range(options.rounds):
            rate, cost = transfer(net, size)
            figures.rates.append(rate)
            figures.costs.append(cost)
            if rival is not None:
                done = rival.do("done", 120, do=name, size=size // PYTCP_SHARE)
                figures.pytcp.append(done["bytes"] / done["seconds"] / 1e6)
        yield Row(
            SECTION,
            f"{name}, MTU {mtu}",
            "MB/s",
            figures.rates,
            "PyTCP",
            figures.pytcp,
            must=6 if figures.pytcp else None,
            aim=12 if figures.pytcp else None,
            times=True,
            note=f"{statistics.median(figures.costs):.1f} µs CPU a frame, the TAP's system calls included",
        )
    median, tail = bench_netstack.request_response(net)
    yield Row(SECTION, f"1 KB request-response, MTU {mtu}, median", "ms", [median])
    yield Row(SECTION, f"1 KB request-response, MTU {mtu}, p99", "ms", [tail])
    yield Row(SECTION, f"connect, MTU {mtu}", "ms", [bench_netstack.connect_time(net)])


@contextlib.contextmanager
def pytcp(folder: Path, mtu: int) -> Iterator[Talker]:
    """PyTCP, installed for this run alone, in a namespace with the same peer as ours has. Raises PytcpMissing."""
    target = folder / "pytcp"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
    try:
        done = subprocess.run([*command, str(target), PYTCP], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise PytcpMissing(f"pip did not install {PYTCP} within 120 s") from None
    if done.returncode:
        raise PytcpMissing(f"pip could not install {PYTCP}: {done.stderr.strip()[-300:]}")
    namespace = Namespace()
    namespace.ip("link", "set", "lo", "up")
    path = f"PYTHONPATH={os.pathsep.join((str(target), str(bench_netstack.REPOSITORY)))}"
    driver = ["env", path, sys.executable, "-m", "tests.bench.pytcp_driver", str(mtu)]
    talker = Talker("PyTCP", [*bench_netstack.inside(namespace), *driver], folder / "pytcp.log")
    try:
        talker.expect("ready", 30)
        with bench_netstack.kernel_peer(namespace):
            yield talker
    finally:
        talker.close()
        namespace.close()
