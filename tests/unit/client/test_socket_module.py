"""ztclient.socket in the place of the standard module."""

from __future__ import annotations

import asyncio
import errno
import http.client
import http.server
import importlib
import select
import selectors
import socket as standard
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ztclient
from tests.unit.fake_node import IP, RunningNode
from tests.unit.peers import echo, peer, read_to_end, reset_after_some
from tests.unit.tls_files import TlsFiles
from ztnode.node.api import StreamOptions

socket: Any = importlib.import_module("ztclient.socket")
HOST = "10.121.15.99"


def test_it_has_what_the_standard_one_has(running_node: RunningNode) -> None:
    assert set(standard.__all__) <= set(dir(socket))
    assert socket is ztclient.socket and socket.socket is not standard.socket  # type: ignore[attr-defined]
    # However it is imported, and before anything else: never the kernel's by accident.
    script = "from ztclient import socket; import ztclient.sockets; assert socket.socket is ztclient.sockets.socket"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_connect_and_names(running_node: RunningNode) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            number = sock.fileno()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.settimeout(10)
            assert sock.connect_ex((HOST, 7)) == 0
            assert sock.fileno() == number and sock.gettimeout() == 10
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getpeername() == (HOST, 7)
            assert sock.connect_ex((HOST, 7)) == errno.EISCONN
            with sock.dup() as again:
                again.sendall(b"dup")
                assert sock.recv(3) == b"dup" and again.getpeername() == (HOST, 7)
            with Path(__file__).open("rb") as file:
                assert sock.sendfile(file, 0, 100) == 100
            sock.shutdown(socket.SHUT_WR)
            assert read_to_end(sock) == Path(__file__).read_bytes()[:100]
            assert isinstance(sock.detach(), int)


@pytest.mark.parametrize("blocking", [True, False])
def test_options_of_tcp_are_the_overlay_connections(running_node: RunningNode, blocking: bool) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with socket.socket() as sock, socket.socket() as listener:
            for each in (sock, listener):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr\0")
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
                assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"bbr"
            sock.setblocking(blocking)
            assert sock.connect_ex((HOST, 7)) == (0 if blocking else errno.EINPROGRESS)
            assert select.select([], [sock], [], 10)[1] == [sock]
            listener.bind(("", 0))
            listener.listen()
            for each in (sock, listener):
                with pytest.raises(OSError, match="before connect or listen"):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    assert running_node.node.options == 2 * [StreamOptions(nodelay=False, congestion="bbr")]


@pytest.mark.parametrize(
    ("host", "number"), [(HOST, errno.ECONNREFUSED), ("192.0.2.9", errno.EHOSTUNREACH), ("8.8.8.8", errno.ENETUNREACH)]
)
def test_connect_that_fails(running_node: RunningNode, host: str, number: int) -> None:
    with socket.socket() as sock:
        assert sock.connect_ex((host, 9)) == number
    with socket.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex((host, 9)) == errno.EINPROGRESS
        assert select.select([], [sock], [], 10)[1] == [sock]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == number


def test_connect_that_must_not_block(running_node: RunningNode) -> None:
    with socket.socket() as absent:
        absent.setblocking(False)
        with pytest.raises(BlockingIOError):
            absent.connect(("198.51.100.1", 9))
        assert select.select([absent], [absent], [], 0.05) == ([], [], [])
        assert absent.connect_ex(("198.51.100.1", 9)) == errno.EALREADY
        assert absent.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with socket.socket() as sock, selectors.DefaultSelector() as selector:
            sock.setblocking(False)
            assert sock.connect_ex((HOST, 7)) == errno.EINPROGRESS
            selector.register(sock, selectors.EVENT_WRITE)
            assert selector.select(10)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert sock.getpeername() == (HOST, 7)
            sock.settimeout(10)
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""


def test_a_reset_stays_one(running_node: RunningNode) -> None:
    with peer(reset_after_some) as real:
        running_node.serve(HOST, 7, real)
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex((HOST, 7))
            select.select([], [sock], [], 10)
            sock.settimeout(10)
            assert sock.recv(10) == b"0123456789"
            sock.sendall(b"!")
            with pytest.raises(ConnectionResetError):
                sock.recv(10)


def test_asyncio_connects_it(running_node: RunningNode) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, (HOST, 7))
        reader, writer = await asyncio.open_connection(sock=sock)
        assert writer.get_extra_info("peername") == (HOST, 7)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()

    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        asyncio.run(main())


def test_server(running_node: RunningNode) -> None:
    with socket.create_server((IP, 8080)) as server:
        assert server.getsockname() == (IP, 8080)
        with standard.create_connection(running_node.node.overlay[IP, 8080]) as far:
            server.settimeout(10)
            accepted, address = server.accept()
            with accepted:
                assert address == accepted.getpeername() == (HOST, 41000)
                far.sendall(b"hello")
                assert accepted.recv(5) == b"hello"
        with socket.socket() as second, pytest.raises(OSError, match="in use"):
            second.bind((IP, 8080))
        with socket.socket() as third:
            third.bind((IP, 0))
            assert third.getsockname()[1] > 0
            third.listen()
            third.setblocking(False)
            with pytest.raises(BlockingIOError):
                third.accept()
        with socket.socket() as foreign, pytest.raises(OSError, match="managed"):
            foreign.bind(("10.9.9.9", 80))
    for _ in range(500):
        if not running_node.node.listeners:
            break
        threading.Event().wait(0.02)
    assert not running_node.node.listeners


def test_datagrams(running_node: RunningNode) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert isinstance(sock, socket.socket)
        sock.settimeout(10)
        sock.sendto(b"hello", (HOST, 7))
        assert sock.recvfrom(100) == (b"hello", (HOST, 7))
        assert sock.getsockname()[1] > 0
        sock.connect((HOST, 9))
        sock.send(b"into the void")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((IP, 5353))
        assert sock.getsockname() == (IP, 5353)


def test_names_are_never_asked_of_the_host(running_node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket.getaddrinfo(HOST, 80, 0, socket.SOCK_STREAM)[0][4] == (HOST, 80)
    asked: tuple[Callable[[], object], ...] = (
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.create_connection(("example.com", 80)),
        lambda: socket.socket().connect(("example.com", 80)),
        lambda: socket.gethostbyname("example.com"),
    )
    for ask in asked:
        with pytest.raises(standard.gaierror):
            ask()


def test_http_client_with_it_put_in_place(
    running_node: RunningNode, monkeypatch: pytest.MonkeyPatch, tls_files: TlsFiles
) -> None:
    monkeypatch.setattr(http.client, "socket", socket)
    with ztclient.HTTPServer((IP, 80), Hello) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running_node.serve(HOST, 80, running_node.node.overlay[IP, 80])
        connection = http.client.HTTPConnection(HOST, 80, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()
        server.shutdown()
        thread.join()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tls_files.certificate, tls_files.key)

    def secret(connected: standard.socket) -> None:
        with served.wrap_socket(connected, server_side=True) as secure:
            secure.sendall(secure.recv(100))

    with peer(secret) as real:
        running_node.serve(HOST, 443, real)
        trusting = ssl.create_default_context(cafile=str(tls_files.certificate))
        with trusting.wrap_socket(socket.create_connection((HOST, 443), 10), server_hostname=HOST) as secure:
            secure.sendall(b"hello")
            assert secure.recv(100) == b"hello"


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        pass
