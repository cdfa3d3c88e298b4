"""Two nodes of ours on one machine, and what is measured between them."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import http_peer, machine
from tests.bench.http_peer import Incomplete, Transfer
from tests.bench.options import Options
from tests.bench.peer_client import PAUSE, SMALL
from tests.bench.report import Result, Row
from tests.interop.processes import Talker
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork

PORT = 5380
JOIN_TIMEOUT = 30.0
MB = 1 << 20
CONNECTS = 50
REQUESTS = 500
CROWD = 100
IDLE_CONNECTIONS = 1000
IDLE_SECONDS = 30.0
"""Two of the heartbeats that a path has."""
SETTLE = 3.0
"""Seconds after joining until a node is idle: it pushes paths, asks roots and subscribes."""

SECTION = "two nodes of ours, loopback"


@dataclass(frozen=True, slots=True)
class Pair:
    """``alpha`` serves HTTP at ``ip``, ``beta`` fetches."""

    alpha: EmbeddedMember
    beta: EmbeddedMember
    ip: str

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """From beta."""
        return self.beta.node.create_connection(address, timeout)

    def get(self, size: int) -> Transfer:
        """A download to beta."""
        done = http_peer.get(self.connect, self.ip, PORT, f"/{size}")
        if done.bytes != size:
            raise Incomplete(f"{done.bytes} of {size} bytes came")
        return done

    def put(self, size: int) -> Transfer:
        """An upload from beta."""
        return http_peer.put(self.connect, self.ip, PORT, http_peer.content(size))


def ipv4(member: EmbeddedMember, nwid: str) -> str:
    """The member's managed IPv4 address, joining if need be."""
    addresses = member.node.join(nwid, JOIN_TIMEOUT).addresses
    return next(address.partition("/")[0] for address in addresses if ":" not in address)


@contextlib.contextmanager
def pair(congestion: str = "cubic") -> Iterator[Pair]:
    """Root, controller, two members, and a server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedNetwork(Path(folder)) as network:
        nwid = network.create()
        alpha, beta = (network.add(name, "--congestion", congestion) for name in ("alpha", "beta"))
        alpha.wait_online()
        beta.wait_online()
        ip = ipv4(alpha, nwid)
        ipv4(beta, nwid)
        with server(alpha.state, ip, Path(folder)):
            yield Pair(alpha, beta, ip)


@contextlib.contextmanager
def server(state: Path, ip: str, folder: Path, port: int = PORT) -> Iterator[Talker]:
    """A process that serves on the node with this state directory."""
    command = [sys.executable, "-m", "tests.bench.http_peer", "--node", str(state), ip, str(port)]
    talker = Talker("server", command, folder / f"server-{state.name}-{port}.log")
    try:
        talker.expect("serving", 30)
        yield talker
    finally:
        talker.close()


def measure(options: Options) -> Iterator[Result]:
    """All rows of this section."""
    with pair(options.congestion) as nodes:
        yield from idle(nodes)
        yield from idle_connections(nodes)
        yield from connects(nodes, options)
        yield from requests(nodes, options)
        yield from crowd(nodes, options)
        yield from bulk(nodes, options)


def idle(nodes: Pair) -> Iterator[Result]:
    """A node that is a member of one network and has nothing to do."""
    time.sleep(SETTLE)
    pids = machine.tree(nodes.beta.process.pid)
    before, waits, started = machine.run_seconds(pids), machine.wake_ups(pids), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    passed = time.perf_counter() - started
    share = (machine.run_seconds(pids) - before) / passed * 100
    wakes = (machine.wake_ups(pids) - waits) / passed
    size = machine.resident(pids) / 1e6
    yield Row(SECTION, f"idle node, resident, {len(pids)} processes", "MB", [size], must=150, less_is_better=True)
    yield Row(SECTION, f"idle node, CPU over {IDLE_SECONDS:g} s", "% of a core", [share], must=0.1, less_is_better=True)
    yield Row(SECTION, "idle node, wake-ups of all threads", "/s", [wakes], less_is_better=True)


def idle_connections(nodes: Pair) -> Iterator[Result]:
    """What connections cost that stand and do nothing. Before anything else: memory that a transfer left behind would
    be used again and hide the cost."""
    nodes.get(SMALL)
    members = [machine.tree(member.process.pid) for member in (nodes.beta, nodes.alpha)]
    before = [machine.resident(pids) for pids in members]
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(nodes.connect((nodes.ip, PORT), 30))
        time.sleep(1)
        growth = [(machine.resident(pids) - size) / 1e6 for pids, size in zip(members, before, strict=True)]
    yield Row(
        SECTION,
        f"{IDLE_CONNECTIONS} idle connections, growth of both nodes",
        "MB",
        [sum(growth)],
        must=100,
        aim=40,
        less_is_better=True,
        note=f"dialling {growth[0]:.0f}, accepting {growth[1]:.0f}",
    )


FIRST_CONNECT = """
import sys, time
started = time.perf_counter()
import ztclient
node = ztclient.Node(state=sys.argv[1])
node.create_connection((sys.argv[2], int(sys.argv[3])), 30).close()
print(time.perf_counter() - started)
"""


def connects(nodes: Pair, options: Options) -> Iterator[Result]:
    """From the call until a connected socket is there."""
    command = [sys.executable, "-c", FIRST_CONNECT, str(nodes.beta.state), nodes.ip, str(PORT)]
    first = [
        float(subprocess.run(command, check=True, capture_output=True).stdout) * 1e3 for _ in range(options.rounds)
    ]
    times = []
    for _ in range(options.rounds):
        times.append(statistics.median(connect_times(nodes.connect, nodes.ip, PORT, CONNECTS)))
    yield Row(SECTION, f"connect, median of {CONNECTS}", "ms", times, must=5, aim=2, less_is_better=True)
    yield Row(SECTION, "first connect of a process, importing ztclient and gRPC", "ms", first)


def connect_times(connect: http_peer.Connect, host: str, port: int, count: int) -> list[float]:
    """Milliseconds of each of ``count`` connects, one after the other."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        with connect((host, port), 30):
            times.append((time.perf_counter() - started) * 1e3)
        time.sleep(PAUSE)
    return times


def request_times(connect: http_peer.Connect, host: str, port: int, count: int) -> list[float]:
    """Milliseconds of each of ``count`` requests of 1 KB on one connection."""
    with connect((host, port), 30) as sock:
        return [second * 1e3 for second in http_peer.request_response(sock, host, f"/{SMALL}", count)]


def p99(times: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[98]


def requests(nodes: Pair, options: Options) -> Iterator[Result]:
    """1 KB there and back on an open connection."""
    rounds = [request_times(nodes.connect, nodes.ip, PORT, REQUESTS) for _ in range(options.rounds)]
    medians, tails = [statistics.median(times) for times in rounds], [p99(times) for times in rounds]
    yield Row(SECTION, "1 KB request-response, median", "ms", medians, must=3, aim=1.5, less_is_better=True)
    yield Row(SECTION, "1 KB request-response, p99", "ms", tails, must=10, aim=5, less_is_better=True)


def crowd(nodes: Pair, options: Options) -> Iterator[Result]:
    """Many connections that all start at once."""
    spreads, whole, totals = [], [], []
    for _ in range(options.rounds):
        started = time.perf_counter()
        times = together(lambda: nodes.get(MB), CROWD)
        totals.append(CROWD * MB / (time.perf_counter() - started) / 1e6)
        whole.append(float(len(times)))
        spreads.append(max(times) / statistics.median(times))
    yield Row(SECTION, f"{CROWD} connections at once, 1 MB each: whole", f"of {CROWD}", whole, must=CROWD)
    yield Row(SECTION, f"{CROWD} connections at once: slowest / median", "", spreads, must=5, less_is_better=True)
    yield Row(SECTION, f"{CROWD} connections at once: together", "MB/s", totals)


def together(transfer: Callable[[], Transfer], count: int) -> list[float]:
    """Seconds that each of ``count`` transfers took which started at once; those that failed are left out."""
    times: list[float] = []
    barrier = threading.Barrier(count)
    expected = hashlib.sha256(http_peer.content(MB)).hexdigest()

    def one() -> None:
        barrier.wait()
        with contextlib.suppress(OSError, Incomplete):
            done = transfer()
            if done.sha256 == expected:
                times.append(done.seconds)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def bulk(nodes: Pair, options: Options) -> Iterator[Result]:
    """Throughput each way, and what a frame costs on the way."""
    size = options.bulk * MB
    for name, transfer, data, role in (
        ("download", nodes.get, "frames_to_worker", "receiving"),
        ("upload", nodes.put, "frames_from_worker", "sending"),
    ):
        rates, costs = [], []
        transfer(size // 8)
        for _ in range(options.rounds):
            with Cost(nodes.beta, data) as cost:
                rates.append(transfer(size).rate)
            costs.append(cost)
        yield Row(SECTION, f"{name}, {options.bulk} MB", "MB/s", rates)
        for process in ("node", "worker"):
            samples = [getattr(cost, process) for cost in costs]
            note = "CPU per data frame, its acknowledgements included"
            yield Row(
                SECTION, f"{role}: {process} process", "µs/frame", samples, aim=20, less_is_better=True, note=note
            )


class Cost:
    """CPU time of a member's processes during a block, in µs for each data frame."""

    def __init__(self, member: EmbeddedMember, counter: str) -> None:
        self._member, self._counter = member, counter
        self.node = self.worker = 0.0

    def _read(self) -> tuple[int, float, float]:
        status = self._member.node.status()
        workers = [worker.pid for worker in status.workers]
        return (
            status.counters[f"worker.{self._counter}"] + status.counters[f"lanes.{self._counter}"],
            machine.cpu_seconds([self._member.process.pid]),
            machine.cpu_seconds(workers),
        )

    def __enter__(self) -> Cost:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        frames, node, worker = (now - then for now, then in zip(self._read(), self._before, strict=True))
        self.node, self.worker = node / frames * 1e6, worker / frames * 1e6
