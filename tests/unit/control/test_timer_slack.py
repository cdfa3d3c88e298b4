"""gRPC's threads, which look again and again for work, do so rarely."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ztnode.control.control_server import TIMER_SLACK
from ztnode.control.timer_slack import lazy_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timer slack is Linux's")

PR_GET_TIMERSLACK = 30

SERVER = """
import asyncio, pathlib, sys
from ztnode.control.control_server import ControlServer

async def show():
    server = ControlServer([], state=pathlib.Path(sys.argv[1]))
    await server.start()
    for task in pathlib.Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip().replace(" ", "_")
        print(name, pathlib.Path("/proc", task.name, "timerslack_ns").read_text().strip(), flush=True)
    await server.stop(0)

asyncio.run(show())
"""


def slack() -> int:
    return int(ctypes.CDLL(None).prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0))


def slack_of_a_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(slack()))
    thread.start()
    thread.join()
    return found[0]


def test_threads_started_inside_have_it_and_others_do_not() -> None:
    before = slack()
    with lazy_threads(2.0):
        assert slack_of_a_thread() == 2_000_000_000
    assert slack() == slack_of_a_thread() == before


def test_a_servers_threads_have_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    if "PermissionError" in done.stderr:
        pytest.skip("only a privileged process may ask for the slack of a thread")
    assert done.returncode == 0, done.stderr
    slacks = [line.split() for line in done.stdout.splitlines()]
    assert {value for name, value in slacks if name == "event_engine"} == {str(int(TIMER_SLACK * 1e9))}, slacks
    assert any(int(value) < 1_000_000 for _name, value in slacks), "the event loop is on time"
