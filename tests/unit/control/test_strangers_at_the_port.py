"""Who can reach --listen and shows no token: how many connections, and how long each stays."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from pathlib import Path

import grpc
import pytest

import ztclient
from tests.unit.fake_node import RunningNode
from ztnode.control import control_server
from ztnode.control.tcp_options import TcpOptions
from ztnode.control.token import TOKEN_NAME

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
MOST = 20


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of the port, smaller, so that the test need not wait for the real ones."""
    small = {
        "grpc.max_allowed_incoming_connections": MOST,
        "grpc.server_handshake_timeout_ms": 1000,
        "grpc.max_connection_idle_ms": 1000,
    }
    assert small.keys() == dict(control_server.TCP_OPTIONS).keys()
    monkeypatch.setattr(control_server, "TCP_OPTIONS", tuple(small.items()))


def closed(connection: socket.socket, seconds: float = 20.0) -> bool:
    """Whether the other end closes it."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "said", [b"", PREFACE[:5], PREFACE, PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1"]
)
def test_whoever_says_nothing_useful_is_sent_away(tmp_path: Path, said: bytes) -> None:
    with RunningNode(tmp_path, TcpOptions("127.0.0.1:0")) as running:
        host, _, port = running.addresses[1].rpartition("/")[2].rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(said)
            assert closed(connection)


@pytest.mark.usefixtures("impatient")
def test_many_of_them_are_not_kept_and_the_owner_comes_in_again(tmp_path: Path) -> None:
    with RunningNode(tmp_path, TcpOptions("127.0.0.1:0")) as running:
        host, _, port = running.addresses[1].rpartition("/")[2].rpartition(":")
        with contextlib.ExitStack() as stack:
            silent = []
            for _ in range(5 * MOST):
                with contextlib.suppress(ConnectionError):
                    silent.append(stack.enter_context(socket.create_connection((host, int(port)))))
            with selectors.DefaultSelector() as selector:
                for connection in silent:
                    selector.register(connection, selectors.EVENT_READ)
                deadline = time.monotonic() + 20
                while selector.get_map():  # those beyond the bound at once, the others a second later
                    assert time.monotonic() < deadline, f"{len(selector.get_map())} are kept"
                    for key, _ in selector.select(1.0):
                        with contextlib.suppress(ConnectionError):
                            if key.fileobj.recv(65536):  # type: ignore[union-attr]
                                continue
                        selector.unregister(key.fileobj)
        token = (tmp_path / TOKEN_NAME).read_text().strip()
        assert ztclient.Node(running.addresses[1], token=token).status().online


@pytest.mark.usefixtures("impatient")
def test_a_client_that_was_idle_does_not_notice(tmp_path: Path) -> None:
    with RunningNode(tmp_path, TcpOptions("127.0.0.1:0")) as running:
        token = (tmp_path / TOKEN_NAME).read_text().strip()
        node = ztclient.Node(running.addresses[1], token=token)
        assert node.status().online
        deadline = time.monotonic() + 20
        states: list[grpc.ChannelConnectivity] = []
        node.control._channel.subscribe(states.append)
        while grpc.ChannelConnectivity.IDLE not in states[1:]:
            assert time.monotonic() < deadline, f"the idle connection is kept: {states}"
            time.sleep(0.05)
        assert node.status().online
