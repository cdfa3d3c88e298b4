"""docs/CLIENT.md: each block is run as it stands there but for addresses, ports of this machine and ssh's keys."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ztclient
from tests.integrations import others
from tests.integrations.test_programs import repository
from tests.system.harness import PORT, Overlay, ipv4
from ztnode.embedded import free_port

pytestmark = pytest.mark.timeout(300)
TEXT = (Path(__file__).parents[2] / "docs" / "CLIENT.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
CLIENTS = [block for block in BLOCKS if ", 8000)" not in block]
SERVERS = [block for block in BLOCKS if ", 8000)" in block]
COMMANDS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
BIN = str(Path(sys.executable).parent)


@contextlib.contextmanager
def http_files(directory: Path) -> Iterator[int]:
    repository(directory)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def health() -> Iterator[int]:
    import grpc
    from grpc_health.v1 import health, health_pb2_grpc

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait(5)


@contextlib.contextmanager
def websocket() -> Iterator[int]:
    import websockets.asyncio.server

    loop, end, bound = asyncio.new_event_loop(), asyncio.Event(), concurrent.futures.Future[int]()

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0) as server:
            bound.set_result(next(iter(server.sockets)).getsockname()[1])
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    yield bound.result(10)
    loop.call_soon_threadsafe(end.set)
    thread.join(10)


@contextlib.contextmanager
def database(_directory: Path) -> Iterator[int]:
    with others.open_directory() as place, others.postgres(place) as port:
        yield port


SERVED: dict[int, tuple[Callable[[Path], contextlib.AbstractContextManager[int]], str]] = {
    22: (others.sshd, "sshd"),
    5201: (others.iperf3, "iperf3"),
    5432: (database, "psql"),
    6379: (others.redis, "redis-server"),
    8080: (http_files, "git"),
    8765: (lambda _directory: websocket(), "sh"),
    50051: (lambda _directory: health(), "sh"),
}
"""What has to be served on alpha, by ports that a block needs, and the program that this takes."""
IMPLIED = {"ssh ": 22, "psql": 5432, "postgresql": 5432, "psycopg": 5432, "redis": 6379, "iperf3": 5201}


@contextlib.contextmanager
def surroundings(block: str, overlay: Overlay, directory: Path) -> Iterator[None]:
    """The servers that a block speaks to; skips where a program for one is not installed."""
    ports = {port for port in SERVED if re.search(rf"[^0-9]{port}\b", block)}
    ports |= {port for word, port in IMPLIED.items() if word in block}
    mapped: dict[int, int] = {}
    with contextlib.ExitStack() as stack:
        for port in sorted(ports):
            start, program = SERVED[port]
            if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
                pytest.skip(f"{program} is not installed")
            place = directory / str(port)
            place.mkdir()
            mapped[port] = stack.enter_context(start(place))
        if "ftp://" in block:
            place = stack.enter_context(others.open_directory())
            port, data = stack.enter_context(others.vsftpd(place, overlay.ip))
            mapped.update({21: port, data: data})
        if mapped:
            stack.enter_context(others.exposed(overlay, mapped))
        yield


def adapted(block: str, overlay: Overlay) -> str:
    replaced = {
        "9ad07d01093a69e3": overlay.nwid,
        "10.121.15.99": overlay.ip,
        "10.121.15.1": ipv4(overlay.beta, overlay.nwid),
        "5380": str(PORT),
    }
    return re.sub("|".join(map(re.escape, replaced)), lambda found: replaced[found[0]], block)


def environment(overlay: Overlay) -> dict[str, str]:
    path = f"{BIN}:{os.environ['PATH']}"
    here = {"ZTNODE_STATE": str(overlay.beta.state), "ZTNODE_PLANET": str(overlay.network.planet), "PATH": path}
    return {**os.environ, **here}


@pytest.mark.parametrize("number", range(len(CLIENTS)))
def test_block(overlay: Overlay, number: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if ".lab.example" in CLIENTS[number]:
        request.getfixturevalue("dns_domain")
    with surroundings(CLIENTS[number], overlay, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", adapted(CLIENTS[number], overlay)],
            env=environment(overlay),
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert "200" in done.stdout and "False" not in done.stdout


@pytest.mark.parametrize("number", range(len(SERVERS)))
def test_server(overlay: Overlay, number: int, tmp_path: Path) -> None:
    """Alpha asks what beta serves."""
    command = [sys.executable, "-c", adapted(SERVERS[number], overlay)]
    child = subprocess.Popen(command, env=environment(overlay), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        here, deadline = ipv4(overlay.beta, overlay.nwid), time.monotonic() + 60
        while True:
            assert child.poll() is None, child.communicate()[1]
            connection = ztclient.HTTPConnection(here, 8000, timeout=20, node=overlay.alpha.node)
            with contextlib.suppress(ConnectionError), contextlib.closing(connection):
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"200"
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_commands(overlay: Overlay, number: int, tmp_path: Path) -> None:
    block = COMMANDS[number]
    keys = f"-i {tmp_path}/22/id -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    text = re.sub(r"\b(ssh|scp) -o", rf"\1 {keys} -o", adapted(block, overlay))
    for port in ("15432", "16379", "15201", "11080"):
        text = text.replace(port, str(free_port()))
    with surroundings(block, overlay, tmp_path), contextlib.ExitStack() as stack:
        if "/srv/" in text:
            repository(tmp_path)
            (tmp_path / "file").write_bytes(others.BODY[:1000])
            text = text.replace("/srv/", f"{tmp_path}/")
        for line in text.splitlines():
            run = {"shell": True, "cwd": tmp_path, "env": environment(overlay), "text": True}
            if line.endswith("&"):
                child = subprocess.Popen(f"exec {line[:-1]}", stderr=subprocess.PIPE, **run)  # type: ignore[call-overload]
                stack.callback(child.communicate)
                stack.callback(child.terminate)
                for _ in range(max(1, line.count("-L "))):
                    child.stderr.readline()
                continue
            done = subprocess.run(line, capture_output=True, timeout=100, **run)  # type: ignore[call-overload]
            assert done.returncode == 0, (line, done.stderr[-1000:])
