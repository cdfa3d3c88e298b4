"""ztnode exec for programs that are not Python, over a node whose overlay is loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.conftest import HOST, NAME
from tests.unit.fake_node import RunningNode
from tests.unit.tls_files import TlsFiles
from ztnode.cli.app import run
from ztnode.cli.exec_command import is_python


def execute(*command: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "ztnode", "exec", "--", *command]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_and_wget_reach_the_overlay_and_the_rest_as_before(web: TlsFiles, running_node: RunningNode) -> None:
    curl = ["curl", "-sS", "--max-time", "20", "--cacert", str(web.certificate)]
    for url in (f"http://{HOST}/version", f"http://{NAME}/version"):
        assert execute(*curl, "--http1.1", url).stdout == "1.1"
    assert execute(*curl, f"https://{NAME}/version").stdout in ("1.1", "2")
    if shutil.which("wget") is not None:
        assert execute("wget", "-qO-", f"http://{NAME}/version").stdout == "1.1"
    real = running_node.node.overlay[HOST, 80]
    before = len(running_node.node.dials)
    assert execute(*curl, f"http://127.0.0.1:{real[1]}/version").stdout == "1.1"
    assert execute(*curl, "--http1.1", "--noproxy", "", f"http://localhost:{real[1]}/version").stdout == "1.1"
    assert all(host == "127.0.0.1" for host, *_ in running_node.node.dials[before:])  # what is refused there


def test_it_is_as_if_the_command_had_been_run(running_node: RunningNode) -> None:
    assert execute("sh", "-c", "echo $http_proxy").stdout.startswith("http://ztnode:")
    assert execute("sh", "-c", "exit 7").returncode == 7
    assert execute("sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL
    assert execute("cat", "/nonexistent").stderr.count("\n") == 1
    missing = execute("no-such-program")
    assert missing.returncode == 1
    assert missing.stderr == "ztnode: cannot run no-such-program: No such file or directory\n"


def test_signals_are_passed_on(running_node: RunningNode) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; for i in $(seq 200); do sleep 0.05; done"
    command = [sys.executable, "-m", "ztnode", "exec", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "caught\n"
    assert process.returncode == 3


def test_ctrl_c_just_before_the_command_is_there_is_the_commands(
    running_node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec

    async def late(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.05)  # the loop takes the signal meanwhile, or else with the next one that it takes
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", late)
    assert run(["exec", "--", "sleep", "60"]) == 128 + signal.SIGINT


def test_the_proxy_is_for_that_command_alone(running_node: RunningNode) -> None:
    other = f"curl -s -o /dev/null -w '%{{http_code}}' -x ${{http_proxy#*@}} http://{HOST}:9/"
    assert execute("sh", "-c", other).stdout == "407"  # without the password


def test_what_is_python(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env python3\n")
    script.chmod(0o700)
    assert is_python(sys.executable) and is_python(str(script)) and not is_python("sh") and not is_python("none")
    assert os.access(script, os.X_OK)
