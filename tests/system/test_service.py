"""A node under a service manager, in a container, behind a log collector: what these see and what they may do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.system.harness import Overlay, until
from tests.system.test_state import VECTORS, command, identity, none_left_behind, planet, run, start, state, wait_ready
from tests.unit.tls_files import make
from ztclient.v1 import node_pb2, node_pb2_grpc
from ztnode import worldtool
from ztnode.embedded import free_port
from ztnode.wire.identity import Identity

__all__ = ["identity", "none_left_behind", "planet", "state"]  # fixtures


def ztnode(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "ztnode", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)


def test_readiness_is_more_than_being_alive(overlay: Overlay, state: Path, tmp_path: Path) -> None:
    """A node without a root answers, and says that it cannot be used; one with a root says which network can."""
    stranger = Identity.parse_text(json.loads((VECTORS / "identities.json").read_text())["identities"][1]["secret"])
    silent = worldtool.parse_root(stranger.build_text(), ["127.0.0.1/1"])
    secret = worldtool.WorldSecret.generate(os.urandom)
    (tmp_path / "silent").write_bytes(worldtool.create_world([silent], secret, 1))
    process = start(state, "--planet", str(tmp_path / "silent"))
    wait_ready(process, state)
    checked = ztnode("status", "--check", "--state", str(state))
    assert checked.returncode == 1 and "offline" in checked.stderr and not checked.stdout
    good = str(overlay.beta.state)
    assert ztnode("status", "--check", "--state", good, "--network", overlay.nwid).returncode == 0
    unknown = ztnode("status", "--check", "--state", good, "--network", "8056c2e21c0fffff")
    assert unknown.returncode == 1 and "not joined" in unknown.stderr
    with grpc.insecure_channel(overlay.beta.node.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its type stub has no methods

        def status(name: str) -> str:
            try:
                found = health.Check(health_pb2.HealthCheckRequest(service=name)).status
            except grpc.RpcError as error:
                return str(error.code().name)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found))

        until(lambda: status("online") == "SERVING", what="never online")
        until(lambda: status("identity") == "SERVING", what="its identity is not its own")
        until(lambda: status(f"network/{overlay.nwid}") == "SERVING", what="its network is never ready")
        assert status("network/8056c2e21c0fffff") == "NOT_FOUND"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_service_manager_is_told(state: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        process = start(state, wrap=["env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", "WATCHDOG_USEC=400000"])
        said = manager.recv(4096).decode()
        assert said.startswith("READY=1\nSTATUS=control at unix:")
        assert {manager.recv(4096).decode() for _ in range(3)} == {"WATCHDOG=1"}
        process.send_signal(signal.SIGTERM)
        last = ""
        while last != "STOPPING=1":
            last = manager.recv(4096).decode()
        assert process.wait(10) == 0


def test_a_signal_to_the_whole_group_is_no_death_of_a_worker(state: Path) -> None:
    process = start(state, wrap=["setsid", "--wait"])
    node = wait_ready(process, state)
    worker = node.status().workers[0].pid
    os.killpg(os.getpgid(worker), signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert "stopping" in said and "ended" not in said and "starts" not in said
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize("listener", ["--listen", "--api"])
def test_tls_files_are_read_again(state: Path, tmp_path: Path, listener: str) -> None:
    files = make(tmp_path, "old", "127.0.0.1")
    port = free_port()
    process = start(
        state, listener, f"127.0.0.1:{port}", "--tls-cert", str(files.certificate), "--tls-key", str(files.key)
    )
    wait_ready(process, state)
    old = ssl.get_server_certificate(("127.0.0.1", port))
    assert old.strip() == files.certificate.read_text().strip()
    fresh = make(_directory(tmp_path / "new"), "new", "127.0.0.1")
    fresh.certificate.replace(files.certificate)
    process.send_signal(signal.SIGHUP)  # the key does not fit yet: the old pair stays
    fresh.key.replace(files.key)
    process.send_signal(signal.SIGHUP)
    new = files.certificate.read_text().strip()
    until(
        lambda: ssl.get_server_certificate(("127.0.0.1", port)).strip() == new,
        what="the old certificate is still shown",
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_the_configuration_is_read_again(state: Path, tmp_path: Path) -> None:
    config = tmp_path / "ztnode.toml"
    config.write_text('workers = 1\nlog = ["ztnode.node=error"]\n')
    process = start(state, "--config", str(config), "--log-format", "json")
    node = wait_ready(process, state)
    config.write_text("workers = 'many'\n")
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    refused = next(line for line in process.stderr if "not read again" in line)
    assert "workers" in refused
    config.write_text('workers = 2\njoin = ["8056c2e21c000001"]\nlog-level = "warning"\n')
    process.send_signal(signal.SIGHUP)
    until(lambda: "8056c2e21c000001" in [network.nwid for network in node.networks()], what="it is not joined")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    records = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    told = [record["message"] for record in records if record["level"] in ("error", "warning")]
    assert len(told) == 1 and told[0].endswith("the next start only: workers"), said
    assert "stopping" not in said, "warnings and errors alone by now"


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_missing_standard_descriptors(state: Path, closed: tuple[int, ...]) -> None:
    closing = " ".join(f"{number}<&-" for number in closed)
    process = run(["sh", "-c", f'exec "$@" {closing}', "sh", *command(state)])
    wait_ready(process, state)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_log_that_nobody_reads_any_more_ends_nothing(state: Path) -> None:
    process = start(state, "--log-level", "debug")
    node = wait_ready(process, state)
    assert process.stderr is not None and process.stdout is not None
    process.stderr.close()
    process.stdout.close()
    node.join("8056c2e21c000001")
    os.kill(node.status().workers[0].pid, signal.SIGKILL)  # logged
    until(lambda: node.status().workers[0].restarts == 1, what="the worker does not come back")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_log_formats(state: Path) -> None:
    process = start(
        state, "--log-format", "json", "--log", "ztnode.node=error", "--log", "ztnode.control.call_log=debug"
    )
    node = wait_ready(process, state)
    with grpc.insecure_channel(node.address) as channel:
        leave: Any = node_pb2_grpc.NodeServiceStub(channel).Leave
        for given in ("check-17", "two words", "x" * 65):
            with pytest.raises(grpc.RpcError) as failed:
                leave(node_pb2.LeaveRequest(network_id="8056c2e21c000001"), metadata=[("x-request-id", given)])
            trailing: Any = failed.value
            answered = dict(trailing.trailing_metadata())["x-request-id"]
            assert (answered == given) == (given == "check-17"), "what cannot stand in a log is replaced"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    records = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= records[-1].keys()
    assert records[-1]["message"] == "stopping" and "request" not in records[-1]
    assert any(record.get("request") == "check-17" and record["message"].endswith("/Leave") for record in records)
    assert any(record.get("request") == answered for record in records)
    assert not [record for record in records if record["logger"].startswith("ztnode.node")]
    wrong = ztnode("serve", "--state", str(state), "--log", "ztnode.node=loud")
    assert wrong.returncode == 1 and "no level of a logger" in wrong.stderr


def test_a_mistyped_store_makes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "st"
    for option, value in (("--store", "sqlte:st.db"), ("--planet", "vualt:planet"), ("--transport", "utp")):
        done = ztnode("serve", "--state", str(state), "--store", "memory:", option, value)
        assert done.returncode == 1 and "no plugin offers the" in done.stderr, done.stderr
        assert not list(tmp_path.rglob("identity*")) and not list(tmp_path.rglob("*lte*"))


def test_a_state_directory_that_is_removed_is_noticed(state: Path) -> None:
    program = (
        "import sys; from ztnode.node import host_watch; host_watch.PERIOD = 0.2; from ztnode.cli import main; main()"
    )
    process = run([sys.executable, "-c", program, *command(state)[3:]])
    wait_ready(process, state)
    shutil.rmtree(state)
    until(lambda: not state.exists(), what="it is still there")
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert said.count("was removed or replaced") == 1 and "Traceback" not in said


def namespaces() -> str:
    """Why no process can be process 1 here, or nothing."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "needs root, unshare and nsenter"
    works = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False, capture_output=True)
    return "" if works.returncode == 0 else "this host allows no namespace of processes"


@pytest.mark.skipif(bool(namespaces()), reason=namespaces() or "-")
def test_process_1_of_a_container(state: Path) -> None:
    process = start(state, wrap=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
    wait_ready(process, state)
    (first,) = children(process.pid)
    inside = ["nsenter", "--target", str(first), "--pid", "--mount"]
    # A process whose parent ends before it: process 1 inherits it.
    subprocess.run([*inside, "sh", "-c", "(sleep 0.3; exit 3) & exit 0"], check=True, timeout=60)
    time.sleep(1.0)
    seen = subprocess.run([*inside, "ps", "-eo", "stat,comm"], capture_output=True, text=True, timeout=60, check=True)
    assert not [line for line in seen.stdout.splitlines() if line.startswith("Z")], seen.stdout
    os.kill(first, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopping" in said and "Traceback" not in said


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("kind", ["of somebody else", "not there"])
def test_a_runtime_directory_that_is_no_use_is_a_warning(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    runtime = Path("/proc/nothing/there")
    if kind == "of somebody else":
        if os.geteuid():
            pytest.skip("needs root, to give a directory away")
        runtime = tmp_path / "run"
        (runtime / "ztnode").mkdir(mode=0o700, parents=True)
        os.chown(runtime / "ztnode", 12345, 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    process = run([argument for argument in command(state) if argument != "--unlisted"])
    wait_ready(process, state)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said.count("not listed for clients") == 1 and "Traceback" not in said, said


READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
while read -r _ _ _ _ where _; do
    case "$where" in /proc*|/sys*|/dev|/dev/pts|"$1") ;; *) mount -o remount,bind,ro "$where" ;; esac
done < /proc/self/mountinfo
! touch "$1/../elsewhere" /tmp/elsewhere 2> /dev/null
shift
exec "$@"
"""


@pytest.mark.skipif(bool(namespaces()), reason=namespaces() or "-")
def test_nothing_but_the_state_directory_can_be_written_to(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_RUNTIME_DIR", "HOME", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    whole = [argument for argument in command(state) if argument != "--unlisted"]
    process = run(["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(state), *whole])
    wait_ready(process, state)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said.count("not listed for clients") == 1 and "Traceback" not in said, said


WITHOUT_SOCKETS = """
import errno, os, socket, sys
bind = socket.socket.bind
def refuse(self, address):
    if isinstance(address, str) and address.startswith({state!r}):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    bind(self, address)
socket.socket.bind = refuse
from ztnode.cli import main
main()
"""


def test_a_state_directory_that_cannot_hold_sockets(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 9p, SMB and shared folders of virtual machines are; stood for by a bind that is refused there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(_directory(tmp_path / "run")))
    whole = [sys.executable, "-c", WITHOUT_SOCKETS.format(state=os.path.realpath(state)), *command(state)[3:]]
    process = run(whole)
    until(lambda: list((tmp_path / "run").rglob("*.sock")), what="there is no socket")
    node = wait_ready(process, state)
    assert str(tmp_path / "run/ztnode") in node.address
    assert not list(state.glob("*.sock"))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said.count("cannot hold Unix sockets") == 1 and "Traceback" not in said, said
    assert not list((tmp_path / "run").rglob("*.sock"))
