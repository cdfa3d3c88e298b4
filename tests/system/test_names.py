"""Names of the overlay, by a real name server on it, in whatever takes a host."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import ztclient
from tests.system.harness import PORT, Overlay, absent_ipv6, content
from ztclient import aio, sockets

pytestmark = pytest.mark.timeout(300)

# It is found by the package's path, which a type checker does not look at.
overlay_socket: Any = importlib.import_module("ztclient.socket")


@pytest.fixture(autouse=True)
def node(overlay: Overlay, dns_domain: str, monkeypatch: pytest.MonkeyPatch) -> ztclient.Node:
    monkeypatch.setenv("ZTNODE_STATE", str(overlay.beta.state))
    return overlay.beta.node


def ztnode(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "ztnode", *arguments], capture_output=True, timeout=60, check=False)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[int]:
    """A command that says on stderr which port it serves."""
    command = [sys.executable, "-m", "ztnode", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"port ([0-9]+)", line)
            assert found is not None, line
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGINT)


def test_addresses(overlay: Overlay, node: ztclient.Node) -> None:
    assert node.resolve("web.lab.example") == [overlay.ip]
    assert node.resolve("WWW.Lab.Example.") == node.resolve("web") == [overlay.ip]
    assert node.resolve("both") == [absent_ipv6(overlay.nwid), overlay.ip]
    assert len(node.resolve("many", socket.AF_INET)) == 16  # by TCP: the datagram was truncated
    for name in ("none.lab.example", "example.com"):
        with pytest.raises(socket.gaierror):
            node.resolve(name)
    with pytest.raises(ztclient.ForeignNameError):
        node.resolve("example.com")
    entries = overlay_socket.getaddrinfo("web", 80, type=socket.SOCK_STREAM)
    assert [entry[4] for entry in entries] == [(overlay.ip, 80)]


def test_python_programs(overlay: Overlay, node: ztclient.Node) -> None:
    with ztclient.create_connection(("both", PORT), 30) as connected:
        connected.sendall(b"GET /10 HTTP/1.0\r\n\r\n")
        assert b"200 OK" in connected.recv(100)
    with overlay_socket.create_connection(("web", PORT), 30) as connected:
        assert connected.getpeername()[0] == overlay.ip
    url = f"http://web.lab.example:{PORT}/1000"
    with ztclient.patch():
        assert urllib.request.urlopen(url, timeout=30).read() == content(1000)
        assert socket.getaddrinfo("localhost", 1)
        assert issubclass(socket.socket, sockets.socket)
    script = f"import urllib.request as u; print(len(u.urlopen({url!r}, timeout=30).read()))"
    assert ztnode("exec", "--", sys.executable, "-c", script).stdout == b"1000\n"

    async def main() -> None:
        reader, writer = await aio.open_connection("both.lab.example", PORT)
        writer.write(b"GET /10 HTTP/1.0\r\n\r\n")
        assert b"200" in await reader.readline()
        writer.close()
        assert await aio.Node().resolve("web") == [overlay.ip]

    asyncio.run(main())


def test_commands(overlay: Overlay) -> None:
    assert ztnode("resolve", "web").stdout == f"{overlay.ip}\n".encode()
    assert ztnode("resolve", "example.com").stderr == b"ztnode: example.com is no name of the overlay\n"
    assert ztnode("call", f"http://web.lab.example:{PORT}/77").stdout == content(77)
    asked = subprocess.run(
        [sys.executable, "-m", "ztnode", "nc", "web", str(PORT)],
        input=b"GET /5 HTTP/1.0\r\n\r\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert asked.stdout.endswith(content(5))
    pinged = ztnode("ping", "-c", "1", "web")
    assert b"1 received" in pinged.stdout and pinged.stdout.startswith(f"PING web ({overlay.ip})".encode())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_proxy_and_forward() -> None:
    with running("forward", "0", f"web.lab.example:{PORT}") as port:
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/9", timeout=30).read() == content(9)
    with running("proxy", "--listen", "0") as port:
        for scheme in ("socks5h", "socks4a", "http"):
            done = subprocess.run(
                [
                    "curl",
                    "-sS",
                    "--noproxy",
                    "",
                    "-x",
                    f"{scheme}://127.0.0.1:{port}",
                    f"http://web.lab.example:{PORT}/9",
                ],
                capture_output=True,
                timeout=60,
                env={**os.environ, "no_proxy": ""},
                check=False,
            )
            assert done.stdout == content(9), (scheme, done.stderr)
