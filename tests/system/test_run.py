"""ztclient.run: a node that lives as long as the programs that use it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ztclient
import ztclient.controller
from tests.system.harness import PORT, Overlay, content, until
from ztclient import aio


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def node_pid(state: Path) -> int:
    """The process that serves ``state``."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"\0--state\0{state}\0".encode() in (each / "cmdline").read_bytes():
                return int(each.name)
    raise AssertionError("no node runs there")


def state_of(node: ztclient.Node | aio.Node) -> Path:
    return Path(node.address.removeprefix("unix:")).parent


def test_from_nothing_to_a_response(overlay: Overlay) -> None:
    with ztclient.run(overlay.nwid, planet=overlay.network.planet) as node:
        state = state_of(node)
        connection = ztclient.HTTPConnection(overlay.ip, PORT, timeout=30, node=node)
        connection.request("GET", "/1000")
        assert connection.getresponse().read() == content(1000)
        pid = node_pid(state)
        connection.close()
        address = node.status().address
        controller = ztclient.controller.Controller(overlay.network.controller.node)
        assert controller.member(overlay.nwid, address).ephemeral
    assert not alive(pid) and not state.exists()
    until(lambda: address not in {member.address for member in controller.members(overlay.nwid)})


def test_async(overlay: Overlay) -> None:
    async def main() -> tuple[Path, int]:
        async with ztclient.run(overlay.nwid, planet=overlay.network.planet) as node:
            reader, writer = await aio.open_connection(overlay.ip, PORT, node=node)
            writer.write(b"GET /1000 HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(content(1000))
            writer.close()
            return state_of(node), node_pid(state_of(node))

    state, pid = asyncio.run(main())
    assert not alive(pid) and not state.exists()


PROGRAM = """
import os, sys, ztclient
nwid, planet, state = sys.argv[1:4]
with ztclient.run(nwid, state=state or None, planet=planet) as node:
    print(node.address, node.status().address, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def program(overlay: Overlay, state: str) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """A program that uses a node until its standard input ends; the state directory and the node's address."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, overlay.nwid, str(overlay.network.planet), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout and child.stderr
    with child:
        try:
            line = child.stdout.readline()
            assert line, child.stderr.read()
            path, address = line.split()
            yield child, Path(path.removeprefix("unix:")).parent, address
            if child.poll() is None:
                child.stdin.close()
                assert child.wait(30) == 0
                assert child.stderr.read() == ""  # not a terminal: nothing is said
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_node_ends_with_the_program_however_it_ends(overlay: Overlay, number: signal.Signals) -> None:
    with program(overlay, "") as (child, state, _):
        pid = node_pid(state)
        child.send_signal(number)
        child.wait(30)
        until(lambda: not alive(pid) and not state.exists())


def test_two_programs_share_the_node_of_a_state(overlay: Overlay, tmp_path: Path) -> None:
    with ztclient.run(overlay.nwid, state=tmp_path / "st", planet=overlay.network.planet) as mine:
        pid = node_pid(tmp_path / "st")
        with program(overlay, str(tmp_path / "st")) as (child, _, address):
            assert address == mine.status().address
            # Who started it may go first, also in another order than it came.
            child.kill()
            child.wait(30)
            assert mine.status().online and alive(pid)
    assert not alive(pid)
    # The identity is kept, so that it is authorized once.
    with program(overlay, str(tmp_path / "st")) as (_, _, again):
        assert again == address
        pid = node_pid(tmp_path / "st")
        with ztclient.run(overlay.nwid, state=tmp_path / "st") as shared:
            assert shared.status().address == address
        assert alive(pid)
    assert not alive(pid)


def test_the_node_outlives_the_program_that_started_it(overlay: Overlay, tmp_path: Path) -> None:
    state = tmp_path / "st"
    with program(overlay, str(state)) as (starter, _, _):
        pid = node_pid(state)
        with ztclient.run(overlay.nwid, state=state) as shared:
            starter.kill()
            starter.wait(30)
            assert shared.status().online and shared.ips()
        # It was the last one.
        assert not alive(pid)


def test_a_program_that_is_started_again_at_once(overlay: Overlay, tmp_path: Path) -> None:
    state = tmp_path / "st"
    for _ in range(3):
        with program(overlay, str(state)) as (child, _, _):
            child.kill()
            child.wait(30)


def test_many_start_at_the_same_moment(overlay: Overlay, tmp_path: Path) -> None:
    async def one() -> str:
        async with ztclient.run(overlay.nwid, state=tmp_path / "st", planet=overlay.network.planet) as node:
            return (await node.status()).address

    async def main() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(5)))

    assert len(set(asyncio.run(main()))) == 1


def test_a_node_that_is_served_there_is_shared_and_left_alone(overlay: Overlay) -> None:
    with ztclient.run(overlay.nwid, state=overlay.beta.state) as node:
        assert node.status().address == overlay.beta.node.status().address
    assert overlay.beta.node.status().online


def test_a_forked_child_does_not_keep_the_node(overlay: Overlay) -> None:
    with ztclient.run(overlay.nwid, planet=overlay.network.planet) as node:
        pid = node_pid(state_of(node))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
    assert not alive(pid)
    os.close(writing)
    os.waitpid(child, 0)


def test_who_is_not_authorized_learns_the_address(overlay: Overlay) -> None:
    private = overlay.network.create(name="private", private=True)
    with (
        pytest.raises(ztclient.JoinTimeoutError, match=r"must authorize the address [0-9a-f]{10}; .*state directory"),
        ztclient.run(private, planet=overlay.network.planet, wait=0.5),
    ):
        raise AssertionError("it was not authorized")


def test_a_terminal_shows_what_is_waited_for(overlay: Overlay) -> None:
    private = overlay.network.create(name="private", private=True)
    leader, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, private, str(overlay.network.planet), ""], stderr=terminal, stdin=terminal
    )
    os.close(terminal)
    try:
        shown = b""
        while b"must authorize the address" not in shown:
            shown += os.read(leader, 4096)
    finally:
        child.kill()
        child.wait()
        os.close(leader)


def test_a_node_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ztclient.NodeUnavailableError, match="no-such-planet"),
        ztclient.run("9ad07d01093a69e3", planet=tmp_path / "no-such-planet"),
    ):
        raise AssertionError("it came up")


def test_without_ztnode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(ztclient.NodeUnavailableError, match="pip install ztnode"),
        ztclient.run("9ad07d01093a69e3"),
    ):
        raise AssertionError("it came up")


def test_a_bad_network_id() -> None:
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        ztclient.run("nonsense")


def test_an_ephemeral_node_takes_no_directory_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    serve = [sys.executable, "-m", "ztnode", "serve", "--ephemeral", "--state", str(tmp_path)]
    done = subprocess.run(serve, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "is not empty" in done.stderr
    assert (tmp_path / "precious").read_text() == "mine"
