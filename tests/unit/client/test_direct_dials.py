"""Dials that the worker itself is asked for: the node hears nothing of them, and is asked where nothing comes of it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ztclient
from tests.unit.fake_node import IP, NWID, RunningNode
from tests.unit.peers import echo, peer
from ztclient import aio, handoff
from ztclient.aio import dialling
from ztclient.destination import Destination
from ztnode.node.api import StreamOptions

HOST = "10.121.15.99"


@pytest.fixture
def node(running_node: RunningNode) -> Iterator[ztclient.Node]:
    """A client that has dialled once and knows the worker."""
    running_node.node.direct_dials = True
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        client = ztclient.Node(state=running_node.state)
        assert not client.control.direct_path
        with client.create_connection((HOST, 7), 5) as connected:  # has the same names as those that follow
            assert connected.getpeername() == (HOST, 7) and connected.getsockname()[0] == IP
        assert client.control.direct_path == str(running_node.node.handoff_path)
        assert len(running_node.node.dials) == 1 and not running_node.node.asked
        yield client


def echoes(connected: socket.socket) -> None:
    with connected:
        assert connected.gettimeout() == 5
        assert not connected.get_inheritable()
        assert connected.getpeername() == (HOST, 7) and connected.getsockname()[0] == IP
        connected.sendall(b"to and fro")
        assert connected.recv(100) == b"to and fro"


def test_the_worker_is_asked(node: ztclient.Node, running_node: RunningNode) -> None:
    for _ in range(3):
        echoes(node.create_connection((HOST, 7), 5))
    node.dial(HOST, 7, nwid=NWID).close()
    assert running_node.node.asked == [(HOST, 7, 0)] * 3 + [(HOST, 7, NWID)]
    assert len(running_node.node.dials) == 1


def test_from_an_event_loop(node: ztclient.Node, running_node: RunningNode) -> None:
    async def main() -> None:
        client = aio.Node(state=running_node.state)
        for _ in range(3):
            with await client.dial(HOST, 7, 5) as connected:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(connected, b"to and fro")
                assert await loop.sock_recv(connected, 100) == b"to and fro"
                assert connected.getpeername() == (HOST, 7) and connected.getsockname() == (IP, 50000)
        with pytest.raises(ConnectionRefusedError, match="port 8 refused"):
            await client.dial(HOST, 8, 5)

    asyncio.run(main())
    assert len(running_node.node.asked) == 3
    assert len(running_node.node.dials) == 3


def test_of_many_dials_at_once_on_an_event_loop_the_node_sees_one(
    running_node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than wait in the worker's queue, too."""
    monkeypatch.setattr(dialling, "HEAD_START", 20)
    monkeypatch.setattr(handoff, "PATIENCE", 20)
    running_node.node.direct_dials = True

    async def main() -> None:
        client = aio.Node(state=running_node.state)
        for connected in await asyncio.gather(*(client.dial(HOST, 7, 20) for _ in range(150))):
            connected.close()

    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        asyncio.run(main())
    assert len(running_node.node.dials) == 1
    assert len(running_node.node.asked) == 149


def test_a_first_dial_that_takes_long_holds_the_others_up_once(running_node: RunningNode) -> None:
    running_node.node.direct_dials = True

    async def main() -> None:
        client = aio.Node(state=running_node.state)
        absent = asyncio.create_task(client.dial("198.51.100.1", 7, 20))
        await asyncio.sleep(0)
        assert client.control.first_dial is not None
        with pytest.raises(ConnectionRefusedError):
            await client.dial(HOST, 8, 5)
        assert not absent.done() and client.control.first_dial.done()
        absent.cancel()

    asyncio.run(main())
    assert len(running_node.node.dials) == 2


@pytest.mark.parametrize(
    ("host", "kind", "reason"),
    [
        (HOST, ConnectionRefusedError, "port 8 refused the connection"),
        ("192.0.2.1", OSError, "no answer to ARP for 192.0.2.1"),
        ("8.8.8.8", OSError, "no joined network has a route"),
        ("198.51.100.1", TimeoutError, r"did not answer within 0\.[0-3]"),
    ],
)
def test_what_nothing_comes_of_the_node_is_asked(
    node: ztclient.Node, running_node: RunningNode, host: str, kind: type[OSError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        node.create_connection((host, 8), handoff.PATIENCE + 0.3)
    assert running_node.node.asked == [(host, 8, 0)]
    assert running_node.node.dials[-1][:2] == (host, 8)


def test_a_worker_that_does_not_answer_takes_no_more_than_the_time_that_there_is(
    node: ztclient.Node, running_node: RunningNode
) -> None:
    async def main() -> None:
        client = aio.Node(state=running_node.state)
        await client.dial(HOST, 7, 5)
        with pytest.raises(TimeoutError, match=r"no answer from 198.51.100.1:8 within 0.1 s"):
            await client.dial("198.51.100.1", 8, 0.1)

    with pytest.raises(TimeoutError, match=r"no answer from 198.51.100.1:8 within 0.1 s"):
        node.create_connection(("198.51.100.1", 8), 0.1)
    asyncio.run(main())
    assert len(running_node.node.asked) == 2 and len(running_node.node.dials) == 2


def test_a_worker_that_is_gone_does_not_end_a_program_that_wants_sigpipe_to() -> None:
    program = """
import signal, socket
from ztclient import handoff
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for ends in ((), (socket.socket(),)):
    channel, far = socket.socketpair()
    far.close()
    assert handoff.tell(b"request", [channel], *ends) is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_a_worker_out_of_reach_is_no_hindrance(node: ztclient.Node, running_node: RunningNode, tmp_path: Path) -> None:
    node.control.direct_path = str(tmp_path / "nobody.sock")
    echoes_by_the_node = node.create_connection((HOST, 7), 5)
    echoes_by_the_node.close()
    assert not running_node.node.asked and len(running_node.node.dials) == 2


def test_where_dials_are_watched_or_workers_several_the_node_is_asked(
    node: ztclient.Node, running_node: RunningNode
) -> None:
    node.control.direct_path = ""
    running_node.node.direct_dials = False
    for _ in range(2):
        node.create_connection((HOST, 7), 5).close()
    assert not running_node.node.asked and not node.control.direct_path


def test_names_and_what_is_no_name_are_the_nodes(node: ztclient.Node, running_node: RunningNode) -> None:
    with pytest.raises(OSError):
        node.create_connection(("nobody.example", 7), 5)
    with pytest.raises(ConnectionRefusedError):
        node.dial(HOST, 8, congestion="a-name-that-is-much-too-long")
    assert not running_node.node.asked
    assert running_node.node.options[-1] == StreamOptions(congestion="a-name-that-is-much-too-long")


@pytest.mark.parametrize("numbers", [{"port": 70000}, {"network_id": "f" * 17}, {"network_id": "-1"}, {"timeout": -5}])
def test_numbers_that_no_request_has_room_for_are_the_nodes(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        handoff.direct_request(Destination(HOST, **({"port": 7} | numbers)))
