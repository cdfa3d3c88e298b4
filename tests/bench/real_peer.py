"""A real zerotier-one as the peer, on a direct path; we and, in our place, another zerotier-one with the kernel's TCP
take turns at it; then as the server, whose clients are the peer's.

    ZEROTIER_ONE=/usr/sbin/zerotier-one python -m tests.bench --only peer

Root and controller are zerotier-one too. Small answers are nginx's where it is installed, else those of the bench's own
server; bulk comes from and goes to a program on the kernel's sockets. Needs root, for the places
(``tests.lab.places``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench import machine, small_clients
from tests.bench.options import Options
from tests.bench.overlay import p99
from tests.bench.peer_client import AT_ONCE, PAUSE, SMALL
from tests.bench.report import LeftOut, Result, Row
from tests.lab.hosts import Host, Lab, has_reference, lab, until
from tests.lab.places import unavailable
from ztnode.embedded import free_port

SECTION = "a real zerotier-one as the peer, direct"
RIVAL = "zerotier-one"
PEER, OWN, THEIRS = "10.121.15.30", "10.121.15.10", "10.121.15.20"
BULK_PORT, WEB_PORT = 5380, 5381
MB = 1 << 20
GB = 1e9
REQUESTS = 1000
DIALS = 200
CONNECTIONS = (1, 20, 100)
WRK_SECONDS = 5
IDLE = 500
"""Connections that stand, for what each of them takes in memory."""
_NGINX = """daemon off; master_process off; pid {folder}/nginx-{ip}.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; tcp_nodelay on;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{ listen {ip}:{port}; location / {{ return 200 "{body}"; }} }}
}}
"""
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")


@dataclass
class Place:
    """A host that takes its turn at the peer."""

    host: Host
    processes: dict[str, int]
    """By name, those whose CPU time is shown."""
    clients: tuple[str, ...] = ()
    """What the client program is told beside: a state directory."""
    program: tuple[str, ...] = (sys.executable, "-m", "tests.bench.peer_client")

    def run(self, what: str, port: int, count: int) -> dict[str, Any]:
        """The client program's figures, with the CPU seconds of each process beside (``cpu``)."""
        command = [*self.program, what, PEER, str(port), str(count), *self.clients]
        before = {name: machine.cpu_seconds([pid]) for name, pid in self.processes.items()}
        said = subprocess.run(
            [*self.host.lab.places.prefix(self.host.place), *command], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        found: dict[str, Any] = json.loads(said)
        cpu = {name: machine.cpu_seconds([pid]) - before[name] for name, pid in self.processes.items()}
        return found | {"cpu": cpu | {"client": found["cpu_s"]}}


def measure(options: Options) -> Iterator[Result]:
    """All rows of this section."""
    if not has_reference():
        yield LeftOut(SECTION, "all", "needs zerotier-one 1.14.1: name the program in $ZEROTIER_ONE")
        return
    if (reason := unavailable()) is not None:
        yield LeftOut(SECTION, "all", reason)
        return
    with lab("peer") as here, contextlib.ExitStack() as stack:
        ours, theirs = set_up(here, options)
        yield from _bulk(ours, theirs, options)
        yield from _requests(ours, theirs, options)
        yield from _dials(ours, theirs, options)
        yield from _small_clients(ours, theirs, options)
        yield from _crowds(ours, theirs, options, stack)
        yield from _as_server(ours, theirs, options, stack)
        yield from _memory(ours)


def set_up(here: Lab, options: Options) -> tuple[Place, Place]:
    """The network, and the two who take turns at its peer, which has a web server and one for bulk."""
    here.basics()
    for number, name in enumerate(("peer", "own", "their"), 3):
        here.places.plug(name, [f"203.0.113.{number}/24"])
    peer = here.host("peer", ours=False).start()
    own = here.host("own", ours=True, arguments=("--congestion", options.congestion)).start()
    their = here.host("their", ours=False).start()
    for host, ip in ((peer, PEER), (own, OWN), (their, THEIRS)):
        until(f"{host.place} is online", host.is_online)
        host.join(ip)
    log = here.folder / "bulk.log"
    bulk = (sys.executable, "-m", "tests.bench.http_peer", "--kernel", PEER, str(BULK_PORT))
    here.start("peer", *bulk, log=log, stdin=subprocess.PIPE)
    until("a server", lambda: log.read_text())
    _serve_small(peer, PEER)
    assert peer.process is not None and own.process is not None and their.process is not None
    (worker,) = own.node.status().workers
    far = {"peer": peer.process.pid}
    ours = Place(own, {"node": own.process.pid, "worker": worker.pid, **far}, (str(own.folder),))
    theirs = Place(their, {RIVAL: their.process.pid, **far})
    for place in (ours, theirs):
        place.run("get", BULK_PORT, MB)
        until("a direct path", lambda place=place: place.host.paths(peer.address))  # type: ignore[misc]
    return ours, theirs


def _serve_small(host: Host, ip: str) -> None:
    """Serve answers of 1 KB there."""
    log = host.lab.folder / f"web-{host.place}.log"
    if (nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")) is not None:
        conf = log.with_suffix(".conf")
        conf.write_text(_NGINX.format(folder=host.lab.folder, ip=ip, port=WEB_PORT, body="x" * SMALL))
        host.lab.start(host.place, nginx, "-c", str(conf), "-e", str(log), log=log)
    else:
        server = (sys.executable, "-m", "tests.bench.doors", "--web", ip, str(WEB_PORT))
        host.lab.start(host.place, *server, log=log, stdin=subprocess.PIPE)
    until("a web server", lambda: _wrk(host, ip, WEB_PORT, 1, 1) > 0)


def _bulk(ours: Place, theirs: Place, options: Options) -> Iterator[Result]:
    size = options.bulk * MB
    for what, name, must, aim, frugal in (
        ("get", "download", 1.05, 1.25, (7.5, 6.0)),
        ("put", "upload", 1.25, 1.5, (6.0, 5.0)),
    ):
        rates: dict[str, list[float]] = defaultdict(list)
        costs: dict[tuple[str, str], list[float]] = defaultdict(list)
        for counted in range(-1, options.rounds):
            for who, place in (("ours", ours), (RIVAL, theirs)):
                found = place.run(what, BULK_PORT, size if counted >= 0 else size // 8)
                if counted >= 0:
                    rates[who].append(size / found["seconds"] / 1e6)
                    for process, seconds in found["cpu"].items():
                        costs[who, process].append(seconds / size * GB)
        what = f"{name}, {options.bulk} MB"
        yield Row(SECTION, what, "MB/s", rates["ours"], RIVAL, rates[RIVAL], must=must, aim=aim, times=True)
        both = [sum(pair) for pair in zip(costs["ours", "node"], costs["ours", "worker"], strict=True)]
        note = _told({process: samples for (who, process), samples in costs.items() if who == "ours"}, "s/GB")
        note += "; " + _told({process: samples for (who, process), samples in costs.items() if who == RIVAL}, "s/GB")
        yield Row(
            SECTION,
            f"{name}: node and worker",
            "CPU s/GB",
            both,
            must=frugal[0],
            aim=frugal[1],
            less_is_better=True,
            note=note,
        )


def _told(costs: dict[str, list[float]], unit: str) -> str:
    """The medians of each process, in one line."""
    shown = ", ".join(f"{process} {statistics.median(samples):.1f}" for process, samples in costs.items())
    return f"{shown} {unit}"


def _requests(ours: Place, theirs: Place, options: Options) -> Iterator[Result]:
    times: dict[str, list[list[float]]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    count = REQUESTS // 4 if options.quick else REQUESTS
    for _ in range(options.rounds):
        for who, place in (("ours", ours), (RIVAL, theirs)):
            found = place.run("ask", WEB_PORT, count)
            times[who].append([second * 1e3 for second in found["times"]])
            if who == "ours":
                for process, seconds in found["cpu"].items():
                    costs[process].append(seconds / count * 1e6)
    middle = {who: [statistics.median(samples) for samples in rounds] for who, rounds in times.items()}
    tails = {who: [p99(samples) for samples in rounds] for who, rounds in times.items()}
    what = "1 KB request on one connection"
    note = _told(costs, "µs of CPU")
    yield Row(
        SECTION,
        f"{what}, median",
        "ms",
        middle["ours"],
        RIVAL,
        middle[RIVAL],
        must=0.45,
        aim=0.3,
        less_is_better=True,
        note=note,
    )
    yield Row(SECTION, f"{what}, p99", "ms", tails["ours"], RIVAL, tails[RIVAL], must=1.5, aim=1, less_is_better=True)


def _dials(ours: Place, theirs: Place, options: Options) -> Iterator[Result]:
    """Connections that are opened and closed at the peer's server."""
    count = DIALS // 4 if options.quick else DIALS
    for what, name, must, aim in (("row", "in a row", 0.9, 0.6), ("apart", f"{PAUSE * 1e3:g} ms apart", 1.5, 1.0)):
        times: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            for who, place in (("ours", ours), (RIVAL, theirs)):
                found = place.run(what, WEB_PORT, count)["times"]
                times[who].append(statistics.median(found) * 1e3)
        yield Row(
            SECTION,
            f"connect, {name}, median of {count}",
            "ms",
            times["ours"],
            RIVAL,
            times[RIVAL],
            must=must,
            aim=aim,
            less_is_better=True,
        )
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for who, place in (("ours", ours), (RIVAL, theirs)):
            found = place.run("crowd", WEB_PORT, 5 * count)
            rates[who].append(5 * count / found["seconds"])
            if who == "ours":
                for process, seconds in found["cpu"].items():
                    costs[process].append(seconds / (5 * count) * 1e6)
    yield Row(
        SECTION,
        f"dials, {AT_ONCE} at once, one client process",
        "/s",
        rates["ours"],
        RIVAL,
        rates[RIVAL],
        must=1000,
        aim=2000,
        note=_told(costs, "µs of CPU"),
    )


def _small_clients(ours: Place, theirs: Place, options: Options) -> Iterator[Result]:
    """Programs of Python that ask for 1 KB each time, or send as much."""
    count = REQUESTS // 4 if options.quick else REQUESTS
    for what, name, must, factor in (
        ("threads", f"http.client, {small_clients.THREADS} threads, 1 KB", 5000, 4),
        ("selector", f"a selector with {small_clients.CONNECTIONS} connections, 1 KB", 15000, 10),
        ("posts", "POST of 1 KB by http.client, p99", 1.5, 1),
    ):
        found: dict[str, list[float]] = defaultdict(list)
        costs: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            for who, place in (("ours", ours), (RIVAL, theirs)):
                done = place.run(what, WEB_PORT, factor * count)
                found[who].append(p99(done["times"]) * 1e3 if what == "posts" else factor * count / done["seconds"])
                if who == "ours":
                    for process, seconds in done["cpu"].items():
                        costs[process].append(seconds / (factor * count) * 1e6)
        yield Row(
            SECTION,
            name,
            "ms" if what == "posts" else "/s",
            found["ours"],
            RIVAL,
            found[RIVAL],
            must=must,
            less_is_better=what == "posts",
            note=_told(costs, "µs of CPU"),
        )


def _crowds(ours: Place, theirs: Place, options: Options, stack: contextlib.ExitStack) -> Iterator[Result]:
    """``wrk`` at the peer's server, by ``forward`` and by the kernel."""
    if shutil.which("wrk") is None:
        yield LeftOut(SECTION, "requests a second", "needs the program wrk")
        return
    port = free_port()
    forward = _carrier(ours.host, stack, "forward", "-L", f"{port}:{PEER}:{WEB_PORT}")
    until("forward listens", lambda: _wrk(ours.host, "127.0.0.1", port, 1, 1) > 0)
    yield from _rates(
        "wrk -c{}, 1 KB, by forward",
        lambda connections, seconds: _wrk(ours.host, "127.0.0.1", port, connections, seconds),
        lambda connections, seconds: _wrk(theirs.host, PEER, WEB_PORT, connections, seconds),
        {**ours.processes, "forward": forward.pid},
        0.4,
        options,
    )


def _rates(
    what: str,
    ours: Callable[[int, int], float],
    theirs: Callable[[int, int], float],
    processes: dict[str, int],
    must: float,
    options: Options,
) -> Iterator[Row]:
    """``ours`` and ``theirs`` by turns: requests a second with so many connections for so many seconds."""
    seconds = 2 if options.quick else WRK_SECONDS
    for connections in CONNECTIONS:
        rates: dict[str, list[float]] = defaultdict(list)
        costs: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            before = {name: machine.cpu_seconds([pid]) for name, pid in processes.items()}
            rate = ours(connections, seconds)
            for name, pid in processes.items():
                costs[name].append((machine.cpu_seconds([pid]) - before[name]) / (rate * seconds) * 1e6)
            rates["ours"].append(rate)
            rates[RIVAL].append(theirs(connections, seconds))
        yield Row(
            SECTION,
            what.format(connections),
            "/s",
            rates["ours"],
            RIVAL,
            rates[RIVAL],
            must=must,
            aim=0.6,
            times=True,
            note=_told(costs, "µs a request"),
        )


def _as_server(ours: Place, theirs: Place, options: Options, stack: contextlib.ExitStack) -> Iterator[Result]:
    """``wrk`` at the peer: a server of the kernel's loopback behind ``expose``, and one at the rival's address."""
    if shutil.which("wrk") is None:
        return
    _serve_small(ours.host, "127.0.0.1")
    _serve_small(theirs.host, THEIRS)
    expose = _carrier(ours.host, stack, "expose", "-R", f"{WEB_PORT}:127.0.0.1:{WEB_PORT}")
    peer = ours.host.lab.hosts["peer"]
    until("expose listens", lambda: _wrk(peer, OWN, WEB_PORT, 1, 1) > 0)
    yield from _rates(
        "wrk at the peer -c{}, 1 KB, nginx behind expose",
        lambda connections, seconds: _wrk(peer, OWN, WEB_PORT, connections, seconds),
        lambda connections, seconds: _wrk(peer, THEIRS, WEB_PORT, connections, seconds),
        {**ours.processes, "expose": expose.pid},
        0.35,
        options,
    )


def _carrier(host: Host, stack: contextlib.ExitStack, *command: str) -> subprocess.Popen[bytes]:
    """``forward`` or ``expose``, until the stack closes."""
    name, *rest = command
    whole = (sys.executable, "-m", "ztnode", name, "--state", str(host.folder), *rest)
    process = host.lab.start(host.place, *whole, log=host.lab.folder / f"{name}.log")
    stack.callback(host.lab.end, process)
    return process


def _wrk(host: Host, ip: str, port: int, connections: int, seconds: int) -> float:
    """Requests a second."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://{ip}:{port}/"]
    said = subprocess.run([*host.lab.places.prefix(host.place), *command], check=False, capture_output=True, text=True)
    found = _RATE.search(said.stdout)
    return float(found[1]) if found is not None else 0.0


def _memory(ours: Place) -> Iterator[Result]:
    pids = [ours.processes["node"], ours.processes["worker"]]
    node = ours.host.node
    with contextlib.ExitStack() as stack:
        stack.enter_context(node.create_connection((PEER, WEB_PORT), 30))
        before = machine.resident(pids)
        for _ in range(IDLE):
            stack.enter_context(node.create_connection((PEER, WEB_PORT), 30))
        time.sleep(1)
        growth = (machine.resident(pids) - before) / IDLE / 1e3
    yield Row(SECTION, f"an idle connection, of {IDLE}", "KB", [growth], less_is_better=True)
