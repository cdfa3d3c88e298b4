"""Our netstack against the Linux kernel's TCP over a TAP device: throughput each way, latency, cost per frame.

    sudo python -m tests.bench.bench_netstack [--json FILE] [--rounds N] [--megabytes N]

The stack runs in this process, one frame per system call as a TAP device has it; the kernel's side in another process,
in a network namespace of its own. Medians of all rounds. ``cpu`` is this process' time per frame (both directions) in
µs, the TAP's system calls included. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.netns.kernel_pairs import until
from tests.netns.tapharness import KERNEL4, Harness, Namespace, harness, unavailable
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.wire import checksum

REPOSITORY = Path(__file__).parents[2]
PORT = 7000
CHUNK = 1 << 20
REQUESTS = 2000
CONNECTS = 200


def peer() -> None:
    """The kernel's side: says READY, then serves connections by the first byte that it gets: S(ink), G(ive), E(cho)."""
    server = socket.create_server((KERNEL4, PORT), backlog=64)
    print("READY", flush=True)
    while True:
        sock, _ = server.accept()
        with sock, contextlib.suppress(ConnectionResetError):  # the bench ends its connections with a reset
            attend(sock)


def attend(sock: socket.socket) -> None:
    """One connection of the peer's."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    order = sock.recv(9, socket.MSG_WAITALL)
    kind, amount = order[:1], int.from_bytes(order[1:], "big")
    if kind == b"S":
        while amount > 0:
            amount -= len(sock.recv(CHUNK))
        sock.sendall(b"done")
    elif kind == b"G":
        block = bytes(CHUNK)
        while amount > 0:
            amount -= sock.send(block[:amount])
    elif kind == b"E":
        while data := sock.recv(4096):
            sock.sendall(data)


@contextlib.contextmanager
def network(mtu: int) -> Iterator[Harness]:
    """A harness whose kernel side has the peer running. The stack sums by numpy, as in a worker with clients."""
    checksum.use_numpy()
    with harness(mtu=mtu) as net, kernel_peer(net.namespace):
        yield net


def inside(namespace: Namespace) -> list[str]:
    """The words before a command that is to run in the namespace."""
    return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace.fd}"]


@contextlib.contextmanager
def kernel_peer(namespace: Namespace) -> Iterator[None]:
    """The peer, running in a namespace that has its address."""
    command = [*inside(namespace), sys.executable, "-m", "tests.bench.bench_netstack", "--peer"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.wait()


def opened(net: Harness, order: bytes, amount: int = 0) -> TcpConnection:
    """A connection on which the peer knows what to do."""
    connection = net.stack.connect(KERNEL4, PORT, time.monotonic())
    connection.nodelay = True
    net.run(lambda: connection.established or connection.error)
    connection.write(order + amount.to_bytes(8, "big"))
    return connection


def timed(net: Harness, work: Callable[[], None]) -> tuple[float, float]:
    """(seconds, CPU µs of this process per frame)."""
    frames = net.frames_in + net.frames_out
    started, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return seconds, cpu / (net.frames_in + net.frames_out - frames) * 1e6


def upload(net: Harness, size: int) -> tuple[float, float]:
    """(MB/s, CPU µs per frame): until the kernel's reader says that it has all."""
    connection = opened(net, b"S", size)
    block = os.urandom(CHUNK)
    left = size

    def push() -> bool:
        nonlocal left
        while left > 0 and connection.writable > 0:
            connection.write(block[:left] if left < CHUNK else block)
            left -= CHUNK
        return connection.readable >= 4

    seconds, cpu = timed(net, lambda: net.run(push, 120))
    connection.abort()
    return size / seconds / 1e6, cpu


def download(net: Harness, size: int) -> tuple[float, float]:
    """(MB/s, CPU µs per frame)."""
    connection = opened(net, b"G", size)
    received = 0

    def pull() -> bool:
        nonlocal received
        for piece in connection.read(1 << 24):
            received += len(piece)
        return received >= size

    seconds, cpu = timed(net, lambda: net.run(pull, 120))
    connection.abort()
    return size / seconds / 1e6, cpu


def request_response(net: Harness) -> tuple[float, float]:
    """(median, 99th percentile) in ms of 1 KB there and back on an open connection."""
    connection = opened(net, b"E")
    request, times = os.urandom(1024), []
    for _ in range(REQUESTS):
        got = 0

        def answered() -> bool:
            nonlocal got
            got += sum(map(len, connection.read(4096)))
            return got >= 1024

        started = time.perf_counter()
        connection.write(request)
        net.run(answered)
        times.append((time.perf_counter() - started) * 1e3)
    connection.abort()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def _stands(connection: TcpConnection) -> bool:
    return connection.established or connection.error is not None


def connect_time(net: Harness) -> float:
    """Median in ms until a connection stands."""
    times = []
    for _ in range(CONNECTS):
        started = time.perf_counter()
        connection = net.stack.connect(KERNEL4, PORT, time.monotonic())
        until(net, connection, lambda connection: connection.established or connection.error)
        times.append((time.perf_counter() - started) * 1e3)
        connection.abort()
        net.flush()
    return statistics.median(times)


def measure(rounds: int, megabytes: int) -> list[dict[str, float | str | int]]:
    """All rows."""
    rows: list[dict[str, float | str | int]] = []
    size = megabytes << 20
    for mtu in (1500, 2800):
        with network(mtu) as net:
            for name, transfer in (("upload", upload), ("download", download)):
                results = [transfer(net, size) for _ in range(rounds)]
                rate = statistics.median(rate for rate, _ in results)
                cpu = statistics.median(cpu for _, cpu in results)
                rows.append({"what": name, "mtu": mtu, "value": round(rate, 1), "unit": "MB/s", "cpu": round(cpu, 2)})
            median, tail = request_response(net)
            rows.append({"what": "1 KB request, median", "mtu": mtu, "value": round(median, 3), "unit": "ms"})
            rows.append({"what": "1 KB request, p99", "mtu": mtu, "value": round(tail, 3), "unit": "ms"})
            rows.append({"what": "connect, median", "mtu": mtu, "value": round(connect_time(net), 3), "unit": "ms"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64, help="of each transfer")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer()
    if (reason := unavailable()) is not None:
        raise SystemExit(f"bench_netstack: {reason}")
    rows = measure(arguments.rounds, arguments.megabytes)
    print(f"{'netstack and the Linux kernel over a TAP':44} {'MTU':>5} {'':>12} {'µs/frame':>9}")
    for row in rows:
        cpu = f"{row['cpu']:9.2f}" if "cpu" in row else ""
        print(f"{row['what']:44} {row['mtu']:>5} {row['value']:>7} {row['unit']:4} {cpu}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
