"""A process of its own around libzt: a real ZeroTier core with lwIP, told what to do by JSON lines on standard input.

    python libzt_driver.py --library SO --stubs SO --planet FILE --state DIR --port UDP_PORT

Commands, one JSON object a line, and what each prints when it is done:
    {"do": "join", "nwid": "..."}                     -> {"event": "joined", "addresses": [...], "seconds": s}
    {"do": "serve", "port": p, "body": "FILE"}        -> {"event": "serving", "port": p}; answers HTTP with the file
    {"do": "get", "host": h, "port": p, "path": "/"}  -> {"event": "got", "bytes": n, "sha256": hex, "seconds": s, ...}
    {"do": "put", "host": h, "port": p, "file": F}    -> {"event": "put", "status": n, "bytes", "connect_s", "seconds"}
    {"do": "rtt", "host": h, "port": p, "count": n}   -> {"event": "rtt", "median_ms": m, "p99_ms": m}
    {"do": "status", "nwid": "..."}                   -> {"event": "status", "status": n}
It prints {"event": "online", "address": "...", "seconds": s} once a root answers, and ends at the end of its input.
An error prints {"event": "error", "reason": "..."} and ends the process with status 1.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

AF_INET, SOCK_STREAM = 2, 1
CHUNK = 1 << 18
JOIN_TIMEOUT = 90.0
ADDRESS_LENGTH = 46
"""Bytes of a textual address, no more and no less (ZTS_IP_MAX_STR_LEN): libzt refuses a buffer of any other size."""


class DriverError(Exception):
    """What libzt could not do."""


def say(**fields: Any) -> None:
    """One event for whoever started us."""
    print(json.dumps(fields), flush=True)


class Libzt:
    """The few calls of libzt that a peer in a test needs."""

    def __init__(self, library: str, stubs: str) -> None:
        ctypes.CDLL(stubs, mode=ctypes.RTLD_GLOBAL)
        self._c = ctypes.CDLL(library, mode=os.RTLD_LAZY)
        self._c.zts_node_get_id.restype = ctypes.c_uint64

    def start(self, state: str, port: int, planet: bytes) -> None:
        """Start the node and wait until a root answers. The state directory is made if need be."""
        Path(state).mkdir(parents=True, exist_ok=True)
        self._check("init", self._c.zts_init_from_storage(state.encode()))
        self._check("port", self._c.zts_init_set_port(ctypes.c_ushort(port)))
        self._check("roots", self._c.zts_init_set_roots(planet, len(planet)))
        self._check("start", self._c.zts_node_start())
        self._wait("online", lambda: bool(self._c.zts_node_is_online()))

    @property
    def address(self) -> str:
        """The node's address, 10 hex digits."""
        return f"{self._c.zts_node_get_id():010x}"

    def join(self, nwid: int) -> list[str]:
        """Join and wait until the network is up; the managed addresses."""
        network = ctypes.c_uint64(nwid)
        self._check("join", self._c.zts_net_join(network))
        self._wait("network ready", lambda: bool(self._c.zts_net_transport_is_ready(network)))
        buffer = ctypes.create_string_buffer(64)
        self._wait("address", lambda: self._c.zts_addr_get_str(network, AF_INET, buffer, len(buffer)) == 0)
        return [buffer.value.decode()]

    def status(self, nwid: int) -> int:
        """libzt's number for the state of the network."""
        return int(self._c.zts_net_get_status(ctypes.c_uint64(nwid)))

    def listen(self, port: int) -> int:
        """A listening socket."""
        fd = self._check("socket", self._c.zts_bsd_socket(AF_INET, SOCK_STREAM, 0))
        self._check("bind", self._c.zts_bind(fd, b"0.0.0.0", ctypes.c_ushort(port)))
        self._check("listen", self._c.zts_listen(fd, 16))
        return fd

    def accept(self, listener: int) -> int:
        """The next connection; blocks this thread alone."""
        host, port = ctypes.create_string_buffer(ADDRESS_LENGTH), ctypes.c_ushort()
        return self._check("accept", self._c.zts_accept(listener, host, len(host), ctypes.byref(port)))

    def connect(self, host: str, port: int) -> int:
        """A connected socket."""
        # Not zts_tcp_client: it returns 0 for success where its documentation promises the socket.
        fd = self._check("socket", self._c.zts_bsd_socket(AF_INET, SOCK_STREAM, 0))
        self._check("connect", self._c.zts_connect(fd, host.encode(), ctypes.c_ushort(port), 0))
        return fd

    def send(self, fd: int, data: bytes | memoryview) -> None:
        """Send all of ``data``."""
        view = memoryview(data)
        while view:
            piece = bytes(view[:65536])
            view = view[self._check("send", self._c.zts_bsd_send(fd, piece, len(piece), 0)) :]

    def receive(self, fd: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        """Receive into ``buffer``; 0 at the end of the stream."""
        return self._check("recv", self._c.zts_bsd_recv(fd, buffer, len(buffer), 0))

    def close(self, fd: int) -> None:
        """Close a socket."""
        self._c.zts_bsd_close(fd)

    @staticmethod
    def _check(what: str, result: int) -> int:
        if result < 0:
            raise DriverError(f"{what} returned {result}")
        return result

    @staticmethod
    def _wait(what: str, condition: Any) -> None:
        end = time.monotonic() + JOIN_TIMEOUT
        while not condition():
            if time.monotonic() > end:
                raise DriverError(f"not {what} after {JOIN_TIMEOUT:.0f} s")
            time.sleep(0.02)


def read_head(libzt: Libzt, fd: int, buffer: ctypes.Array[ctypes.c_char]) -> tuple[bytes, bytes]:
    """An HTTP message's head (with its blank line) and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        count = libzt.receive(fd, buffer)
        if not count:
            raise DriverError("the stream ended before the end of the HTTP head")
        data += buffer.raw[:count]
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def content_length(head: bytes) -> int:
    """The Content-Length of an HTTP message; 0 where it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def serve(libzt: Libzt, listener: int, body: bytes) -> None:
    """Answer each request of each connection with ``body``; drain what a request carries and tell its SHA-256."""
    while True:
        try:
            connection = libzt.accept(listener)
        except DriverError as error:
            say(event="error", reason=str(error))
            return
        threading.Thread(target=serve_connection, args=(libzt, connection, body), daemon=True).start()


def serve_connection(libzt: Libzt, fd: int, body: bytes) -> None:
    """One connection, kept alive until the client closes it."""
    buffer = ctypes.create_string_buffer(CHUNK)
    try:
        while True:
            head, rest = read_head(libzt, fd, buffer)
            left = content_length(head) - len(rest)
            digest = hashlib.sha256(rest)
            while left > 0:
                count = libzt.receive(fd, buffer)
                if not count:
                    raise DriverError("the stream ended inside a request")
                digest.update(memoryview(buffer)[:count])
                left -= count
            answer = digest.hexdigest().encode() if head.startswith((b"PUT", b"POST")) else body
            libzt.send(fd, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
            libzt.send(fd, answer)
    except DriverError:
        pass  # the client has gone: how a kept-alive connection ends
    finally:
        libzt.close(fd)


def get(libzt: Libzt, command: dict[str, Any]) -> None:
    """Fetch a page."""
    host, port = command["host"], command["port"]
    buffer, started = ctypes.create_string_buffer(CHUNK), time.monotonic()
    fd = libzt.connect(host, port)
    connected = time.monotonic()
    libzt.send(fd, f"GET {command.get('path', '/')} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, rest = read_head(libzt, fd, buffer)
    digest, total, length = hashlib.sha256(rest), len(rest), content_length(head)
    while total < length:
        count = libzt.receive(fd, buffer)
        if not count:
            break
        digest.update(memoryview(buffer)[:count])
        total += count
    libzt.close(fd)
    elapsed = time.monotonic() - started
    say(event="got", bytes=total, sha256=digest.hexdigest(), connect_s=connected - started, seconds=elapsed)


def put(libzt: Libzt, command: dict[str, Any]) -> None:
    """Upload a file."""
    host, port, data = command["host"], command["port"], Path(command["file"]).read_bytes()
    started = time.monotonic()
    fd = libzt.connect(host, port)
    connected = time.monotonic()
    libzt.send(fd, f"PUT / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n".encode())
    libzt.send(fd, data)
    head, _ = read_head(libzt, fd, ctypes.create_string_buffer(CHUNK))
    libzt.close(fd)
    elapsed = time.monotonic() - started
    status = int(head.split(b" ", 2)[1])
    say(event="put", status=status, bytes=len(data), connect_s=connected - started, seconds=elapsed)


def rtt(libzt: Libzt, command: dict[str, Any]) -> None:
    """Small requests, one after the other, on one connection."""
    host, buffer, times = command["host"], ctypes.create_string_buffer(CHUNK), []
    fd = libzt.connect(host, command["port"])
    request = f"GET {command.get('path', '/')} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    for _ in range(command["count"]):
        started = time.monotonic()
        libzt.send(fd, request)
        head, rest = read_head(libzt, fd, buffer)
        left = content_length(head) - len(rest)
        while left > 0:
            left -= libzt.receive(fd, buffer)
        times.append((time.monotonic() - started) * 1000)
    libzt.close(fd)
    times.sort()
    say(event="rtt", median_ms=statistics.median(times), p99_ms=times[int(len(times) * 0.99)])


def obey(libzt: Libzt, command: dict[str, Any]) -> None:
    """Carry out one command."""
    match command["do"]:
        case "join":
            started = time.monotonic()
            addresses = libzt.join(int(command["nwid"], 16))
            say(event="joined", addresses=addresses, seconds=time.monotonic() - started)
        case "serve":
            listener = libzt.listen(command["port"])
            body = Path(command["body"]).read_bytes()
            threading.Thread(target=serve, args=(libzt, listener, body), daemon=True).start()
            say(event="serving", port=command["port"])
        case "get":
            get(libzt, command)
        case "put":
            put(libzt, command)
        case "rtt":
            rtt(libzt, command)
        case "status":
            say(event="status", status=libzt.status(int(command["nwid"], 16)))
        case other:
            raise DriverError(f"no such command: {other}")


def main() -> int:
    """Start libzt, then obey until the end of the input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--library", "--stubs", "--planet", "--state"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    try:
        libzt, started = Libzt(arguments.library, arguments.stubs), time.monotonic()
        libzt.start(arguments.state, arguments.port, Path(arguments.planet).read_bytes())
        say(event="online", address=libzt.address, seconds=time.monotonic() - started)
        for line in sys.stdin:
            obey(libzt, json.loads(line))
    except DriverError as error:
        say(event="error", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # libzt's threads outlive main() and crash in the interpreter's teardown.
    os._exit(status)
