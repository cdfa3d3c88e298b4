"""ztclient.patch and ztnode exec: unchanged programs reach overlay addresses, and all others as before."""

from __future__ import annotations

import asyncio
import contextlib
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


def test_udp_is_of_the_overlay_or_of_the_host_as_its_addresses_are(running_node: RunningNode) -> None:
    with ztclient.patch(), contextlib.ExitStack() as stack:
        bound, sending, connected, local = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(4)
        )
        assert isinstance(bound, socket.socket)
        bound.bind((IP, 5353))
        assert bound.getsockname() == (IP, 5353)
        sending.sendto(b"x", (HOST, 53))
        assert sending.recvfrom(10) == (b"x", (HOST, 53))
        connected.connect((HOST, 53))
        connected.send(b"y")
        assert connected.recv(10) == b"y"
        local.bind(("127.0.0.1", 0))
        local.sendto(b"x", local.getsockname())
        assert local.recv(10) == b"x"
        with pytest.raises(OSError, match="bound to the host") as caught:
            local.sendto(b"x", (HOST, 53))
        assert caught.value.errno == errno.EOPNOTSUPP


def test_what_joins_a_group_by_an_overlay_address_moves_there(running_node: RunningNode) -> None:
    with ztclient.patch(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, b"\xff")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 0))
        group = socket.inet_aton("224.0.0.251")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton(IP))
        assert running_node.node.configured == [("multicast_hops", None, None, 255), ("join", "224.0.0.251", IP, 0)]
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 255
        with pytest.raises(PermissionError, match="no multicast"):
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.9") + socket.inet_aton(IP)
            )


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
