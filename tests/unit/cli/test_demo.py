"""``ztnode demo`` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import identities
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork

COMMAND = [sys.executable, "-m", "ztnode", "demo"]
WITH_IDENTITIES = """
import functools, sys
from tests.system.harness import identities
from ztnode import cli, demo
demo.EmbeddedNetwork = functools.partial(demo.EmbeddedNetwork, identities=identities())
sys.argv = ["ztnode", "demo"]
cli.main()
"""
IN_A_HURRY = [sys.executable, "-c", WITH_IDENTITIES]
"""The same but for the seconds that it takes to make identities."""
ROOT = Path(__file__).parents[3]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for temporary files whose name is short enough for Unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp") as directory:
        yield Path(directory)


def started_by(demo: subprocess.Popen[bytes], directory: Path) -> list[int]:
    """Process ids of what the demo with this directory for temporary files has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if b"TMPDIR=" + os.fsencode(directory) in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue  # it ended while we looked
    return [pid for pid in found if pid != demo.pid]


def nothing_runs(demo: subprocess.Popen[bytes], directory: Path) -> None:
    """A worker whose node ended before it had loaded notices it then."""
    deadline = time.monotonic() + 30
    while left := started_by(demo, directory):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_the_demo_fetches_a_page_and_ends(scratch: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(
        [*COMMAND, "--json"], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    fetched = next(step for step in steps if step["what"] == "fetch the page")
    assert fetched["result"].startswith("200 OK")
    assert "the SHA-256 agrees" in next(step["result"] for step in steps if step["what"].startswith("fetch 16 MiB"))
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_leaves_no_process(scratch: Path, number: signal.Signals, code: int) -> None:
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        IN_A_HURRY, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the root and controller run
        assert started_by(process, scratch)
        process.send_signal(number)
        assert process.wait(20) == code
    nothing_runs(process, scratch)
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("steps", [1, 3], ids=["one node starts", "all nodes run"])
def test_a_demo_that_is_killed_leaves_no_process(scratch: Path, steps: int) -> None:
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(IN_A_HURRY, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(steps):
            process.stdout.readline()
        assert len(started_by(process, scratch)) >= 2 * steps  # each node with its worker
        process.kill()
    nothing_runs(process, scratch)


def test_what_interrupts_the_start_of_the_root_leaves_no_process_that_would_make_its_directory_again(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[EmbeddedMember] = []

    def interrupted(member: EmbeddedMember) -> None:
        started.append(member)
        sys.exit(130)

    monkeypatch.setattr(EmbeddedMember, "wait_online", interrupted)
    with pytest.raises(SystemExit):
        EmbeddedNetwork(scratch, identities=identities())
    [root] = started
    assert root.process.returncode is not None
