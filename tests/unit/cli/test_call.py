"""``ztnode call`` where curl's users have expectations: bodies from anywhere, early answers, redirections."""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake_node import RunningNode
from tests.unit.peers import LINGER_RESET, peer, read_to_end
from ztnode import __version__
from ztnode.cli.app import run
from ztnode.node.registry import Registration

HOST = "10.121.15.99"


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        where = self.path.strip("/").split("/")
        if where[0].isdigit():
            self.send_response(int(where[0]))
            self.send_header("Location", f"/{'/'.join(where[1:])}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = f"{self.command} {self.path} {len(body)} {self.headers.get('Content-Length')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(running_node: RunningNode) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running_node.serve(HOST, 5380, ("127.0.0.1", server.server_port))
        yield f"{HOST}:5380"
        server.shutdown()


def call(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ztnode", "call", *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)


def test_no_scheme_needed(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", f"{web}/x?y"]) == 0
    assert capsys.readouterr().out == "GET /x?y 0 None\n"


@pytest.mark.parametrize("size", [0, 1, 300_000, 20_000_000])
def test_a_body_from_what_has_no_length(web: str, tmp_path: Path, size: int) -> None:
    expected = b"POST / %d %d\n" % (size, size)
    done = call(web, "-d", "@/dev/stdin", data=b"x" * size)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    done = call(web, "-d", "@-", data=b"x" * size)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(b"x" * size))
    writer.start()
    done = call(web, "-d", f"@{fifo}")
    writer.join()
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_a_body_from_proc_is_what_is_read(running_node: RunningNode) -> None:
    """Its length is said to be 0: what follows a Content-Length of 0 would be the next request."""
    received = []

    def server(connected: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connected.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        while len(body) < length:
            body += connected.recv(65536)
        received.append((length, body))
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with peer(server) as real:
        running_node.serve(HOST, 80, real)
        done = call(HOST, "-d", "@/proc/version")
    assert done.returncode == 0, done.stderr
    content = Path("/proc/version").read_bytes()
    assert received == [(len(content), content)]


def test_a_length_that_is_not_the_bodys_is_not_sent(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", web, "-d", "12345", "-H", "Content-Length: 3"]) == 2
    assert run(["call", web, "-d", "1", "-H", "Transfer-Encoding: gzip"]) == 2
    assert "5 bytes" in capsys.readouterr().err
    assert run(["call", web, "-d", "12345", "-H", "Content-Length: 5"]) == 0
    assert capsys.readouterr().out == "POST / 5 5\n"


def test_in_chunks_where_that_is_asked_for(running_node: RunningNode) -> None:
    received = []

    def server(connected: socket.socket) -> None:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += connected.recv(65536)
        received.append(data.partition(b"\r\n\r\n")[2])
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with peer(server) as real:
        running_node.serve(HOST, 80, real)
        assert run(["call", HOST, "-d", "hello", "-H", "Transfer-Encoding: chunked"]) == 0
    assert received == [b"5\r\nhello\r\n0\r\n\r\n"]


@pytest.mark.parametrize("ending", ["reset", "stall"])
def test_an_answer_before_the_upload_ends_is_shown(running_node: RunningNode, tmp_path: Path, ending: str) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(30_000_000))
    done = threading.Event()

    def server(connected: socket.socket) -> None:
        connected.recv(1000)
        connected.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
        if ending == "reset":
            time.sleep(0.3)  # what a server that knows its trade does, so that the answer is not lost with the reset
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        else:
            done.wait(60)

    with peer(server) as real:
        running_node.serve(HOST, 80, real)
        answered = call("-i", HOST, "-d", f"@{body}", "--timeout", "20")
        done.set()
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.startswith(b"HTTP/1.1 413 Too Large")
    assert answered.stdout.endswith(b"too large")


def test_a_server_that_resets_without_a_word_is_an_error(running_node: RunningNode) -> None:
    def server(connected: socket.socket) -> None:
        connected.recv(10)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    with peer(server) as real:
        running_node.serve(HOST, 80, real)
        done = call(HOST, "-d", "@-", data=bytes(5_000_000))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_redirections(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", f"{web}/302/x"]) == 0
    assert capsys.readouterr().out == ""
    for status, method in ((301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")):
        assert (
            run(["call", "-L", f"{web}/{status}/302/x" if method == "GET" else f"{web}/{status}/x", "-d", "body"]) == 0
        )
        sent = "4 4" if method == "POST" else "0 None"
        assert capsys.readouterr().out == f"{method} /x {sent}\n"
    assert run(["call", "-L", f"{web}/round"]) == 1
    assert "redirections" in capsys.readouterr().err


def test_verbose_shows_both_heads(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", "-v", f"{web}/x", "-H", "X-Test: yes"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "GET /x 0 None\n"
    ours = f"> User-Agent: ztnode/{__version__}\n> Accept: */*\n"
    assert captured.err.startswith(f"> GET /x HTTP/1.1\n> Host: {web}\n{ours}> X-Test: yes\n>\n< HTTP/1.1 200 OK\n")


def test_words_of_zerotier_cli(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    for alias, word in (("info", "status"), ("listnetworks", "networks"), ("listpeers", "peers")):
        assert run([word]) == 0
        expected = capsys.readouterr().out
        assert run([alias]) == 0
        assert capsys.readouterr().out == expected


def test_what_is_pasted_behind_serve_waits_for_a_node_that_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "late"
    state.mkdir(mode=0o700)
    monkeypatch.delenv("ZTNODE_ADDRESS", raising=False)
    monkeypatch.setenv("ZTNODE_STATE", str(state))
    for arguments in (
        ["join", "9ad07d01093a69e3", "--wait", "20"],
        ["call", f"{HOST}:80"],
        ["status"],
        ["exec", "--", "true"],
    ):
        with contextlib.ExitStack() as stack, peer(lambda connected: answer(connected)) as real:

            def start() -> None:
                running = stack.enter_context(RunningNode(state))
                running.serve(HOST, 80, real)

            timer = threading.Timer(0.5, start)
            timer.start()
            status = run(arguments)
            timer.join()
            assert status == 0, capsys.readouterr().err
        assert "waiting for a node" in capsys.readouterr().err


def test_none_waits_where_the_user_must_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "ztnode").mkdir(mode=0o700)
    for name in ("ZTNODE_ADDRESS", "ZTNODE_STATE"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context(Registration(f"unix:{tmp_path}/{name}/ztnode.sock", tmp_path / name))
        assert run(["call", f"{HOST}:80"]) == 1
    said = capsys.readouterr().err
    assert "2 nodes of yours are running" in said and "waiting" not in said


def test_all_wait_for_a_node_that_holds_its_state_and_does_not_answer_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/locks").exists():
        pytest.skip("locks are seen in /proc alone")
    state = tmp_path / "late"
    (state / "zerotier").mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    monkeypatch.delenv("ZTNODE_ADDRESS", raising=False)
    assert run(["status", "--state", str(state)]) == 1
    capsys.readouterr()
    with contextlib.ExitStack() as stack, (state / "zerotier/.ztnode.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(0.5, lambda: stack.enter_context(RunningNode(state)))
        timer.start()
        status = run(["status", "--state", str(state)])
        timer.join()
        assert status == 0 and "waiting for a node" in capsys.readouterr().err


def answer(connected: socket.socket) -> None:
    connected.recv(1000)
    connected.sendall(b"HTTP/1.0 200 OK\r\n\r\nhere")
    connected.shutdown(socket.SHUT_WR)
    read_to_end(connected)
