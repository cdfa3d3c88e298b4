"""ztclient.patch and ztnode exec: unchanged programs reach overlay addresses, and all others as before."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import ztclient
from tests.unit.fake_node import IP, RunningNode
from tests.unit.peers import echo, peer

HOST = "10.121.15.99"


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_overlay_and_host(running_node: RunningNode) -> None:
    original = socket.socket
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with ztclient.patch():
            for address in ((HOST, 7), real):
                with socket.create_connection(address, 10) as connected:
                    connected.sendall(b"hello")
                    assert connected.recv(5) == b"hello"
                    assert connected.getpeername() == address
            with pytest.raises(RuntimeError, match="already"):
                ztclient.patch().start()
            left, right = socket.socketpair()
            left.sendall(b"x")
            assert right.recv(1) == b"x"
            left.close()
            right.close()
    assert socket.socket is original
    assert [dialled[:2] for dialled in running_node.node.dials] == [(HOST, 7)]


def test_servers(running_node: RunningNode) -> None:
    with (
        ztclient.patch(),
        ThreadingHTTPServer((IP, 80), Hello) as overlay,
        ThreadingHTTPServer(("127.0.0.1", 0), Hello) as host,
    ):
        assert overlay.server_address == (IP, 80)
        threads = [threading.Thread(target=each.serve_forever, args=(0.05,)) for each in (overlay, host)]
        for thread in threads:
            thread.start()
        running_node.serve(HOST, 80, running_node.node.overlay[IP, 80])
        for url in (f"http://{HOST}/", f"http://127.0.0.1:{host.server_address[1]}/"):
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.read() == b"hello"
        overlay.shutdown()
        host.shutdown()
        for thread in threads:
            thread.join()


def test_asyncio_is_not_held_up(running_node: RunningNode) -> None:
    async def main() -> None:
        absent = [asyncio.ensure_future(asyncio.open_connection("10.121.255.1", 9)) for _ in range(5)]
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(HOST, 7)
        assert writer.get_extra_info("peername") == (HOST, 7)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        for each in absent:
            with pytest.raises(ConnectionRefusedError):
                await each

    with peer(echo) as real, ztclient.patch():
        running_node.serve(HOST, 7, real)
        asyncio.run(main())


def test_udp_to_the_overlay_is_refused_not_sent_elsewhere(running_node: RunningNode) -> None:
    with ztclient.patch(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for attempt in (lambda: sock.sendto(b"x", (HOST, 53)), lambda: sock.connect((HOST, 53))):
            with pytest.raises(OSError, match=r"ztclient\.socket") as caught:
                attempt()
            assert caught.value.errno == errno.EOPNOTSUPP
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x", sock.getsockname())
        assert sock.recv(10) == b"x"


PROGRAM = """
import socket, subprocess, sys
with socket.create_connection(("10.121.15.99", 7), 10) as connected:
    connected.sendall(b"hello")
    print(connected.recv(5).decode(), *sys.argv[1:], flush=True)
if len(sys.argv) < 3:
    subprocess.run([sys.executable, __file__, "--child", "x"], check=True)
"""


def test_exec(running_node: RunningNode, tmp_path: object) -> None:
    script = running_node.state / "program.py"
    script.write_text(PROGRAM)
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        command = [sys.executable, "-m", "ztnode", "exec", "--", sys.executable, str(script), "--flag"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("hello --flag\nhello --child x\n", "", 0)


def test_exec_of_what_is_not_there(running_node: RunningNode) -> None:
    command = [sys.executable, "-m", "ztnode", "exec", "--", "no-such-program"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "cannot run no-such-program" in done.stderr


def test_exec_without_a_node(tmp_path: object) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZTNODE")}
    command = [sys.executable, "-m", "ztnode", "exec", "--state", str(tmp_path), "--", sys.executable, "-c", "print(1)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1 and done.stdout == "" and "no node answers" in done.stderr
