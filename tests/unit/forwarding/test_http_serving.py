"""A folder and a web server offered by HTTP: what clients of any kind get, by real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from ztnode.embedded import free_port
from ztnode.forwarding import TcpAddress, http_stream
from ztnode.forwarding.files import Files
from ztnode.forwarding.http_service import Answers, HttpService, converse
from ztnode.forwarding.overlay import Overlay
from ztnode.forwarding.reverse_proxy import BadGatewayError, ReverseProxy, Upstream
from ztnode.node.api import Handoff
from ztnode.wire.endpoint import Endpoint

PEER = "10.121.15.9"


@contextlib.contextmanager
def offered(answers: Answers) -> Iterator[tuple[int, list[str]]]:
    """Port of loopback where ``answers`` speaks, to every client as to PEER; and what it complained of."""
    complaints: list[str] = []
    loop = asyncio.new_event_loop()

    async def one(sock: socket.socket) -> None:
        try:
            await converse(answers, sock, PEER)
        except BadGatewayError as error:
            complaints.append(str(error.strerror))

    async def main(listener: socket.socket) -> None:
        running = set()
        while True:
            sock, _ = await loop.sock_accept(listener)
            running.add(asyncio.create_task(one(sock)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        task = loop.create_task(main(listener))
        thread = threading.Thread(target=_run, args=(loop, task))
        thread.start()
        try:
            yield listener.getsockname()[1], complaints
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(10)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    for other in asyncio.all_tasks(loop):
        other.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raw(port: int, data: bytes) -> bytes:
    """All that is said to these bytes, after which we say no more."""
    with socket.create_connection(("127.0.0.1", port), 10) as connected:
        connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
        received = b""
        while part := connected.recv(1 << 16):
            received += part
        return received


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("site")
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    (root / "page.txt").write_bytes(bytes(range(256)) * 4000)
    (root / "sub").mkdir()
    (root / "sub" / "index.html").write_text("index")
    (root / "list").mkdir()
    (root / "list" / "<a> & b.txt").write_text("x")
    (root / "inside").symlink_to("page.txt")
    (root / "out").symlink_to(outside)
    (root / "out.txt").symlink_to(outside / "secret")
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    (root / "list" / "circle").symlink_to("circle")
    for name in (".git", ".well-known"):
        (root / "list" / name).mkdir()
        (root / "list" / name / "config").write_text("dotted")
    with offered(Files(root)) as (port, complaints):
        yield port
        assert not complaints


def get(port: int, target: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("target", "status", "part"),
    [
        ("/page.txt", 200, b"\0\1\2"),
        ("/inside", 200, b"\0\1\2"),
        ("/sub/", 200, b"index"),
        ("/list/", 200, b'<a href="./%3Ca%3E%20%26%20b.txt">&lt;a&gt; &amp; b.txt</a>'),
        ("/list/%3Ca%3E%20%26%20b.txt?query", 200, b"x"),
        ("http://any/page.txt", 200, b"\0\1\2"),
        *((target, 404, b"404") for target in ("/none", "/out/secret", "/out.txt", "/circle", "/page.txt/x", "/a%00b")),
        *((target, 404, b"404") for target in ("/../secret", "/%2e%2e/secret", "/sub/..%2f..%2fsecret", "//../../etc")),
        *((target, 404, b"404") for target in ("/page.txt/", "/page.txt/.", "/list/.git/config", "/list/%2egit/")),
        ("/list/.well-known/config", 200, b"dotted"),
        ("/list/", 200, b'<a href="./circle">circle</a>'),
        ("/pipe", 403, b"403"),
        ("*", 400, b"400"),
    ],
)
def test_what_of_a_folder_is_reached(folder: int, target: str, status: int, part: bytes) -> None:
    answer, body = get(folder, target)
    assert (answer.status, part in body) == (status, True)
    head, nothing = get(folder, target, "HEAD")
    assert (head.status, nothing) == (status, b"")
    assert head.headers["Content-Length"] == str(len(body))


def test_what_a_list_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".git", "a", "b", "c"):
        (tmp_path / name).touch()
    with offered(Files(tmp_path)) as (port, _):
        page = get(port, "/")[1]
        assert page.count(b"<li>") == 3 and b"more" not in page
        monkeypatch.setattr("ztnode.forwarding.files.MAX_LISTED", 2)
        page = get(port, "/")[1]
        assert page.count(b"<li>") == 2 and b"There are more than these 2." in page
    with offered(Files(tmp_path, hidden=True)) as (port, _):
        monkeypatch.setattr("ztnode.forwarding.files.MAX_LISTED", 4)
        page = get(port, "/")[1]
        assert page.count(b"<li>") == 4 and b"more" not in page
        assert get(port, "/.git")[0].status == 200


def test_a_folder_without_its_slash_stays_on_this_host(folder: int) -> None:
    for target in ("/sub?a=b", "//sub?a=b"):
        assert get(folder, target)[0].headers["Location"] == "/sub/?a=b"
    assert get(folder, "/", "POST")[0].status == 405


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=10-19", 206, 10, 19),
        ("bytes=1023990-", 206, 1023990, 1023999),
        ("bytes=-5", 206, 1023995, 1023999),
        ("bytes=0-9999999", 206, 0, 1023999),
        ("bytes=1024000-", 416, 0, -1),
        ("bytes=-0", 416, 0, -1),
        *((text, 200, 0, 1023999) for text in ("bytes=5-4", "bytes=0-1,3-4", "items=0-1", "bytes=-", "bytes=x-y")),
    ],
)
def test_ranges(folder: int, asked: str, status: int, first: int, last: int) -> None:
    answer, body = get(folder, "/page.txt", Range=asked)
    assert answer.status == status
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */1024000"
        return
    assert body == (bytes(range(256)) * 4000)[first : last + 1]
    assert (answer.headers["Content-Range"] == f"bytes {first}-{last}/1024000") is (status == 206)


def test_validators(folder: int) -> None:
    answer, _ = get(folder, "/page.txt")
    tag, modified = answer.headers["ETag"], answer.headers["Last-Modified"]
    assert get(folder, "/page.txt", If_None_Match=f'"x", W/{tag}')[0].status == 304
    assert get(folder, "/page.txt", If_Modified_Since=modified)[0].status == 304
    assert get(folder, "/page.txt", If_None_Match='"x"', If_Modified_Since=modified)[0].status == 200
    assert get(folder, "/page.txt", If_Modified_Since="yesterday")[0].status == 200
    assert get(folder, "/page.txt", Range="bytes=0-0", If_Range=tag)[0].status == 206
    assert get(folder, "/page.txt", Range="bytes=0-0", If_Range='"x"')[0].status == 200


def test_bad_and_slow_clients_cost_themselves_alone(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert raw(folder, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(folder, b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 17) + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
    both = b"GET /sub/ HTTP/1.1\r\nHost: a\r\n\r\n" * 2
    assert raw(folder, both).count(b"HTTP/1.1 200") == 2
    monkeypatch.setattr("ztnode.forwarding.files.HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", folder), 10) as slow:
        slow.sendall(b"GET / HT")
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with what it was told; ``/echo`` switches to a protocol that repeats."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/echo":
            self.send_response(101)
            self.send_header("Connection", "upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            while data := self.rfile.read1(1000):
                self.wfile.write(data)
            self.close_connection = True
            return
        if self.path == "/dies":
            self.close_connection = True
            return
        if self.path.endswith("/fields"):
            fields = "\n".join(
                (self.requestline, *(f"{name.lower()}: {value}" for name, value in self.headers.items()))
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(fields)))
            self.end_headers()
            self.wfile.write(fields.encode())
            return
        body = f"{self.path}|{'+'.join(self.headers.get_all('X-Forwarded-For', []))}|{self.headers['X-Mine']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_OPTIONS = do_GET

    def do_PUT(self) -> None:
        if self.path == "/large":
            self.send_response(413)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            return
        size = 0
        if "Content-Length" in self.headers:
            size = len(self.rfile.read(int(self.headers["Content-Length"])))
        else:
            while chunk := int(self.rfile.readline(), 16):
                size += len(self.rfile.read(chunk))
                self.rfile.readline()
            self.rfile.readline()
        self.send_response(200)
        self.end_headers()  # without a length: the body ends with the connection
        self.wfile.write(b"%d" % size)
        self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def proxied(prefix: str = "") -> Iterator[tuple[int, list[str]]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        upstream = Upstream(TcpAddress("127.0.0.1", server.server_port), prefix)
        with offered(ReverseProxy(upstream)) as found:
            yield found
        server.shutdown()


def test_each_request_says_who_the_peer_is() -> None:
    with proxied("/app") as (port, complaints):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for number in range(3):
            headers = {} if number == 2 else {"X-Forwarded-For": "1.2.3.4", "x-forwarded-For": "5.6.7.8", "X-Mine": "y"}
            connection.request("GET", f"/{number}", headers=headers)
            mine = "None" if number == 2 else "y"
            assert connection.getresponse().read().decode() == f"/app/{number}|{PEER}|{mine}"
        connection.request("HEAD", "/")
        assert connection.getresponse().read() == b""
        connection.close()
        two = (
            b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\n\r\n"
        )
        answer = raw(port, two)
        assert b"/app/a|" + PEER.encode() in answer and b"/app/b|" + PEER.encode() in answer
        assert not complaints


def test_no_request_hides() -> None:
    """Neither in a body that could be read in two ways, nor after an upgrade that the server does not want."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    with proxied() as (port, _):
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
        for version, lengths in (
            (b"1.1", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
            (b"1.1", b"transfer-encoding: Chunked\r\ncontent-length: %d\r\n" % len(chunk)),
            (b"1.0", b"Transfer-Encoding: chunked\r\n"),
        ):
            answer = raw(port, b"PUT / HTTP/" + version + b"\r\nHost: a\r\n" + lengths + b"\r\n" + chunk)
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"/hidden" not in answer, lengths
        for framing in (
            b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(hidden),
            b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked, identity\r\n",
            b"Content-Length : 3\r\n",
        ):
            answer = raw(port, b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n" + hidden)
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")) and b"/hidden" not in answer, framing
        upgrade = b"GET /plain HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        answer = raw(port, upgrade + hidden)
        assert b"/plain|" + PEER.encode() in answer and b"/hidden|" + PEER.encode() in answer
        switched = raw(port, upgrade.replace(b"/plain", b"/echo") + b"spoken otherwise")
        assert switched.startswith(b"HTTP/1.1 101") and switched.endswith(b"\r\n\r\nspoken otherwise")


def told(port: int, *fields: bytes, line: bytes = b"GET /fields HTTP/1.1") -> list[str]:
    """What the server is told: the line of the request, then its fields in lower case but for what is always there."""
    answer = raw(port, b"\r\n".join((line, *fields, b"", b"")))
    lines = answer.partition(b"\r\n\r\n")[2].decode().split("\n")
    assert answer.startswith(b"HTTP/1.1 200 ") and f"x-forwarded-for: {PEER}" in lines, answer
    return [line for line in lines if line not in ("host: a", f"x-forwarded-for: {PEER}")]


def test_what_the_server_is_not_told() -> None:
    plain = "GET /fields HTTP/1.1"
    with proxied() as (port, complaints):
        for name in (
            *("X_Forwarded_For", "x-forwarded_FOR", "X.Forwarded.For", "X-Forwarded-Proto", "X_FORWARDED_HOST"),
            *("X-Forwarded-Prefix", "Forwarded", "X-Real-IP", "X_Real_Ip", "Content_Length", "Transfer_Encoding"),
        ):
            assert told(port, b"Host: a", name.encode() + b": 127.0.0.1") == [plain], name
        for fields in (
            (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
            (b"Connection: upgrade", b"Upgrade: TLS/1.0"),
            (b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",),
            (b"Upgrade: websocket",),
            (b"Connection: x-one, host", b"X-One: 1"),
        ):
            assert told(port, b"Host: a", *fields) == [plain], fields
        websocket = [plain, "upgrade: websocket", "connection: upgrade"]
        assert told(port, b"Host: a", b"Connection: upgrade", b"Upgrade: h2c, WebSocket") == websocket
        old = told(port, line=b"GET /fields HTTP/1.0")
        assert old[0] == plain and old[1].startswith("host: 127.0.0.1:")
        body = b"Connection: transfer-encoding, content-length\r\n%b\r\n\r\n3\r\nabc\r\n0\r\nX-Forwarded-For: 1.2.3.4"
        put = b"PUT / HTTP/1.1\r\nHost: a\r\n" + body % b"Transfer-Encoding: chunked" + b"\r\n\r\n"
        assert raw(port, put).endswith(b"\r\n\r\n1\r\n3\r\n0\r\n\r\n")
        answer = raw(port, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 501 Not Implemented\r\n")
        answer = raw(port, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (1 << 17) + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert not complaints


@pytest.mark.parametrize("prefix", ["", "/app"])
def test_targets_of_requests(prefix: str) -> None:
    with proxied(prefix) as (port, complaints):
        for target in (b"/fields", b"http://b:80/fields", b"HTTPS://[fd00::1]/fields"):
            lines = told(port, b"Host: a", line=b"GET %b HTTP/1.1" % target)
            assert lines[0] == f"GET {prefix}/fields HTTP/1.1"
            assert target.startswith(b"/") or lines[1] in ("host: b:80", "host: [fd00::1]")
        assert b"\r\n\r\n*|" in raw(port, b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        for target in (b"*", b"fields", b"ftp://b/fields", b"http://", b"http:///x", b"http://u@b/x", b"a:80"):
            answer = raw(port, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), target
        climbing = (b"/..", b"/../x", b"/a/%2e%2E/x", b"/.%2e/x", b"/a%2f..%2fx", b"/..\\x", b"/..%5cx", b"/..;a/x")
        for target in (*climbing, b"/%252e%252e/x", b"http://a/../x"):
            answer = raw(port, b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)
            assert answer.startswith(b"HTTP/1.1 400 " if prefix else b"HTTP/1.1 200 "), target
        assert get(port, "/a..b/...?../x")[0].status == 200
        assert not complaints


def test_bodies_early_answers_and_dead_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_stream, "LINGER_SECONDS", 0.3)
    with proxied() as (port, complaints):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(
            "PUT", "/", body=iter([b"x" * 70_000] * 5), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        assert connection.getresponse().read() == b"350000"
        connection.close()
        with socket.create_connection(("127.0.0.1", port), 10) as early:
            early.sendall(b"PUT /large HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegun")
            assert early.recv(100).startswith(b"HTTP/1.1 413")
        assert not complaints
        assert raw(port, b"GET /dies HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 502 ")
        until(lambda: complaints == ["the server ended the connection before its answer did"])
    dead = free_port()
    with offered(ReverseProxy(Upstream(TcpAddress("127.0.0.1", dead)))) as (port, complaints):
        assert raw(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 502 ")
        until(lambda: complaints == [f"127.0.0.1 port {dead}: Connection refused"])


class Arrivals:
    """As much of an overlay as a listener needs: connections from the addresses that are put in; those it was asked to
    reset are ``dropped``."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Handoff] = asyncio.Queue()
        self.clients: list[socket.socket] = []
        self.dropped: list[str] = []
        self.seen: asyncio.Queue[None] = asyncio.Queue()

    async def listen(self, _host: str | None, port: int) -> tuple[int, Endpoint]:
        return 1, ("10.121.15.7", port)

    async def accept(self, _listener: int) -> Handoff:
        return await self.waiting.get()

    async def fetch(self, _handoff: Handoff) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.clients.append(theirs)
        self.seen.put_nowait(None)
        return ours

    async def drop(self, handoff: Handoff) -> None:
        self.dropped.append(handoff.remote[0])
        self.seen.put_nowait(None)


def test_no_peer_shuts_the_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztnode.forwarding.http_service.CLIENTS", 8)

    async def scenario() -> None:
        arrivals = Arrivals()
        service = HttpService(cast(Overlay, arrivals), Files(tmp_path), pytest.fail)
        await service.open(None, 80)
        running = asyncio.create_task(service.run())
        try:
            # One member's are all addresses of its /80 in a 6PLANE network.
            peers = ["10.121.15.9"] * 20 + ["fc00:0:0:0:1::1", "fc00:0:0:0:1::2", "fc00:0:0:0:1::3", "10.121.15.10"]
            for peer in peers:
                arrivals.waiting.put_nowait(Handoff("", b"", ("10.121.15.7", 80), (peer, 1)))
            async with asyncio.timeout(10):
                for _ in peers:
                    await arrivals.seen.get()
            assert arrivals.dropped == ["10.121.15.9"] * 18 + ["fc00:0:0:0:1::3"]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for client in arrivals.clients:
                client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [100_000, 50_000_000])
def test_who_takes_no_answer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Be it one that fits into what is held for a client, whose end nothing else waits for, or a longer one."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    for name, seconds in (("BODY_SECONDS", 0.3), ("LINGER_SECONDS", 0.1)):
        monkeypatch.setattr(http_stream, name, seconds)

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            theirs.sendall(b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(10):
                await converse(Files(tmp_path), ours, PEER)
            assert ours.fileno() == -1

    asyncio.run(scenario())
