"""A node with two stack workers is one host to all others."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import ztclient
from tests.system.harness import PORT, Handler, Overlay, content, ipv4
from ztnode.embedded import EmbeddedMember

COUNT = 40
SIZE = 100_000


@pytest.fixture(scope="module")
def member(overlay: Overlay) -> Iterator[tuple[EmbeddedMember, str]]:
    """A member with two workers that serves pages, and its address."""
    gamma = overlay.network.add("gamma", "--workers", "2")
    gamma.wait_online()
    ip = ipv4(gamma, overlay.nwid)
    with ztclient.HTTPServer((ip, PORT), Handler, node=gamma.node) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield gamma, ip
        server.shutdown()
        thread.join()


def fetch(node: ztclient.Node, ip: str) -> bytes:
    connection = ztclient.HTTPConnection(ip, PORT, timeout=20, node=node)
    connection.request("GET", f"/{SIZE}")
    body = connection.getresponse().read()
    connection.close()
    return body


def fetch_many(node: ztclient.Node, ip: str) -> None:
    with ThreadPoolExecutor(COUNT) as pool:
        assert all(body == content(SIZE) for body in pool.map(lambda _: fetch(node, ip), range(COUNT)))


def handoffs(member: EmbeddedMember) -> list[int]:
    return [worker.counters.get("handoffs", 0) for worker in member.node.status().workers]


def test_accepted_and_dialled_connections_are_shared_out(overlay: Overlay, member: tuple[EmbeddedMember, str]) -> None:
    gamma, ip = member
    fetch_many(overlay.beta.node, ip)
    fetch_many(gamma.node, overlay.ip)
    deadline = time.monotonic() + 5
    while sum(handoffs(gamma)) < 2 * COUNT:  # workers report once a second
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert min(handoffs(gamma)) > COUNT // 2, "half of what it dialled, and some of what it accepted"


def test_it_goes_on_without_one_of_them(overlay: Overlay, member: tuple[EmbeddedMember, str]) -> None:
    gamma, ip = member
    fetch(overlay.beta.node, ip)
    before = gamma.node.status().workers
    os.kill(before[0].pid, signal.SIGKILL)
    fetch_many(overlay.beta.node, ip)
    after = gamma.node.status().workers
    assert (after[0].restarts, after[1].restarts) == (1, 0)
    assert after[1].pid == before[1].pid


def test_a_closed_port_refuses_from_either(overlay: Overlay, member: tuple[EmbeddedMember, str]) -> None:
    gamma, ip = member
    for _ in range(4):
        with pytest.raises(ConnectionRefusedError):
            overlay.beta.node.create_connection((ip, 1), 10)
        with pytest.raises(ConnectionRefusedError):
            gamma.node.create_connection((overlay.ip, 1), 10)
