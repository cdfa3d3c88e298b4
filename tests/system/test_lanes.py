"""Busy peers have lanes (``worker/lane.py``): what programs, operators and rules see is what they saw without."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ztclient
import ztclient.controller
from tests.system.harness import PORT, Overlay, content, ipv4, overlay_in, until
from ztnode.embedded import EmbeddedMember
from ztnode.rules_language import compile_rules

SIZE = 8 << 20
SILENT = 2.0
"""Seconds without a byte after which a transfer stands still."""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    """A network of this module's own, whose workers are killed and whose rules change."""
    with overlay_in(tmp_path_factory.mktemp("lanes")) as made:
        yield made


def lanes(member: EmbeddedMember) -> dict[str, int]:
    """What the node counted of its lanes."""
    counters = member.node.status().counters
    return {name: counters[f"lanes.{name}"] for name in ("given", "taken_back", "frames_to_worker")}


def fetch(overlay: Overlay, member: EmbeddedMember, size: int = SIZE) -> bytes:
    connection = ztclient.HTTPConnection(overlay.ip, PORT, timeout=60, node=member.node)
    connection.request("GET", f"/{size}")
    body = connection.getresponse().read()
    connection.close()
    return body


def until_a_lane(overlay: Overlay, more_than: int = 0) -> dict[str, int]:
    """Transfers until beta has a lane, and was given more than so many; what was counted then. The first frames may go
    by a root, and a lane that learns of another MTU is given anew."""

    def has_lane() -> bool:
        assert fetch(overlay, overlay.beta) == content(SIZE)
        found = lanes(overlay.beta)
        return found["given"] > max(found["taken_back"], more_than)

    until(has_lane)
    return lanes(overlay.beta)


def asked(overlay: Overlay, size: int) -> socket.socket:
    """A connection on which so many bytes were asked for, and 1 MB has come."""
    sock = overlay.beta.node.create_connection((overlay.ip, PORT), 30)
    sock.sendall(f"GET /{size} HTTP/1.1\r\nHost: alpha\r\n\r\n".encode())
    received = 0
    while received < 1 << 20:
        received += len(sock.recv(1 << 16))
    return sock


def test_a_transfer_by_lanes_is_whole_and_counted(overlay: Overlay) -> None:
    fetched = 0

    def carried() -> bool:
        """As much by lanes as one transfer is: the first ones may go by a root, and before there are lanes."""
        nonlocal fetched
        assert fetch(overlay, overlay.beta) == content(SIZE)
        fetched += SIZE
        return overlay.beta.node.status().counters["lanes.bytes_to_worker"] > SIZE

    until(carried)

    def counted() -> bool:
        counters = overlay.beta.node.status().counters
        return counters["lanes.bytes_to_worker"] + counters["worker.bytes_to_worker"] > fetched

    until(counted)  # a lane's last tenth of a second is told when it is over
    for member in (overlay.alpha, overlay.beta):
        assert lanes(member)["given"] >= 1
        counters = member.node.status().counters
        assert not counters.get("vl1.drop_forged")
        assert not counters.get("worker.to_worker_dropped")


def test_rules_that_change_hold_for_what_has_a_lane(overlay: Overlay) -> None:
    """A connection in the middle of a transfer stands still when the network forbids it, and goes on when it may."""
    controller = ztclient.controller.Controller(overlay.network.controller.node)

    def enforce(source: str) -> None:
        rules = compile_rules(source).rules
        controller.update_network(overlay.nwid, rules=rules)
        for member in (overlay.alpha, overlay.beta):
            until(lambda member=member: len(member.node.rules(overlay.nwid).rules) == len(rules))  # type: ignore[misc]

    size = 512 << 20
    allowed = "accept;"
    until_a_lane(overlay)
    with asked(overlay, size) as sock:
        enforce("drop ipprotocol tcp; accept;")
        sock.settimeout(SILENT)
        received = 0
        with pytest.raises(TimeoutError):
            while received < size:
                received += len(sock.recv(1 << 18))
        assert received < size
        enforce(allowed)
        sock.settimeout(60)
        assert sock.recv(1 << 18)
    assert fetch(overlay, overlay.beta) == content(SIZE)


def test_a_capture_sees_the_frames_of_a_lane(overlay: Overlay, tmp_path: Path) -> None:
    until_a_lane(overlay)
    capture = tmp_path / "wire.pcapng"
    command = [sys.executable, "-m", "ztnode", "capture", overlay.nwid, str(capture)]
    process = subprocess.Popen([*command, "--state", str(overlay.beta.state)], stderr=subprocess.PIPE)
    try:
        until(lambda: capture.exists() and capture.stat().st_size)
        before = lanes(overlay.beta)
        assert before["given"] == before["taken_back"]
        fetch(overlay, overlay.beta)
        assert lanes(overlay.beta)["given"] == before["given"]
        until(lambda: capture.stat().st_size > SIZE)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    until_a_lane(overlay, before["given"])


def test_a_worker_that_dies_takes_its_lanes_along(overlay: Overlay) -> None:
    before = until_a_lane(overlay)
    (worker,) = overlay.beta.node.status().workers
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: lanes(overlay.beta)["taken_back"] > before["taken_back"])
    until(lambda: overlay.beta.node.status().workers[0].pid not in (0, worker.pid))
    until_a_lane(overlay, before["given"])


def test_a_network_that_is_left_and_joined_again_has_lanes_again(overlay: Overlay) -> None:
    before = until_a_lane(overlay)
    overlay.beta.node.leave(overlay.nwid)
    until(lambda: lanes(overlay.beta)["taken_back"] > before["taken_back"])
    ipv4(overlay.beta, overlay.nwid)
    until_a_lane(overlay, before["given"])


@pytest.mark.parametrize("option", ["--no-lanes", "--workers=2"])
def test_who_wants_none_has_none(overlay: Overlay, option: str) -> None:
    member = overlay.network.add(f"member{option.strip('-').replace('=', '')}", option)
    member.wait_online()
    ipv4(member, overlay.nwid)
    assert fetch(overlay, member) == content(SIZE)
    assert not member.node.status().counters.get("lanes.given")
    member.stop()
