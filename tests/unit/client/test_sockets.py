"""ztclient.create_connection, local and remote: the same socket, the same errors."""

from __future__ import annotations

import errno
import hashlib
import http.server
import multiprocessing
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ztclient
from tests.unit import tls_files as tls_files_module
from tests.unit.fake_node import RunningNode
from tests.unit.peers import LINGER_RESET, echo, peer, read_to_end, reset_after_some
from ztnode.control.tcp_options import TcpOptions

HOST = "10.121.15.99"


def out_of_reach(path: str, token: bytes) -> socket.socket:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)


@pytest.fixture(params=["local", "token", "tls", "mutual-tls", "no-handoff"])
def reached(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RunningNode, ztclient.Node]]:
    """A node and a client of it, by each way of reaching one."""
    files = tls_files_module.make(tmp_path, "server", "127.0.0.1")
    own = tls_files_module.make(tmp_path, "client", "127.0.0.1")
    tcp = {
        "token": TcpOptions("127.0.0.1:0"),
        "tls": TcpOptions("127.0.0.1:0", files.certificate, files.key),
        "mutual-tls": TcpOptions("127.0.0.1:0", files.certificate, files.key, client_ca=own.certificate),
    }.get(request.param)
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    with RunningNode(state, tcp) as running:
        if request.param == "no-handoff":
            # As in a container that was given the control socket alone.
            monkeypatch.setattr("ztclient.handoff.claim", out_of_reach)
        token = (state / "control.token").read_text().strip() if request.param in ("token", "tls") else None
        node = ztclient.Node(
            running.addresses[-1],
            token=token,
            ca_file=str(files.certificate),
            cert_file=str(own.certificate) if request.param == "mutual-tls" else None,
            key_file=str(own.key) if request.param == "mutual-tls" else None,
        )
        yield running, node


def test_bytes_both_ways_and_half_close(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    with peer(echo) as real:
        running.serve(HOST, 7, real)
        with ztclient.create_connection((HOST, 7), 5, node=node) as connected:
            assert isinstance(connected, socket.socket)
            connected.sendall(b"hello")
            assert connected.recv(5) == b"hello"
            connected.shutdown(socket.SHUT_WR)
            # The peer's direction stays open after ours has ended.
            assert read_to_end(connected) == b""


def test_peer_half_closes_first(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    received: list[bytes] = []
    done = threading.Event()

    def talk_then_listen(connected: socket.socket) -> None:
        connected.sendall(b"all I have")
        connected.shutdown(socket.SHUT_WR)
        received.append(read_to_end(connected))
        done.set()

    with peer(talk_then_listen) as real:
        running.serve(HOST, 7, real)
        with ztclient.create_connection((HOST, 7), 5, node=node) as connected:
            assert read_to_end(connected) == b"all I have"
            connected.sendall(b"x" * 100_000)
        assert done.wait(5)
        assert received == [b"x" * 100_000]


def test_peer_reset_is_econnreset(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    with peer(reset_after_some) as real:
        running.serve(HOST, 7, real)
        with ztclient.create_connection((HOST, 7), 5, node=node) as connected:
            assert connected.recv(10) == b"0123456789"
            connected.sendall(b"!")
            with pytest.raises(ConnectionResetError):
                connected.recv(10)


def test_own_reset_reaches_the_peer(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    ended: list[str] = []
    done = threading.Event()

    def listen(connected: socket.socket) -> None:
        try:
            read_to_end(connected)
            ended.append("clean")
        except ConnectionResetError:
            ended.append("reset")
        done.set()

    with peer(listen) as real:
        running.serve(HOST, 7, real)
        connected = ztclient.create_connection((HOST, 7), 5, node=node)
        connected.sendall(b"half a sentence")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        connected.close()
        assert done.wait(5)
    assert ended == ["reset"]


def test_megabytes_arrive_whole(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    block = os.urandom(1 << 20)
    with peer(echo) as real:
        running.serve(HOST, 7, real)
        with ztclient.create_connection((HOST, 7), 20, node=node) as connected:
            sent, received = hashlib.sha256(), hashlib.sha256()

            def upload() -> None:
                for _ in range(8):
                    connected.sendall(block)
                    sent.update(block)
                connected.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=upload)
            thread.start()
            total = 0
            while part := connected.recv(1 << 18):
                received.update(part)
                total += len(part)
            thread.join()
    assert total == 8 << 20
    assert sent.digest() == received.digest()


def test_a_reader_that_stops_stops_the_sender(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    go_on = threading.Event()

    def stubborn(connected: socket.socket) -> None:
        go_on.wait(10)
        connected.sendall(str(len(read_to_end(connected))).encode())

    with peer(stubborn) as real:
        running.serve(HOST, 7, real)
        with ztclient.create_connection((HOST, 7), 0.5, node=node) as connected:
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 1 << 30:
                    sent += connected.send(b"x" * (1 << 16))
            assert sent < 64 << 20
            go_on.set()
            connected.settimeout(10)
            connected.shutdown(socket.SHUT_WR)
            assert int(read_to_end(connected)) == sent


def test_select_and_makefile(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    with peer(echo) as real:
        running.serve(HOST, 7, real)
        with ztclient.create_connection((HOST, 7), 5, node=node) as connected:
            assert select.select([connected], [], [], 0)[0] == []
            with connected.makefile("rwb") as file:
                file.write(b"a line\n")
                file.flush()
                assert select.select([connected], [], [], 5)[0] == [connected]
                assert file.readline() == b"a line\n"


Expected = type[BaseException]


@pytest.mark.parametrize(
    ("host", "number", "kind"),
    [
        (HOST, errno.ECONNREFUSED, ConnectionRefusedError),
        ("192.0.2.9", errno.EHOSTUNREACH, OSError),
        ("8.8.8.8", errno.ENETUNREACH, OSError),
        ("198.51.100.1", errno.ETIMEDOUT, TimeoutError),
    ],
)
def test_errors_are_those_of_a_socket(
    reached: tuple[RunningNode, ztclient.Node], host: str, number: int, kind: Expected
) -> None:
    with pytest.raises(kind) as caught:
        reached[1].create_connection((host, 9), 0.3)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == number
    assert host in str(caught.value.strerror)


def test_listener(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    with ztclient.create_server(("10.121.15.1", 8080), node=node) as listener:
        assert listener.getsockname() == ("10.121.15.1", 8080)
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
        listener.settimeout(5)
        with socket.create_connection(running.node.overlay["10.121.15.1", 8080]) as far:
            far.sendall(b"hello")
            assert select.select([listener], [], [], 5)[0] == [listener]
            near, address = listener.accept()
            with near:
                assert address == ("10.121.15.99", 41000)
                assert near.recv(5) == b"hello"
                near.sendall(b"welcome")
            assert read_to_end(far) == b"welcome"


def test_closing_the_listener_frees_its_address(reached: tuple[RunningNode, ztclient.Node]) -> None:
    running, node = reached
    listener = node.listen("10.121.15.1", 8080)
    waiting: list[OSError] = []

    def accept() -> None:
        try:
            listener.accept()
        except OSError as error:
            waiting.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    listener.close()
    thread.join(5)
    assert [error.errno for error in waiting] == [errno.EBADF]
    for _ in range(100):
        if not running.node.listeners:
            break
        select.select([], [], [], 0.02)
    assert not running.node.listeners


def test_listening_on_a_foreign_address(reached: tuple[RunningNode, ztclient.Node]) -> None:
    with pytest.raises(OSError, match="not a managed address") as caught:
        reached[1].listen("10.9.9.9", 80)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def in_child(work: Callable[[], None]) -> int:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=work)
    child.start()
    child.join(20)
    if child.exitcode is None:
        child.kill()
        raise AssertionError("the child hangs")
    return child.exitcode


def test_works_in_a_child_after_fork(running_node: RunningNode) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        node = ztclient.Node()
        assert node.status().online

        def work() -> None:
            with node.create_connection((HOST, 7), 5) as connected:
                connected.sendall(b"child")
                assert connected.recv(5) == b"child"

        assert in_child(work) == 0
        assert node.status().online


def test_many_threads_share_a_node(running_node: RunningNode) -> None:
    results: list[bytes] = []
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        node = ztclient.Node()

        def work(number: int) -> None:
            with node.create_connection((HOST, 7), 10) as connected:
                message = b"%05d" % number
                connected.sendall(message)
                results.append(connected.recv(5))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [b"%05d" % number for number in range(50)]


@pytest.mark.parametrize(
    ("bad", "why"), [("example.com", "no name of the overlay"), ("", "neither"), ("10.1.2.3.4", "neither")]
)
def test_what_is_no_name_of_the_overlay(running_node: RunningNode, bad: str, why: str) -> None:
    with pytest.raises(socket.gaierror, match=why):
        ztclient.create_connection((bad, 80))


def test_bad_ports_and_timeouts(running_node: RunningNode) -> None:
    with pytest.raises(OverflowError):
        ztclient.create_connection((HOST, 65536))
    with pytest.raises(ValueError, match="Timeout"):
        ztclient.create_connection((HOST, 80), -1)
    with pytest.raises(BlockingIOError):
        ztclient.create_connection((HOST, 80), 0)
    with pytest.raises(OSError, match="source port"):
        ztclient.create_connection((HOST, 80), 1, ("10.121.15.1", 1234))


def test_http_server_on_the_overlay(running_node: RunningNode) -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"hello {self.client_address[0]}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ztclient.HTTPServer(("10.121.15.1", 80), Hello) as server:
        assert server.server_address == ("10.121.15.1", 80)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running_node.serve(HOST, 80, running_node.node.overlay["10.121.15.1", 80])
        connection = ztclient.HTTPConnection(HOST, 80, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello 10.121.15.99"
        server.shutdown()
        thread.join()
