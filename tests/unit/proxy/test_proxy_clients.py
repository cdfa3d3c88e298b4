"""The proxy's protocols against a client that is not ours: curl. Kernel sockets stand in for the overlay."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztnode.embedded import free_port
from ztnode.proxy import Command, ProxyServer, Refusal
from ztnode.proxy.http import BadRequest, RequestStream

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(f"GET {self.path} {self.headers['Host']} {self.headers.get('Proxy-Authorization')}".encode())

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"POST %d" % len(body))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Proxy:
    """A proxy of threads, as small as can be: what is tested is what it is made of."""

    def __init__(self, password: bool, resolve: dict[str, str]) -> None:
        self._check = (lambda name, word: (name, word) == ("ann", "s e:cret")) if password else None
        self._resolve = resolve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.seen: list[tuple[Command, str]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _dial(self, host: str, port: int) -> socket.socket:
        return socket.create_connection((self._resolve.get(host, host), port), 5)

    def _serve(self, client: socket.socket) -> None:
        handshake = ProxyServer(self._check)
        with client:
            while handshake.request is None and not handshake.closed:
                handshake.receive(client.recv(3))  # in small pieces, so that every boundary is met
                client.sendall(handshake.to_send())
            request = handshake.request
            if request is None:
                return
            self.seen.append((request.command, request.host))
            try:
                target = self._dial(request.host, request.port)
            except OSError as error:
                handshake.failed(Refusal.from_error(error))
                client.sendall(handshake.to_send())
                return
            handshake.succeeded(*target.getsockname()[:2])
            client.sendall(handshake.to_send())
            if request.command is Command.FETCH:
                self._fetch(client, target, handshake.rest)
                return
            target.sendall(handshake.rest)
            threading.Thread(target=self._pump, args=(target, client), daemon=True).start()
            self._pump(client, target)

    def _fetch(self, client: socket.socket, target: socket.socket, first: bytes) -> None:
        stream = RequestStream(self._check)
        at = target.getpeername()
        threading.Thread(target=self._pump, args=(target, client), daemon=True).start()
        data = first
        while data:
            try:
                pieces = list(stream.receive(data))
            except BadRequest as error:
                client.sendall(error.answer)
                return
            for request, piece in pieces:
                if request is not None:
                    there = (self._resolve.get(request.host, request.host), request.port)
                    if there != at:
                        target = self._dial(*there)
                        at = there
                        threading.Thread(target=self._pump, args=(target, client), daemon=True).start()
                target.sendall(piece)
            data = client.recv(7)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{pages.server_address[1]}"
        pages.shutdown()


@pytest.fixture(params=[False, True], ids=["open", "password"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    made = Proxy(request.param, {"peer.example": "127.0.0.1", "other.example": "127.0.0.1"})
    yield made
    made.close()


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["curl", "-sS", "-m", "20", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "http", "socks4", "socks4a"])
def test_curl(proxy: Proxy, server: str, scheme: str, request: pytest.FixtureRequest) -> None:
    password = "password" in request.node.callspec.id
    name = "peer.example" if scheme in ("socks5h", "http", "socks4a") else "127.0.0.1"
    credentials = "ann:s%20e%3Acret@" if password else ""
    port = server.partition(":")[2]
    done = curl("-x", f"{scheme}://{credentials}127.0.0.1:{proxy.port}", f"http://{name}:{port}/a?b")
    if password and scheme.startswith("socks4"):  # the protocol has no password, so nobody gets in by it
        assert done.returncode != 0 and "SOCKS4" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"GET /a?b {name}:{port} None"
    assert proxy.seen[0] == (Command.FETCH if scheme == "http" else Command.CONNECT, name)


def test_curl_without_the_password_is_told(server: str) -> None:
    proxy = Proxy(True, {})
    assert curl("-x", f"socks5://127.0.0.1:{proxy.port}", f"http://{server}/").returncode != 0
    assert curl("-x", f"socks5://ann:wrong@127.0.0.1:{proxy.port}", f"http://{server}/").returncode != 0
    for tunnel in ([], ["-p"]):
        done = curl("-i", *tunnel, "-x", f"http://ann:wrong@127.0.0.1:{proxy.port}", f"http://{server}/")
        assert "407" in done.stdout + done.stderr
    assert proxy.seen == []
    proxy.close()


def test_curl_tunnels_and_reports_refusals(proxy: Proxy, request: pytest.FixtureRequest, server: str) -> None:
    credentials = "ann:s%20e%3Acret@" if "password" in request.node.callspec.id else ""
    through = f"http://{credentials}127.0.0.1:{proxy.port}"
    assert curl("-p", "-x", through, f"http://{server}/t").stdout == f"GET /t {server} None"
    dead = free_port()
    done = curl("-o", "/dev/null", "-w", "%{http_code}", "-x", through, f"http://127.0.0.1:{dead}/")
    assert done.stdout == "502"
    socks = curl("-x", through.replace("http://", "socks5://"), f"http://127.0.0.1:{dead}/")
    assert socks.returncode == 97 and "(5)" in socks.stderr  # RFC 1928, section 6: connection refused


def test_one_connection_many_requests_and_hosts(server: str, tmp_path: Path) -> None:
    """curl keeps its connection to a proxy for whatever host comes next, with bodies of both framings between."""
    proxy = Proxy(False, {"peer.example": "127.0.0.1", "other.example": "127.0.0.1"})
    port = server.partition(":")[2]
    body = tmp_path / "body"
    body.write_bytes(b"x" * 100_000)
    through = ["-x", f"http://127.0.0.1:{proxy.port}"]
    done = curl(
        *through, f"http://peer.example:{port}/1",
        "--next", "-sS", *through, "--data-binary", f"@{body}", f"http://peer.example:{port}/2",
        "--next", "-sS", *through, "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{body}", f"http://other.example:{port}/3",
        "--next", "-sS", *through, f"http://other.example:{port}/4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"GET /1 peer.example:{port} NonePOST 100000POST 100000GET /4 other.example:{port} None"
    assert len(proxy.seen) == 1, "curl opened a second connection: the test shows nothing"
    proxy.close()
