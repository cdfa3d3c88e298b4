"""Dials whose client waits at the hand-off socket: the socket comes before the node's answer, the errors with it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ztclient
from tests.unit.fake_node import RunningNode
from tests.unit.peers import echo, peer
from ztclient import handoff
from ztclient.channel import APPOINTMENTS

HOST = "10.121.15.99"


@pytest.fixture
def node(running_node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[ztclient.Node]:
    """A client that has dialled once and knows the hand-off socket."""
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        client = ztclient.Node(state=running_node.state)
        assert not client.control.handoff_path
        client.create_connection((HOST, 7), 5).close()
        assert client.control.handoff_path == str(running_node.node.handoff_path)
        yield client


@pytest.fixture
def claims(node: ztclient.Node, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The tokens that were claimed after the answer."""
    claimed = []
    claim = handoff.claim

    def counting(path: str, token: bytes) -> socket.socket:
        claimed.append(token)
        return claim(path, token)

    monkeypatch.setattr(handoff, "claim", counting)
    return claimed


def echoes(connected: socket.socket) -> None:
    with connected:
        assert connected.gettimeout() == 5
        assert not connected.get_inheritable()
        connected.sendall(b"to and fro")
        assert connected.recv(100) == b"to and fro"


def test_the_socket_comes_by_itself(node: ztclient.Node, claims: list[bytes], running_node: RunningNode) -> None:
    for _ in range(3):
        echoes(node.create_connection((HOST, 7), 5))
    assert not claims
    assert not running_node.node.waiting


@pytest.mark.parametrize(
    ("host", "kind", "reason"),
    [
        (HOST, ConnectionRefusedError, "port 8 refused the connection"),
        ("192.0.2.1", OSError, "no answer to ARP for 192.0.2.1"),
        ("8.8.8.8", OSError, "no joined network has a route"),
        ("198.51.100.1", TimeoutError, r"did not answer within 0\.3 s"),
    ],
)
def test_failures_say_what_they_say_without_an_appointment(
    node: ztclient.Node, host: str, kind: type[OSError], reason: str
) -> None:
    started = time.monotonic()
    with pytest.raises(kind, match=reason):
        node.create_connection((host, 8), 0.3)
    assert time.monotonic() - started < 2


def test_a_worker_that_is_late_is_waited_for(
    node: ztclient.Node, claims: list[bytes], running_node: RunningNode
) -> None:
    """The answer says that the connection stands, and the worker has yet to look at its hand-off socket."""
    running_node.node.late = 0.2
    echoes(node.create_connection((HOST, 7), 5))
    assert not claims


def test_a_crowd_goes_the_cheaper_way(node: ztclient.Node, claims: list[bytes], running_node: RunningNode) -> None:
    running_node.node.late = 0.15
    sockets: list[socket.socket] = []
    threads = [
        threading.Thread(target=lambda: sockets.append(node.create_connection((HOST, 7), 5)))
        for _ in range(APPOINTMENTS + 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 4
    for connected in sockets:
        echoes(connected)
    echoes(node.create_connection((HOST, 7), 5))
    assert len(sockets) == len(threads)
    assert len(claims) == 4


def test_an_answer_that_names_another_worker_is_followed(
    node: ztclient.Node, claims: list[bytes], running_node: RunningNode, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "worker-1.sock"))
        other.listen()
        node.control._handoff_paths = {str(tmp_path / "worker-1.sock")}
        echoes(node.create_connection((HOST, 7), 5))
        assert len(claims) == 1
        assert not node.control.handoff_path, "of two workers it cannot know which will have the next dial"
        echoes(node.create_connection((HOST, 7), 5))
        assert len(claims) == 2


def test_a_worker_out_of_reach_is_no_hindrance(node: ztclient.Node, claims: list[bytes], tmp_path: Path) -> None:
    node.control._handoff_paths = {str(tmp_path / "nobody.sock")}
    echoes(node.create_connection((HOST, 7), 5))
    assert len(claims) == 1


def test_a_full_queue_is_no_hindrance(node: ztclient.Node, claims: list[bytes], tmp_path: Path) -> None:
    path = str(tmp_path / "busy.sock")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = [handoff.appoint(path, bytes(range(16))) for _ in range(3)]
        assert waiting[-1] is None
        node.control._handoff_paths = {path}
        echoes(node.create_connection((HOST, 7), 5))
        for appointment in waiting:
            if appointment is not None:
                with appointment:
                    pass
    assert len(claims) == 1


def test_an_interrupted_wait_ends_the_dial(
    node: ztclient.Node, running_node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_appointment: handoff.Appointment, _timeout: float) -> None:
        deadline = time.monotonic() + 5
        while not running_node.node.dialling and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(handoff.Appointment, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        node.create_connection(("198.51.100.1", 7), 30)
    deadline = time.monotonic() + 5
    while running_node.node.dialling and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running_node.node.dialling


def test_what_came_before_the_cancellation_counts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as tcp:
        path = str(tmp_path / "worker.sock")
        listener.bind(path)
        listener.listen()
        with (
            handoff.Appointment(path, b"t" * 16) as appointment,
            socket.create_connection(tcp.getsockname()) as connected,
        ):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(100) == bytes(16) + b"t" * 16
                socket.send_fds(accepted, [b"\0"], [connected.fileno()])
                appointment.cancel()
                kept = appointment.keep(5)
                assert kept is not None
                assert kept.getsockname() == connected.getsockname()
                kept.close()
                assert appointment.keep(5) is None
        appointment.cancel()
