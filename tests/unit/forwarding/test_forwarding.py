"""``ztnode forward`` and ``ztnode expose`` as processes, over a node whose overlay is loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.unit.fake_node import IP, RunningNode
from tests.unit.peers import LINGER_RESET, echo, peer, read_to_end, reset_after_some
from ztclient.aio.handoff import ask_to_join
from ztclient.destination import Destination
from ztnode.control.tcp_options import TcpOptions
from ztnode.embedded import free_port
from ztnode.forwarding.local import BACKLOG

HOST = "10.121.15.99"


class Carrier:
    """A running command, with what it said."""

    def __init__(self, process: subprocess.Popen[str], mappings: int) -> None:
        self.process = process
        assert process.stderr is not None
        self.stderr = process.stderr
        self.lines = [self.line() for _ in range(mappings)]

    def line(self) -> str:
        return self.stderr.readline().rstrip("\n")

    def port(self, index: int = 0) -> int:
        found = re.search(r"forwarding \S+ port ([0-9]+) to", self.lines[index])
        assert found is not None, self.lines
        return int(found[1])


@contextlib.contextmanager
def carrying(
    *arguments: str, mappings: int = 1, environ: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Carrier]:
    command = [sys.executable, "-m", "ztnode", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}) as process:
        try:
            yield Carrier(process, mappings)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()


def exchange(connected: socket.socket, data: bytes = b"hello" * 20_000) -> None:
    """Send, half-close, and get the same back."""
    with connected:
        connected.settimeout(10)
        sending = threading.Thread(target=connected.sendall, args=(data,))
        sending.start()
        received = bytearray()
        while len(received) < len(data):
            received += connected.recv(1 << 16)
        sending.join()
        connected.shutdown(socket.SHUT_WR)
        assert bytes(received) == data
        assert read_to_end(connected) == b""


def local(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def test_many_mappings_of_both_kinds_in_one_process(running_node: RunningNode, tmp_path: Path) -> None:
    path = tmp_path / "near.sock"
    target = tmp_path / "web.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(target))
    server.listen()
    arguments = ["-L", f"0:{HOST}:7", "-L", f"unix:{path}:{HOST}:7", "-R", f"{IP}:80:unix:{target}"]
    with (
        server,
        peer(echo) as real,
        carrying("forward", "0", f"{HOST}:7", *arguments, mappings=4) as carrier,
    ):
        running_node.serve(HOST, 7, real)
        exchange(local(carrier.port(0)))
        exchange(local(carrier.port(1)))
        assert path.stat().st_mode & 0o777 == 0o600
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(path))
        exchange(connected)
        server.accept()[0].close()  # the look whether there is a server
        with socket.create_connection(running_node.node.overlay[IP, 80], 30) as connected:
            far, _ = server.accept()
            with far:
                connected.sendall(b"question")
                assert far.recv(100) == b"question"
                far.sendall(b"answer")
                far.shutdown(socket.SHUT_WR)
                assert read_to_end(connected) == b"answer"
        assert running_node.node.joined == 4, "no byte passes through the command"


def test_a_forward_speaks_to_its_target_for_its_clients_alone(running_node: RunningNode) -> None:
    """A look whether it is there would be a connection: a server of one session, such as iperf3, would be busy."""
    with carrying("forward", "-L", f"0:{HOST}:7") as carrier:
        with local(carrier.port()) as connected, pytest.raises(ConnectionResetError):
            connected.recv(1)
        assert "refused" in carrier.line()
    assert len(running_node.node.dials) == 1


def test_a_stale_unix_socket_is_replaced_and_nothing_else(running_node: RunningNode, tmp_path: Path) -> None:
    stale, taken, file = tmp_path / "stale", tmp_path / "taken", tmp_path / "file"
    for path in (stale, taken):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        if path is stale:
            listener.close()
    file.write_text("precious")
    with carrying("forward", "-L", f"unix:{stale}:{HOST}:7") as carrier:
        assert carrier.lines[0].startswith("forwarding unix:")
    for path in (taken, file):
        command = [sys.executable, "-m", "ztnode", "forward", "-L", f"unix:{path}:{HOST}:7"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"ztnode: cannot listen on unix:{path}")
        assert done.stderr.count("\n") == 1
    listener.close()
    assert file.read_text() == "precious"


def test_a_dead_target_is_said_at_once_and_resets(running_node: RunningNode) -> None:
    with carrying("forward", "0", f"{HOST}:9") as carrier:
        with local(carrier.port()) as connected, pytest.raises(ConnectionResetError):
            connected.recv(1)
        assert "refused" in carrier.line()
    port = free_port()
    with carrying("expose", f"{IP}:80", f"127.0.0.1:{port}") as carrier:
        assert carrier.line() == f"ztnode: 127.0.0.1 port {port}: Connection refused: there is no server yet"
        connected = socket.create_connection(running_node.node.overlay[IP, 80], 30)
        with connected, pytest.raises(ConnectionResetError):
            connected.recv(1)
        assert carrier.line() == f"ztnode: 127.0.0.1 port {port}: Connection refused"
    assert running_node.node.backlogs == [BACKLOG]


def test_resets_stay_resets_both_ways(running_node: RunningNode) -> None:
    ended = threading.Event()
    reasons = []

    def wait_for_the_end(connected: socket.socket) -> None:
        try:
            connected.sendall(b"ready")
            connected.recv(1)
        except ConnectionResetError as error:
            reasons.append(error)
        ended.set()

    with peer(reset_after_some) as resetting, peer(wait_for_the_end) as waiting:
        running_node.serve(HOST, 7, resetting)
        running_node.serve(HOST, 8, waiting)
        with carrying("forward", "-L", f"0:{HOST}:7", "-L", f"0:{HOST}:8", mappings=2) as carrier:
            with local(carrier.port(0)) as connected:
                connected.sendall(b"x")
                assert connected.recv(10) == b"0123456789"
                with pytest.raises(ConnectionResetError):
                    connected.recv(1)
            with local(carrier.port(1)) as connected:
                assert connected.recv(10) == b"ready"
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            assert ended.wait(10)
    assert reasons


@pytest.mark.parametrize(
    ("version", "header"),
    [
        ("1", b"PROXY TCP4 10.121.15.99 10.121.15.1 41000 80\r\n"),
        ("2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((10, 121, 15, 99, 10, 121, 15, 1)) + b"\xa0\x28\0\x50"),
    ],
)
def test_the_server_behind_learns_the_peer(running_node: RunningNode, version: str, header: bytes) -> None:
    received: list[bytes] = []
    done = threading.Event()

    def note(connected: socket.socket) -> None:
        data = read_to_end(connected)
        if data:
            received.append(data)
            done.set()

    with peer(note) as real:
        target = f"127.0.0.1:{real[1]}"
        with carrying("expose", f"{IP}:80", target, "--proxy-protocol", version):
            connected = socket.create_connection(running_node.node.overlay[IP, 80], 30)
            with connected:
                connected.sendall(b"GET /")
                connected.shutdown(socket.SHUT_WR)
                assert done.wait(10)
    assert received == [header + b"GET /"]


def test_connections_after_the_first_are_asked_of_the_worker(running_node: RunningNode) -> None:
    running_node.node.direct_dials = True
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with carrying("forward", "-L", f"0:{HOST}:7", "-L", f"0:{HOST}:8", mappings=2) as carrier:
            for _ in range(3):
                exchange(local(carrier.port(0)))
            with local(carrier.port(1)) as connected, pytest.raises(ConnectionResetError):
                connected.recv(1)
            assert f"{HOST} port 8: {HOST} port 8 refused the connection" in carrier.line()
    assert running_node.node.asked == [(HOST, 7, 0)] * 2 + [(HOST, 8, 0)]
    assert [each[1] for each in running_node.node.dials] == [7, 8]
    assert running_node.node.joined == 3


def test_ctrl_c_that_another_thread_gets_ends_it_as_well(running_node: RunningNode) -> None:
    """It does not interrupt the loop's sleep then, as it does not when it comes just before that."""
    command = [sys.executable, "-m", "ztnode", "forward", "0", f"{HOST}:7"]
    with peer(echo) as real, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        running_node.serve(HOST, 7, real)
        try:
            exchange(local(Carrier(process, 1).port()))
            others = [int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()]
            other = next(each for each in others if each != process.pid)
            assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGINT) == 0
            assert process.wait(10) == 130
        finally:
            process.kill()


def test_a_target_that_does_not_answer_holds_up_no_other(running_node: RunningNode) -> None:
    """198.51.100.1 is silent for as long as a dial may last."""
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with carrying("forward", "-L", "0:198.51.100.1:7", "-L", f"0:{HOST}:7", mappings=2) as carrier:
            silent = [local(carrier.port(0)) for _ in range(64)]
            exchange(local(carrier.port(1)))
            for connected in silent:
                connected.close()


def test_a_hundred_mappings_cost_one_small_process(running_node: RunningNode) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        arguments = [text for _ in range(100) for text in ("-L", f"0:{HOST}:7")]
        compiled = {"PYTHONDONTWRITEBYTECODE": ""}
        with carrying("forward", "0", f"{HOST}:7", environ=compiled) as carrier:
            exchange(local(carrier.port()), b"x")
        with carrying("forward", *arguments, mappings=100, environ=compiled) as carrier:
            for index in range(100):
                exchange(local(carrier.port(index)), b"x")
            status = Path(f"/proc/{carrier.process.pid}/status").read_text()
            resident = re.search(r"VmRSS:\s+([0-9]+) kB", status)
            assert resident is not None
            print(resident[0])
            if "COVERAGE_PROCESS_CONFIG" not in os.environ:  # it would be measured, too
                # The interpreter itself takes 10 MB more from 3.12 on, and compiling its modules on the way 5 MB.
                assert int(resident[1]) <= (50 if sys.version_info < (3, 12) else 60) * 1024
            assert not list(Path(f"/proc/{carrier.process.pid}").glob("task/*/children/*"))


def test_a_node_elsewhere_carries_by_its_control_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    token = tmp_path / "token"
    token.write_text("a-secret-of-some-length")
    token.chmod(0o600)
    monkeypatch.delenv("ZTNODE_STATE", raising=False)
    with RunningNode(state, TcpOptions("127.0.0.1:0", token_file=token)) as running, peer(echo) as real:
        running.serve(HOST, 7, real)
        where = {"ZTNODE_ADDRESS": running.addresses[1], "ZTNODE_TOKEN": "a-secret-of-some-length"}
        with carrying("forward", "0", f"{HOST}:7", environ=where) as carrier:
            exchange(local(carrier.port()))
        with carrying("expose", f"{IP}:80", f"127.0.0.1:{real[1]}", environ=where):
            exchange(socket.create_connection(running.node.overlay[IP, 80], 10))
        with carrying("expose", f"{IP}:80", f"unix:{tmp_path}/none", environ=where) as carrier:
            carrier.line()
            connected = socket.create_connection(running.node.overlay[IP, 80], 10)
            with connected, pytest.raises(ConnectionResetError):
                connected.recv(1)
        assert running.node.joined == 0


def test_connections_that_stand_go_on_when_the_command_ends(running_node: RunningNode) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        with carrying("forward", "0", f"{HOST}:7") as carrier:
            connected = local(carrier.port())
            connected.sendall(b"x")
            assert connected.recv(1) == b"x"
        exchange(connected)


def test_a_client_is_never_joined_to_two_connections(tmp_path: Path) -> None:
    """A worker that took its socket and does not say so may have joined it."""
    with socket.socket(socket.AF_UNIX) as worker, socket.create_server(("127.0.0.1", 0)) as real:
        worker.bind(str(tmp_path / "w"))
        worker.listen()
        with socket.create_connection(real.getsockname()) as near, pytest.MonkeyPatch.context() as patch:
            patch.setattr("ztclient.aio.handoff.CLAIM_TIMEOUT", 0.05)
            with pytest.raises(TimeoutError):
                asyncio.run(ask_to_join(str(tmp_path / "w"), Destination(HOST, 7), [], near))
            worker.close()
            assert not asyncio.run(ask_to_join(str(tmp_path / "w"), Destination(HOST, 7), [], near))
