"""The client of the benches beside a real peer.

    python -m tests.bench.peer_client WHAT IP PORT COUNT [STATE]

COUNT bytes that it gets or puts, requests that it asks (one by one, as threads, selector or posts), or connections that
it opens in a row, apart or in a crowd; with the state directory of a node, by that. Of this repository it needs the
thin client alone, so that of another checkout will do.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ztclient
from tests.bench import http_peer, small_clients

SMALL = 1024
PAUSE = 0.02
"""Seconds between connections that are opened apart, so that none pays for the end of the one before."""
AT_ONCE = 50
"""Threads of a crowd."""


def run(what: str, ip: str, port: int, count: int, state: str | None) -> dict[str, Any]:
    connect = socket.create_connection if state is None else ztclient.Node(state=state).create_connection
    with connect((ip, port), 60) as warm:  # the channel to the node, and the way to the peer
        http_peer.request_response(warm, ip, f"/{SMALL}", 10)
    if what in ("row", "apart", "crowd"):
        return _dialled(lambda: connect((ip, port), 60), what, count)
    body = http_peer.content(count) if what == "put" else b""
    cpu, started = time.process_time(), time.perf_counter()
    times: list[float] = []
    if (asks := {"threads": small_clients.threads, "posts": small_clients.posts}.get(what)) is not None:
        times = asks(lambda: connect((ip, port), 60), f"/{SMALL}", count)
    elif what == "selector":
        small_clients.selector(lambda: connect((ip, port), 60), f"/{SMALL}", count)
    else:
        times = _one(lambda: connect((ip, port), 60), what, ip, count, body)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "times": times,
        "pid": os.getpid(),
    }


def _one(connect: Callable[[], socket.socket], what: str, ip: str, count: int, body: bytes) -> list[float]:
    """On one connection: requests, or bytes one way."""
    times: list[float] = []
    with connect() as sock:
        if what == "ask":
            times = http_peer.request_response(sock, ip, f"/{SMALL}", count)
        elif what == "put":
            sock.sendall(f"PUT / HTTP/1.1\r\nHost: {ip}\r\nContent-Length: {count}\r\n\r\n".encode())
            sock.sendall(body)
            http_peer.read_head(sock, bytearray(1 << 16))
        else:
            sock.sendall(f"GET /{count} HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n".encode())
            buffer = bytearray(1 << 18)
            _, rest = http_peer.read_head(sock, buffer)
            left = count - len(rest)
            while left > 0 and (received := sock.recv_into(buffer)):
                left -= received
            if left:
                raise http_peer.Incomplete(f"{left} bytes did not come")
    return times


def _dialled(connect: Callable[[], socket.socket], what: str, count: int) -> dict[str, Any]:
    def timed(_: int) -> float:
        began = time.perf_counter()
        with connect():
            took = time.perf_counter() - began
        if what == "apart":
            time.sleep(PAUSE)
        return took

    cpu, started = time.process_time(), time.perf_counter()
    if what == "crowd":
        with ThreadPoolExecutor(AT_ONCE) as pool:
            times = list(pool.map(timed, range(count)))
    else:
        times = list(map(timed, range(count)))
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "times": times,
        "pid": os.getpid(),
    }


def main(arguments: Sequence[str]) -> None:
    what, ip, port, count, *state = arguments
    print(json.dumps(run(what, ip, int(port), int(count), state[0] if state else None)))


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main(sys.argv[1:])
