"""Nodes as processes: moons are found, kept over a restart and left; two nodes with one identity are noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ztclient
from ztnode import worldtool
from ztnode.cli.app import run
from ztnode.embedded import free_port
from ztnode.wire.identity import Identity
from ztnode.wire.world import WorldType

IDENTITIES = [
    Identity.parse_text(entry["secret"])
    for entry in json.loads((Path(__file__).parents[1] / "vectors/vl1/identities.json").read_text())["identities"]
]
"""Made by zerotier-idtool."""


class Nodes:
    """Nodes of one planet, each with an identity of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        root = worldtool.parse_root(IDENTITIES[0].build_text(), [f"127.0.0.1/{self.port}"])
        self.planet = directory / "planet"
        self.planet.write_bytes(worldtool.create_world([root], worldtool.WorldSecret.generate(os.urandom), 1))

    def start(self, name: str, number: int, *arguments: str, port: int = 0) -> ztclient.Node:
        state = self.directory / name
        (state / "zerotier").mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)
        (state / "zerotier/identity.secret").write_text(IDENTITIES[number].build_text(include_secret=True))
        (state / "zerotier/identity.public").write_text(IDENTITIES[number].build_text())
        command = [sys.executable, "-m", "ztnode", "serve", "--unlisted", "--json", "--state", str(state)]
        process = self.processes[name] = subprocess.Popen(
            [*command, "--planet", str(self.planet), "--port", str(port), *arguments], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline()
        return ztclient.Node(state=state)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    for name in [*nodes.processes]:
        nodes.stop(name)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come to pass"
        time.sleep(0.05)


def test_a_moon_is_found_kept_and_left(nodes: Nodes) -> None:
    nodes.start("root", 0, port=nodes.port)  # a root without --root: its planet names it
    moons_root = nodes.start("seed", 1)
    asker = nodes.start("asker", 2)
    secret = worldtool.WorldSecret.generate(os.urandom, IDENTITIES[1].address, WorldType.MOON)
    moon = worldtool.create_world([worldtool.parse_root(IDENTITIES[1].build_text(), [])], secret, 5)
    address = f"{IDENTITIES[1].address:010x}"

    assert asker.orbit(address).seed == address
    assert moons_root.orbit(moon).known
    until(lambda: [each.known for each in asker.moons()] == [True])
    until(lambda: {peer.address: (peer.role, peer.direct) for peer in asker.peers()}.get(address) == ("moon", True))
    nodes.stop("asker")
    asker = nodes.start("asker", 2)
    assert [(each.id, each.known) for each in asker.moons()] == [(f"000000{address}", True)]
    assert asker.orbit("77", address).seed == address
    asker.deorbit(address)
    nodes.stop("asker")
    asker = nodes.start("asker", 2)
    assert [(each.id, each.seed) for each in asker.moons()] == [("0000000000000077", address)]
    with pytest.raises(ztclient.NotFoundError):
        asker.deorbit(address)


def test_two_nodes_with_one_identity_are_noticed(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.start("root", 0, port=nodes.port)
    twins = [nodes.start("one", 1)]
    nodes.stop("one")
    shutil.copytree(nodes.directory / "one", nodes.directory / "other")
    (nodes.directory / "other/zerotier/zerotier-one.port").unlink()
    twins = [nodes.start("one", 1), nodes.start("other", 1)]
    until(lambda: any(twin.status().identity_conflict for twin in twins), 40.0)
    noticed = next(twin for twin in twins if twin.status().identity_conflict)
    assert run(["status", "--address", noticed.address]) == 0
    assert "another host runs with this node's identity" in capsys.readouterr().out
    assert run(["status", "--check", "--address", noticed.address]) == 1
