"""The least of HTTP/1.1 over sockets, for both ends of a benchmark: what is measured is the way, not a web server.

    python -m tests.bench.http_peer --kernel IP PORT [--congestion NAME]    on kernel sockets
    python -m tests.bench.http_peer --node STATE IP PORT                    on the node with this state directory

GET /N answers N bytes, PUT answers the body's SHA-256, as the libzt driver of tests/interop does. The server prints
{"event": "serving"} and then obeys its standard input, a JSON object a line (``Talker``): it is the client, too.
    {"do": "get", "host": h, "port": p, "size": n}   -> {"event": "got", "bytes", "sha256", "connect_s", "seconds"}
    {"do": "put", "host": h, "port": p, "size": n}   -> {"event": "put", "bytes", "connect_s", "seconds"}
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ztclient

CHUNK = 1 << 18
PATIENCE = 120.0
"""Seconds that any one operation on a socket may take."""

Connect = Callable[[tuple[str, int], float], socket.socket]
"""``socket.create_connection`` or a node's."""


class Incomplete(Exception):
    """The peer closed before the end, or its hash is not ours."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One that was whole. ``seconds`` from before the connect until the last byte; ``connect_s`` is part of it."""

    bytes: int
    sha256: str
    connect_s: float
    seconds: float

    @property
    def rate(self) -> float:
        """MB/s (10^6 bytes), the connect included."""
        return self.bytes / self.seconds / 1e6


@functools.lru_cache(4)
def content(size: int) -> bytes:
    """The body of GET /size and of PUT: the same in every process, and no two 32-byte blocks alike within 4 MiB."""
    return (_BLOCK * (-(-size // len(_BLOCK))))[:size]


_BLOCK = b"".join(hashlib.sha256(index.to_bytes(8, "big")).digest() for index in range(1 << 17))


def get(connect: Connect, host: str, port: int, path: str) -> Transfer:
    """Fetch a page over a connection of its own."""
    started = time.perf_counter()
    with connect((host, port), PATIENCE) as sock:
        connected = time.perf_counter()
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        buffer = bytearray(CHUNK)
        head, rest = read_head(sock, buffer)
        digest, total, length = hashlib.sha256(rest), len(rest), content_length(head)
        while total < length and (count := sock.recv_into(buffer)):
            digest.update(memoryview(buffer)[:count])
            total += count
        seconds = time.perf_counter() - started
    if total != length:
        raise Incomplete(f"{total} of {length} bytes came")
    return Transfer(total, digest.hexdigest(), connected - started, seconds)


def put(connect: Connect, host: str, port: int, body: bytes) -> Transfer:
    """Send a body over a connection of its own; done when the server answered with the right hash."""
    started = time.perf_counter()
    with connect((host, port), PATIENCE) as sock:
        connected = time.perf_counter()
        sock.sendall(f"PUT / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        sock.sendall(body)
        buffer = bytearray(CHUNK)
        head, answer = read_head(sock, buffer)
        while len(answer) < content_length(head) and (count := sock.recv_into(buffer)):
            answer += buffer[:count]
        seconds = time.perf_counter() - started
    if answer.decode() != hashlib.sha256(body).hexdigest():
        raise Incomplete("the server's SHA-256 is not that of what was sent")
    return Transfer(len(body), answer.decode(), connected - started, seconds)


def request_response(sock: socket.socket, host: str, path: str, count: int) -> list[float]:
    """Seconds that each of ``count`` requests took, one after the other on an open connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request, buffer, times = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), bytearray(CHUNK), []
    for _ in range(count):
        started = time.perf_counter()
        sock.sendall(request)
        head, rest = read_head(sock, buffer)
        left = content_length(head) - len(rest)
        while left > 0:
            received = sock.recv_into(buffer)
            if not received:
                raise Incomplete("the server closed between requests")
            left -= received
        times.append(time.perf_counter() - started)
    return times


def read_head(sock: socket.socket, buffer: bytearray) -> tuple[bytes, bytes]:
    """A message's head and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        count = sock.recv_into(buffer)
        if not count:
            raise Incomplete("the stream ended before the end of the head")
        data += buffer[:count]
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def content_length(head: bytes) -> int:
    """A message's Content-Length; 0 where it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def serve(accept: Callable[[], tuple[socket.socket, Any]]) -> None:
    """Serve each connection in a thread of its own, until the process ends."""
    while True:
        sock, _ = accept()
        threading.Thread(target=_serve_one, args=(sock,), daemon=True).start()


def _serve_one(sock: socket.socket) -> None:
    buffer = bytearray(CHUNK)
    with sock, contextlib.suppress(Incomplete, OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            head, rest = read_head(sock, buffer)
            method, path, _ = head.split(b" ", 2)
            digest, left = hashlib.sha256(rest), content_length(head) - len(rest)
            while left > 0 and (count := sock.recv_into(buffer)):
                digest.update(memoryview(buffer)[:count])
                left -= count
            body = digest.hexdigest().encode() if method == b"PUT" else content(int(path[1:]))
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            sock.sendall(head + body[:CHUNK])
            sock.sendall(memoryview(body)[CHUNK:])


def kernel_connect(congestion: str | None) -> Connect:
    """The kernel's connect, with this congestion control."""

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        sock = socket.socket()
        if congestion:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        sock.settimeout(timeout)
        sock.connect(address)
        return sock

    return connect


def main() -> None:
    """Serve, and transfer when told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", nargs=2, metavar=("IP", "PORT"))
    parser.add_argument("--node", nargs=3, metavar=("STATE", "IP", "PORT"))
    parser.add_argument("--congestion", metavar="NAME", help="the kernel's congestion control; else its default")
    arguments = parser.parse_args()
    connect: Connect
    if arguments.kernel:
        ip, port = arguments.kernel
        server = socket.create_server((ip, int(port)), backlog=1024)
        if arguments.congestion:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, arguments.congestion.encode())
        accept, connect = server.accept, kernel_connect(arguments.congestion)
    else:
        state, ip, port = arguments.node
        node = ztclient.Node(state=state)
        accept, connect = node.listen(ip, int(port), backlog=1024).accept, node.create_connection
    threading.Thread(target=serve, args=(accept,), daemon=True).start()
    print(json.dumps({"event": "serving"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        host, port = command["host"], command["port"]
        if command["do"] == "get":
            print(json.dumps({"event": "got", **asdict(get(connect, host, port, f"/{command['size']}"))}), flush=True)
        else:
            done = put(connect, host, port, content(command["size"]))
            print(json.dumps({"event": "put", **asdict(done)}), flush=True)
    os._exit(0)  # threads of kept-alive connections still wait for requests


if __name__ == "__main__":
    main()
