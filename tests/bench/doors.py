"""What programs reach the overlay by: forward, the proxy, datagrams; two nodes of ours on one machine.

    python -m tests.bench --only doors

The server behind alpha is a program of its own on a socket of the kernel, as other people's servers are, and alpha
exposes it; beta's side is what the rows name. ``wrk`` asks the proxy in absolute form, for it knows no CONNECT.

    python -m tests.bench.doors --echo STATE IP PORT        a UDP echo on the node with this state directory, and a
                                                            source: a datagram "flood N RATE SIZE" is answered by that
    python -m tests.bench.doors --web [IP PORT]             an HTTP server, else on loopback; prints its port
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import uvloop

import ztclient
from tests.bench import http_peer, machine
from tests.bench.http_peer import Incomplete
from tests.bench.options import Options
from tests.bench.overlay import MB, PORT, Pair, ipv4, server
from tests.bench.report import LeftOut, Result, Row
from ztclient import aio
from ztnode.embedded import EmbeddedNetwork, free_port

SECTION = "doors: programs of others, by forward and proxy"
WEB_PORT = 5381
ECHO_PORT = 5382
BODY = b"x" * 1024
LONG_BODY = b"x" * 65536
LONG_PATH = "/long"
CONNECTIONS = 100
HTTPX_AT_ONCE = 200
WRK_SECONDS = 6
MAPPINGS = 100
ROUND_TRIPS = 1000
FLOOD_RATE = 20_000
FLOOD_SECONDS = 3
FLOOD_SIZE = 1400
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_ERRORS = re.compile(r"Socket errors:.*|Non-2xx.*")
_SCRIPT = 'request = function() return wrk.format("GET", "http://{host}:{port}/") end\n'


def measure(options: Options) -> Iterator[Result]:
    """All rows of this section."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        network = stack.enter_context(EmbeddedNetwork(folder))
        nwid = network.create()
        web = stack.enter_context(running("--web"))
        assert web.stdout is not None
        origin = int(web.stdout.readline())
        alpha = network.add("alpha", "--congestion", options.congestion, "-R", f"{WEB_PORT}:127.0.0.1:{origin}")
        beta = network.add("beta", "--congestion", options.congestion)
        for member in (alpha, beta):
            member.wait_online()
        ip = ipv4(alpha, nwid)
        ipv4(beta, nwid)
        stack.enter_context(server(alpha.state, ip, folder))
        nodes = Pair(alpha, beta, ip)
        forwarded, bulk_port, proxy = (free_port() for _ in range(3))
        mappings = ("-L", f"{forwarded}:{ip}:{WEB_PORT}", "-L", f"{bulk_port}:{ip}:{PORT}")
        stack.enter_context(_ztnode(beta.state, "forward", *mappings))
        stack.enter_context(_ztnode(beta.state, "proxy", "--listen", str(proxy)))
        for port in (forwarded, bulk_port, proxy):
            _until_open(port)
        yield from _crowd(options, folder, ip, forwarded, proxy)
        yield from _bulk(nodes, options, bulk_port, proxy)
        yield from _memory(nodes)
        yield from _datagrams(nodes, options)
        yield from _httpx(nodes, options, origin)


def _crowd(options: Options, folder: Path, ip: str, forwarded: int, proxy: int) -> Iterator[Result]:
    """``wrk`` with a hundred connections, by turns so that the machine's moods strike both alike."""
    what = f"wrk -t1 -c{CONNECTIONS}, 1 KB"
    if shutil.which("wrk") is None:
        yield LeftOut(SECTION, what, "needs the program wrk")
        return
    script = folder / "absolute.lua"
    script.write_text(_SCRIPT.format(host=ip, port=WEB_PORT))
    by_forward: list[float] = []
    by_proxy: list[float] = []
    errors: list[str] = []
    for _ in range(options.rounds):
        for port, rates, more in ((forwarded, by_forward, ()), (proxy, by_proxy, ("-s", str(script)))):
            seconds = 2 if options.quick else WRK_SECONDS
            command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *more, f"http://127.0.0.1:{port}/"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = _RATE.search(said)
            rates.append(float(found[1]) if found is not None else 0.0)
            errors += _ERRORS.findall(said)
    note = errors[0] if errors else "no error"
    yield Row(SECTION, f"{what}, by forward", "/s", by_forward, note=note)
    yield Row(
        SECTION, f"{what}, by the HTTP proxy", "/s", by_proxy, "forward", by_forward, must=0.9, times=True, note=note
    )


def _bulk(nodes: Pair, options: Options, forwarded: int, proxy: int) -> Iterator[Result]:
    """One download by each way, by turns."""
    size = options.bulk * MB
    ways: dict[str, tuple[http_peer.Connect, str, int]] = {
        "a dialled socket": (nodes.connect, nodes.ip, PORT),
        "forward": (socket.create_connection, "127.0.0.1", forwarded),
        "SOCKS5": (_by_socks5(proxy), nodes.ip, PORT),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for counted in range(-1, options.rounds):
        for name, (connect, host, port) in ways.items():
            done = http_peer.get(connect, host, port, f"/{size if counted >= 0 else size // 8}")
            if counted >= 0:
                rates[name].append(done.rate)
    dialled = rates.pop("a dialled socket")
    yield Row(SECTION, f"download, {options.bulk} MB, a dialled socket", "MB/s", dialled)
    for name, samples in rates.items():
        what = f"download, {options.bulk} MB, by {name}"
        yield Row(SECTION, what, "MB/s", samples, "dialled", dialled, must=0.9, times=True)


def _by_socks5(proxy: int) -> http_peer.Connect:
    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", proxy), timeout)
        sock.sendall(b"\5\1\0")
        sock.recv(2)
        sock.sendall(b"\5\1\0\1" + socket.inet_aton(address[0]) + address[1].to_bytes(2, "big"))
        if sock.recv(10)[:2] != b"\5\0":
            raise Incomplete("the proxy refused")
        return sock

    return connect


def _memory(nodes: Pair) -> Iterator[Result]:
    """One process with a hundred mappings, none of which leads to a server."""
    first = 20_000
    mapping = f"{first}-{first + MAPPINGS - 1}:{nodes.ip}:{first}-{first + MAPPINGS - 1}"
    with _ztnode(nodes.beta.state, "forward", "-L", mapping) as process:
        for port in range(first, first + MAPPINGS):
            _until_open(port)  # each dials, in vain
        size = machine.resident(machine.tree(process.pid)) / 1e6
    yield Row(SECTION, f"{MAPPINGS} mappings of forward, resident", "MB", [size], must=50, less_is_better=True)


def _datagrams(nodes: Pair, options: Options) -> Iterator[Result]:
    """Small ones there and back, and large ones from alpha at a steady rate."""
    times, shares = [], []
    with running("--echo", str(nodes.alpha.state), nodes.ip, str(ECHO_PORT)) as far:
        assert far.stdout is not None
        far.stdout.readline()
        with nodes.beta.node.open_udp() as near:
            near.connect((nodes.ip, ECHO_PORT))
            near.settimeout(10)
            for _ in range(options.rounds):
                times.append(statistics.median(_round_trips(near, ROUND_TRIPS // 4 if options.quick else ROUND_TRIPS)))
            for _ in range(options.rounds):
                count = FLOOD_RATE * (1 if options.quick else FLOOD_SECONDS)
                shares.append(flooded(near, count) * 100)
    yield Row(SECTION, "UDP, 64 bytes there and back", "ms", times, must=1.5, less_is_better=True)
    what = f"UDP, {FLOOD_RATE} a second of {FLOOD_SIZE} bytes, received"
    yield Row(SECTION, what, "%", shares, must=100)


def _round_trips(near: ztclient.DatagramSocket, count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        near.send(b"x" * 64)
        near.recv(100)
        times.append((time.perf_counter() - started) * 1e3)
    return times


def flooded(near: ztclient.DatagramSocket, count: int, rate: int = FLOOD_RATE, size: int = FLOOD_SIZE) -> float:
    """What share of ``count`` datagrams comes."""
    near.send(f"flood {count} {rate} {size}".encode())
    received = 0
    near.settimeout(5)
    with contextlib.suppress(TimeoutError):
        while received < count:
            received += len(near.recv(2000)) == size
            if received == 1:
                near.settimeout(2)
    near.settimeout(10)
    return received / count


def _echo(state: str, ip: str, port: int) -> None:
    with ztclient.Node(state=state).open_udp(ip, port) as udp:
        print("ready", flush=True)
        while True:
            data, source = udp.recvfrom(2000)
            if not data.startswith(b"flood "):
                udp.sendto(data, source)
                continue
            count, rate, size = map(int, data.split()[1:])
            started = time.perf_counter()
            for number in range(count):
                # In steps of a few, for a sleep is longer than the time between two.
                while number / rate > time.perf_counter() - started:
                    time.sleep(0.0005)
                udp.sendto(b"x" * size, source)


class _Web(asyncio.Protocol):
    """As little as a server can do, so that what is measured is the way to it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's own

    def data_received(self, data: bytes) -> None:
        body = LONG_BODY if LONG_PATH.encode() in data else BODY
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        self._transport.write(answer * data.count(b"\r\n\r\n"))


async def _web(host: str = "127.0.0.1", port: str = "0") -> None:
    running = await asyncio.get_running_loop().create_server(_Web, host, int(port), backlog=1024)
    print(running.sockets[0].getsockname()[1], flush=True)
    await running.serve_forever()


def _httpx(nodes: Pair, options: Options, origin: int) -> Iterator[Result]:
    """What an httpx.AsyncClient fetches, beside httpx with its own transport and the same server on loopback."""
    what = f"httpx.AsyncClient, {HTTPX_AT_ONCE} requests of {len(LONG_BODY) >> 10} KB at once"
    try:
        import httpx

        from ztclient.integrations.httpx import AsyncTransport
    except ImportError:
        yield LeftOut(SECTION, what, "needs httpx")
        return
    limits = httpx.Limits(max_connections=HTTPX_AT_ONCE, max_keepalive_connections=HTTPX_AT_ONCE)
    count = HTTPX_AT_ONCE * (1 if options.quick else 5)

    async def rate(transport: httpx.AsyncBaseTransport, url: str) -> float:
        turns = asyncio.Semaphore(HTTPX_AT_ONCE)

        async def fetch() -> None:
            async with turns:
                answer = await http.get(url)
                if len(answer.content) != len(LONG_BODY):
                    raise Incomplete(f"{len(answer.content)} bytes")

        async with httpx.AsyncClient(transport=transport, timeout=120) as http:
            started = time.perf_counter()
            await asyncio.gather(*(fetch() for _ in range(count)))
            return count / (time.perf_counter() - started)

    ours, loopback = [], []
    node = aio.Node(state=nodes.beta.state)
    for _ in range(options.rounds):
        over = AsyncTransport(node, limits=limits)
        ours.append(asyncio.run(rate(over, f"http://{nodes.ip}:{WEB_PORT}{LONG_PATH}")))
        plain = httpx.AsyncHTTPTransport(limits=limits)
        loopback.append(asyncio.run(rate(plain, f"http://127.0.0.1:{origin}{LONG_PATH}")))
    yield Row(SECTION, what, "/s", ours, "httpx on loopback", loopback, must=500)


@contextlib.contextmanager
def running(*arguments: str, module: str = "tests.bench.doors") -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def _ztnode(state: Path, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return running(*arguments, "--state", str(state), module="ztnode")


def _until_open(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


_PARTS: dict[str, Callable[[list[str]], None]] = {
    "--echo": lambda rest: _echo(rest[0], rest[1], int(rest[2])),
    "--web": lambda rest: uvloop.run(_web(*rest)),
}

if __name__ == "__main__":
    _PARTS[sys.argv[1]](sys.argv[2:])
