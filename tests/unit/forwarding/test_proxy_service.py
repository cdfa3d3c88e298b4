"""``ztnode proxy`` as a process, asked by curl and by hand, over a node whose overlay is loopback."""

from __future__ import annotations

import contextlib
import http.server
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake_node import RunningNode
from tests.unit.forwarding.test_forwarding import Carrier, carrying, exchange
from tests.unit.peers import echo, peer, read_to_end

HOST, OTHER = "10.121.15.99", "10.121.15.98"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self._answer(f"{self.command} {self.path} for {self.headers['Host']}\n".encode())

    def do_POST(self) -> None:
        self._answer(b"%d bytes\n" % len(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def pages() -> Iterator[tuple[str, int]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def proxying(*arguments: str, **environ: str) -> Iterator[int]:
    with carrying("proxy", "--listen", "0", *arguments, environ=environ) as carrier:
        yield port_of(carrier)


def port_of(carrier: Carrier) -> int:
    found = re.search(r"proxy at \S+ port ([0-9]+)", carrier.lines[0])
    assert found is not None, carrier.lines
    return int(found[1])


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-sS", "--max-time", "20", "--noproxy", "", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@needs_curl
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks4a", "http-connect"])
def test_every_protocol_on_one_port_and_no_byte_through_the_proxy(running_node: RunningNode, scheme: str) -> None:
    with pages() as real, proxying() as port:
        running_node.serve(HOST, 80, real)
        how = ["--proxytunnel", "-x", f"http://127.0.0.1:{port}"] if scheme == "http-connect" else []
        how = how or ["-x", f"{scheme}://127.0.0.1:{port}"]
        done = curl(*how, f"http://{HOST}/page")
        assert done.stdout == f"GET /page for {HOST}\n", done.stderr
        assert running_node.node.joined == 1


@needs_curl
def test_absolute_form_for_one_host_after_another_on_one_connection(running_node: RunningNode, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 300_000)
    with pages() as one, pages() as two, proxying() as port:
        running_node.serve(HOST, 80, one)
        running_node.serve(OTHER, 8080, two)
        urls = [f"http://{HOST}/a", f"http://{OTHER}:8080/b", f"http://{HOST}/c"]
        done = curl("-v", "-x", f"http://127.0.0.1:{port}", *urls)
        assert done.stdout == f"GET /a for {HOST}\nGET /b for {OTHER}:8080\nGET /c for {HOST}\n", done.stderr
        assert done.stderr.count("Connected to 127.0.0.1") + done.stderr.count("Established connection") == 1, (
            done.stderr
        )
        done = curl("-x", f"http://127.0.0.1:{port}", "--data-binary", f"@{body}", f"http://{HOST}/")
        assert done.stdout == "300000 bytes\n", done.stderr


@needs_curl
def test_connections_after_the_first_are_asked_of_the_worker(running_node: RunningNode) -> None:
    """And where nothing comes of it the node is asked, which knows why."""
    running_node.node.direct_dials = True
    with pages() as one, pages() as two, proxying() as port:
        running_node.serve(HOST, 80, one)
        running_node.serve(OTHER, 8080, two)
        for _ in range(2):
            done = curl("-x", f"http://127.0.0.1:{port}", f"http://{HOST}/a", f"http://{OTHER}:8080/b")
            assert done.stdout == f"GET /a for {HOST}\nGET /b for {OTHER}:8080\n", done.stderr
        done = curl("-x", f"http://127.0.0.1:{port}", f"http://{HOST}:81/")
        assert done.stdout == "ztnode: connection refused\n"
    assert running_node.node.asked == [(OTHER, 8080, 0), (HOST, 80, 0), (OTHER, 8080, 0), (HOST, 81, 0)]
    assert [each[:2] for each in running_node.node.dials] == [(HOST, 80), (HOST, 81)]


@needs_curl
def test_what_cannot_be_reached_is_said_in_each_protocols_words(running_node: RunningNode) -> None:
    with proxying() as port:
        where = f"127.0.0.1:{port}"
        for target, status in ((f"{HOST}:9", "502"), ("8.8.8.8:80", "403"), ("example.com:80", "403")):
            done = curl("-x", f"http://{where}", "-o", "/dev/null", "-w", "%{http_code}", f"http://{target}/")
            assert done.stdout == status, target
            done = curl("-x", f"socks5h://{where}", f"http://{target}/")
            assert done.returncode == 97, done.stderr
    assert all(host.startswith("10.121.") or host == "8.8.8.8" for host, *_ in running_node.node.dials)


@needs_curl
def test_the_host_dials_the_rest_only_when_told_to(running_node: RunningNode) -> None:
    with pages() as real, proxying("--direct") as port:
        where = f"127.0.0.1:{port}"
        for target in (f"127.0.0.1:{real[1]}", f"localhost:{real[1]}"):
            for scheme in ("http", "socks5h"):
                done = curl("-x", f"{scheme}://{where}", f"http://{target}/page")
                assert done.stdout == f"GET /page for {target}\n", done.stderr
        # A name of the overlay is nothing to ask the host's resolver for.
        done = curl("-x", f"socks5h://{where}", "http://web.lab.example/")
        assert done.returncode == 97


@needs_curl
@pytest.mark.parametrize("by_file", [True, False])
def test_with_a_password(running_node: RunningNode, tmp_path: Path, by_file: bool) -> None:
    file = tmp_path / "credentials"
    file.write_text("ann:s e:cret\n")
    file.chmod(0o600)
    how = ["--credentials", str(file)] if by_file else []
    environ = {} if by_file else {"ZTNODE_PROXY_CREDENTIALS": "ann:s e:cret"}
    with pages() as real, proxying(*how, **environ) as port:
        running_node.serve(HOST, 80, real)
        where = f"127.0.0.1:{port}"
        for scheme in ("http", "socks5h"):
            done = curl("-x", f"{scheme}://{where}", "-U", "ann:s e:cret", f"http://{HOST}/")
            assert done.stdout == f"GET / for {HOST}\n", done.stderr
            done = curl("-f", "-x", f"{scheme}://{where}", "-U", "ann:wrong", f"http://{HOST}/")
            assert done.returncode in (22, 97), done.stderr
        assert curl("-x", f"socks4a://{where}", f"http://{HOST}/").returncode == 97


@pytest.mark.parametrize(
    ("arguments", "mode", "reason"),
    [
        (["--listen", "0.0.0.0:0"], 0o600, "would be open to others"),
        (["--listen", "[::]:0"], 0o600, "would be open to others"),
        (["--credentials", "FILE"], 0o644, "can be read by others"),
    ],
)
def test_a_proxy_that_would_be_open_does_not_start(
    running_node: RunningNode, tmp_path: Path, arguments: list[str], mode: int, reason: str
) -> None:
    file = tmp_path / "FILE"
    file.write_text("ann:secret")
    file.chmod(mode)
    command = [sys.executable, "-m", "ztnode", "proxy", *(str(file) if each == "FILE" else each for each in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_a_client_sends_with_its_request_reaches_the_target(running_node: RunningNode) -> None:
    with peer(echo) as real, proxying() as port:
        running_node.serve(HOST, 7, real)
        heads = [
            (f"CONNECT {HOST}:7 HTTP/1.1\r\n\r\n".encode(), b"HTTP/1.1 200 Connection established\r\n\r\n"),
            (b"\4\1\0\7" + socket.inet_aton(HOST) + b"\0", b"\0\x5a" + bytes(6)),
        ]
        for head, answer in heads:
            for cut in (0, 1, len(head) - 1, len(head)):
                with socket.create_connection(("127.0.0.1", port), 10) as client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.sendall(head[:cut])
                    client.sendall(head[cut:] + b"early")
                    client.shutdown(socket.SHUT_WR)
                    assert read_to_end(client) == answer + b"early"


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"\0",
            b"\x05",
            b"\x05\0",
            b"\x04\1",
            b"GET",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\0\1",
            b"\x05\1\0\x05\1\0\x09",
        ),
        *(
            b"CONNECT x HTTP/1.1\r\n\r\n",
            b"GET http://[/ HTTP/1.1\r\n\r\n",
            b"CONNECT http://%b:7/ HTTP/1.1\r\n\r\n" % HOST.encode(),
            b"GET http://%b:7/ HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n" % HOST.encode(),
            b"GET http://%b:7/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n" % HOST.encode(),
            b"A" * 100_000,
            b"\x04\1\0\7\1\1\1\1" + b"u" * 9000,
        ),
    ],
)
def test_nonsense_ends_that_client_alone(running_node: RunningNode, data: bytes) -> None:
    with peer(echo) as real, carrying("proxy", "--listen", "0") as carrier:
        running_node.serve(HOST, 7, real)
        port = port_of(carrier)
        with socket.create_connection(("127.0.0.1", port), 10) as client, contextlib.suppress(ConnectionError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in read_to_end(client)
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(f"CONNECT {HOST}:7 HTTP/1.1\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            exchange(client)
        carrier.process.send_signal(2)
        assert carrier.stderr.read().strip() == ""


def test_silent_clients_hold_up_nobody(running_node: RunningNode) -> None:
    with peer(echo) as real, proxying() as port, contextlib.ExitStack() as crowd:
        running_node.serve(HOST, 7, real)
        for _ in range(300):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), 10)).sendall(b"CONN")
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(f"CONNECT {HOST}:7 HTTP/1.1\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            exchange(client)


def test_datagrams_by_the_proxy_command_too(running_node: RunningNode) -> None:
    """UDP ASSOCIATE of `ztnode proxy`, which fetches the socket from the node; the fake one says everything back."""
    with proxying() as port, socket.create_connection(("127.0.0.1", port), 20) as control:
        control.sendall(b"\5\1\0" + b"\5\3\0\1" + bytes(6))
        assert control.recv(2) == b"\5\0"
        answer = control.recv(100)
        assert answer[:4] == b"\5\0\0\1"
        where = socket.inet_ntoa(answer[4:8]), int.from_bytes(answer[8:10], "big")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
            local.settimeout(20)
            datagram = b"\0\0\0\1" + socket.inet_aton(HOST) + (7).to_bytes(2, "big") + b"question"
            local.sendto(datagram, where)
            assert local.recv(1000) == datagram
