"""The example plugins, installed as a user would, and a node that uses each."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import ipaddress
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.system.harness import Overlay, ipv4
from ztnode.embedded import EmbeddedMember
from ztnode.wire.world import World

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example plugins installed by pip, for PYTHONPATH."""
    target = tmp_path_factory.mktemp("site")
    sources = tmp_path_factory.mktemp("plugins") / "copy"  # setuptools builds beside the source
    shutil.copytree(PLUGINS, sources, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    # The other stores are packaged as that one is, and used from where they are in test_fleet.py: a second each saved.
    packages = [str(sources / name) for name in ("ztnode-planet-url", "ztnode-store-sqlite")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--target", str(target), *packages], check=True, timeout=100)
    return target


@contextlib.contextmanager
def member(
    directory: Path, overlay: Overlay, installed: Path, *arguments: str, **environment: str
) -> Iterator[EmbeddedMember]:
    """A node with the plugins, which takes its state and transport by ``arguments``."""
    prefix = ["env", f"PYTHONPATH={installed}", *(f"{name}={value}" for name, value in environment.items())]
    started = EmbeddedMember("plugged", directory, ["--port", "0", "--join", overlay.nwid, *arguments], prefix)
    try:
        started.wait_online()
        yield started
    finally:
        started.stop()


class Planets(http.server.BaseHTTPRequestHandler):
    planet = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.planet)))
        self.end_headers()
        self.wfile.write(self.planet)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_planet_by_url(tmp_path: Path, overlay: Overlay, installed: Path) -> None:
    Planets.planet = overlay.network.planet.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Planets) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/planet"
        with member(tmp_path, overlay, installed, "--planet", url) as node:
            assert node.node.status().planet_id == World.parse(Planets.planet).id
            assert ipv4(node, overlay.nwid)
        server.shutdown()


def test_state_in_sqlite(tmp_path: Path, overlay: Overlay, installed: Path) -> None:
    database = tmp_path / "state.db"
    planet = str(overlay.network.planet)
    with member(tmp_path / "st", overlay, installed, "--planet", planet, "--store", f"sqlite:{database}") as node:
        address = node.node.status().address
        ip = ipv4(node, overlay.nwid)
        base = node.command[: node.command.index("--state")]
        command = [*base, "--state", str(tmp_path / "other"), "--store", f"sqlite:{database}"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1 and "another node" in second.stderr
    assert not (tmp_path / "st/zerotier").exists()
    assert database.stat().st_mode & 0o077 == 0
    with contextlib.closing(sqlite3.connect(database)) as connection:
        keys = {key for (key,) in connection.execute("SELECT key FROM state")}
    assert {"identity.secret", "planet", f"networks.d/{overlay.nwid}.conf"} <= keys
    with member(tmp_path / "st", overlay, installed, "--store", f"sqlite:{database}") as node:
        assert node.node.status().address == address
        assert ipv4(node, overlay.nwid) == ip


class Proxy(asyncio.DatagramProtocol):
    """As much of a SOCKS5 server (RFC 1928) as relays UDP; written from the RFC, not from the plugin."""

    def __init__(self) -> None:
        self.client: tuple[str, int] | None = None
        self.relayed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        assert version == 5 and 0 in await reader.readexactly(count)
        writer.write(b"\x05\x00")
        _, command, _, kind = await reader.readexactly(4)
        assert command == 3 and kind == 1
        await reader.readexactly(6)
        port = self.transport.get_extra_info("sockname")[1]
        writer.write(b"\x05\x00\x00\x01" + bytes([127, 0, 0, 1]) + port.to_bytes(2, "big"))
        await reader.read()
        writer.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.client is None:
            self.client = addr
        if addr == self.client:
            if data[:4] == b"\0\0\0\x01":
                target = str(ipaddress.IPv4Address(data[4:8])), int.from_bytes(data[8:10], "big")
                self.transport.sendto(data[10:], target)
        else:
            self.relayed += 1
            head = b"\0\0\0\x01" + ipaddress.IPv4Address(addr[0]).packed + addr[1].to_bytes(2, "big")
            self.transport.sendto(head + data, self.client)


@pytest.fixture
def proxy() -> Iterator[tuple[Proxy, int]]:
    """A running SOCKS5 server and its TCP port."""
    loop = asyncio.new_event_loop()
    serving = Proxy()
    ports: list[int] = []
    ready = threading.Event()

    async def start() -> None:
        await loop.create_datagram_endpoint(lambda: serving, local_addr=("127.0.0.1", 0))
        server = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield serving, ports[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_everything_through_a_socks_proxy(
    tmp_path: Path, overlay: Overlay, installed: Path, proxy: tuple[Proxy, int]
) -> None:
    serving, port = proxy
    arguments = ("--planet", str(overlay.network.planet), "--transport", "socks5")
    with member(tmp_path, overlay, installed, *arguments, ZTNODE_SOCKS5=f"127.0.0.1:{port}") as node:
        assert ipv4(node, overlay.nwid)
        assert node.node.status().listening
    assert serving.relayed > 0


def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "site"
    info = broken / "ztnode_broken-1.dist-info"
    info.mkdir(parents=True)
    (broken / "ztnode_broken.py").write_text("import a_module_that_is_not_there\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ztnode-broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ztnode]\nbroken = ztnode_broken\n")
    result = serve(tmp_path / "st", broken)
    assert result.returncode == 1
    assert "plugin broken of package ztnode-broken cannot be loaded" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_plugin_that_raises_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "site"
    info = broken / "ztnode_raises-1.dist-info"
    info.mkdir(parents=True)
    (broken / "ztnode_raises.py").write_text(
        "from ztnode.hookspecs import hookimpl\n@hookimpl\ndef ztnode_planet(source):\n    return 1 / 0\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ztnode-raises\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ztnode]\nraises = ztnode_raises\n")
    result = serve(tmp_path / "st", broken)
    assert result.returncode == 1
    assert "plugin raises failed in ztnode_planet: ZeroDivisionError" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def serve(state: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """What ``ztnode serve`` does where ``path`` is on the module path."""
    command = [sys.executable, "-m", "ztnode", "serve", "--state", str(state), "--store", "memory:", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
