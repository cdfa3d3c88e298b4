"""top, doctor and what shells complete."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pty
import subprocess
import sys

import pytest

import ztclient
from tests.unit.fake_node import NWID, RunningNode
from ztnode.cli import top_command
from ztnode.cli.app import run
from ztnode.cli.doctor_command import OK, PROBLEM, WARNING, Finding, diagnose
from ztnode.cli.table import display_width

NETWORK = f"{NWID:016x}"
PATH = ztclient.Path("198.51.100.1:9993", True, 1.0, 2.0)
ROOT = ztclient.Peer("778cde7190", "planet", "1.14.1", 20.0, True, (PATH,))
LEAF = dataclasses.replace(ROOT, address="9ad07d0109", role="leaf")
STATUS = ztclient.Status(
    "10df0a1b9d", "", True, "0.2.0", 60.0, 1, 1_700_000_000_000, ("0.0.0.0:9993",), ("192.0.2.1:9993",), (), {}
)
JOINED = ztclient.Network(
    NETWORK, "home", "ok", "", "", 2800, ("10.121.15.1/24",), (), "", (), True, True, 1, "", False, clock_offset=0.2
)
NOW = 1_800_000_000.0


def found(
    status: ztclient.Status = STATUS,
    networks: tuple[ztclient.Network, ...] = (JOINED,),
    peers: tuple[ztclient.Peer, ...] = (ROOT, LEAF),
    wall: float = NOW,
    nwid: str | None = None,
) -> dict[str, Finding]:
    return {each.check: each for each in diagnose(status, networks, peers, wall=wall, nwid=nwid)}


def test_a_healthy_node_has_nothing_to_be_done() -> None:
    assert {each.level for each in found().values()} == {OK}
    assert not any(each.advice for each in found().values())


@pytest.mark.parametrize(
    ("check", "level", "said", "case"),
    [
        ("roots", PROBLEM, "UDP seems to be blocked", {"status": {"online": False}, "root": None}),
        (
            "roots",
            PROBLEM,
            "by tcp://192.0.2.1:443",
            {"status": {"online": False, "transport": "tcp://192.0.2.1:443"}, "root": None},
        ),
        ("roots", PROBLEM, "none has answered for 300 s", {"status": {"online": False}, "root": 300.0}),
        ("UDP", WARNING, "symmetric NAT", {"status": {"surface_addresses": ("192.0.2.1:1", "192.0.2.1:2")}}),
        ("UDP", WARNING, "by relay", {"leaf": False}),
        ("UDP", WARNING, "packets go by tcp://192.0.2.1:443", {"status": {"transport": "tcp://192.0.2.1:443"}}),
        ("identity", PROBLEM, "another host", {"status": {"identity_conflict": "another host has it"}}),
        ("workers", WARNING, "replaced 3 times", {"status": {"workers": (ztclient.Worker(0, 9, 0, 3, {}),)}}),
        ("clock", PROBLEM, "before the planet", {"wall": 1_600_000_000.0}),
        ("clock", PROBLEM, "3 hours behind", {"network": {"clock_offset": 10800.0}}),
        ("clock", PROBLEM, "10 minutes ahead of", {"network": {"clock_offset": -600.0}}),
        (f"network {NETWORK}", WARNING, "has not answered", {"network": {"from_cache": True}}),
        (f"network {NETWORK}", WARNING, "no address", {"network": {"addresses": ()}}),
        (f"network {NETWORK}", PROBLEM, "not let in", {"network": {"state": "waiting_for_authorization"}}),
        ("networks", WARNING, "no network is joined", {"networks": ()}),
        (f"network {NETWORK}", PROBLEM, "not joined", {"networks": (), "nwid": NETWORK}),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(check: str, level: str, said: str, case: dict[str, object]) -> None:
    case = dict(case)
    changes = case.pop("status", {})
    status = dataclasses.replace(STATUS, **changes)  # type: ignore[arg-type]
    network = dataclasses.replace(JOINED, detail="not let in", **case.pop("network", {}))  # type: ignore[arg-type]
    root = dataclasses.replace(ROOT, paths=(dataclasses.replace(PATH, last_receive_age=case.pop("root", 2.0)),))  # type: ignore[arg-type]
    leaf = dataclasses.replace(LEAF, direct=bool(case.pop("leaf", True)))
    finding = found(status, **{"networks": (network,), "peers": (root, leaf), **case})[check]  # type: ignore[arg-type]
    assert finding.level == level and said in finding.detail and finding.advice


def test_a_root_that_knows_no_other_is_well() -> None:
    assert found(peers=(LEAF,))["roots"].level == OK
    assert found(dataclasses.replace(STATUS, online=False), peers=(LEAF,))["roots"].level == WARNING


def test_one_controller_with_a_wrong_clock_is_not_ours() -> None:
    other = dataclasses.replace(JOINED, nwid="8056c2e21c000001", clock_offset=7200.0)
    assert found(networks=(JOINED, other))["clock"].level == WARNING


def test_doctor(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor"])
    out = capsys.readouterr().out
    assert f"network {NETWORK}" in out and code == ("PROBLEM" in out)
    assert run(["doctor", "8056c2e21c000001"]) == 1
    assert "ztnode join 8056c2e21c000001" in capsys.readouterr().out
    run(["doctor", "--json"])
    assert {"check", "level", "detail", "advice"} == set(json.loads(capsys.readouterr().out)[0])


def test_top_prints_once_into_a_pipe_and_fits(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "--interval", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(NETWORK) for line in lines) and "and 1,450 more" in lines
    assert max(map(display_width, lines)) <= 80 and "\x1b" not in "".join(lines)
    assert run(["top", "--json", "--interval", "0.01", "--count", "2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["rates"] is None and second["rates"].keys() == {"bytes_in", "bytes_out", "frames_in", "frames_out"}


def test_rates_are_of_the_time_between() -> None:
    def at(frames: int) -> ztclient.Status:
        counters = {"worker.bytes_to_worker": frames * 112, "worker.frames_to_worker": frames}
        counters |= {"lanes.bytes_from_worker": frames * 50, "lanes.frames_from_worker": frames * 2}
        return dataclasses.replace(STATUS, counters=counters)

    rates = top_command._rates(at(100), at(300), 2.0)
    assert (rates.frames_in, rates.bytes_in) == (100, 10_000)
    assert (rates.frames_out, rates.bytes_out) == (200, 5_000)


def test_top_on_a_terminal_leaves_it_as_it_was(running_node: RunningNode) -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-m", "ztnode", "top", "--interval", "0.05"])
    shown = b""
    while shown.count(b"\x1b[H") < 2:
        shown += os.read(terminal, 65536)
    os.write(terminal, b"\x03")
    try:
        while data := os.read(terminal, 65536):
            shown += data
    except OSError:
        pass  # the terminal went with the process
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert shown.startswith(b"\x1b[?1049h") and shown.rstrip().endswith(b"\x1b[?25h\x1b[?1049l")


def test_top_where_no_cursor_moves_prints_once(running_node: RunningNode) -> None:
    pid, terminal = pty.fork()
    if not pid:
        command = [sys.executable, "-m", "ztnode", "top", "--interval", "0.05"]
        os.execve(sys.executable, command, {**os.environ, "TERM": "dumb"})
    shown = b""
    with contextlib.suppress(OSError):  # the terminal goes with the process
        while data := os.read(terminal, 65536):
            shown += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert shown and b"\x1b" not in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_network_ids(running_node: RunningNode, shell: str) -> None:
    def complete(words: str, **more: str) -> list[str]:
        said = {"COMP_WORDS": words, "COMP_CWORD": "2" if shell != "fish" else NETWORK[:3], **more}
        environment = {**os.environ, "_ZTNODE_COMPLETE": f"{shell}_complete", **said}
        command = [sys.executable, "-c", "import sys; from ztnode.cli import app; sys.exit(app.run([]))"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return done.stdout.split()

    assert NETWORK in " ".join(complete(f"ztnode leave {NETWORK[:3]}"))
    absent = complete(f"ztnode leave {NETWORK[:3]}", ZTNODE_ADDRESS="unix:/nowhere")
    assert NETWORK not in " ".join(absent)
