"""The client on a system that has none of what Windows lacks; played here by taking it away in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake_node import IP, NWID, RunningNode
from tests.unit.peers import echo, peer
from tests.unit.tls_files import TlsFiles
from ztnode.control.tcp_options import TcpOptions

# Others' come first: they know Windows, but these are their builds for Linux.
TAKEN_AWAY = """
import os, select, selectors, socket, sys
if "grpc" in sys.argv: import grpc
if "trio" in sys.argv: import trio
for module in ("fcntl", "grp", "pwd", "pty", "resource", "termios"):
    sys.modules[module] = None
for name in ("fork", "getegid", "geteuid", "getgid", "getuid", "register_at_fork", "O_CLOEXEC", "O_NOFOLLOW"):
    delattr(os, name)
for name in ("AF_UNIX", "CMSG_LEN", "CMSG_SPACE", "SCM_RIGHTS", "recv_fds", "send_fds"):
    delattr(socket, name)
for name in ("epoll", "poll"):
    delattr(select, name)
for name in ("EpollSelector", "PollSelector"):
    delattr(selectors, name)
selectors.DefaultSelector = selectors.SelectSelector
"""


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZTNODE_")}
    return subprocess.run(
        [sys.executable, "-c", TAKEN_AWAY + script, *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_module_is_imported() -> None:
    script = """
import importlib, pkgutil, ztclient
for module in pkgutil.walk_packages(ztclient.__path__, "ztclient."):
    importlib.import_module(module.name)
print("imported")
"""
    result = run(script, "grpc", "trio")
    assert (result.stdout, result.stderr) == ("imported\n", "")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ("", {}),
        ("state='st'", {}),
        ("'unix:/st/ztnode.sock'", {}),
        ("", {"ZTNODE_STATE": "st"}),
        ("", {"ZTNODE_ADDRESS": "/st/ztnode.sock"}),
    ],
)
def test_what_needs_a_unix_socket_says_so_in_one_line(arguments: str, environment: dict[str, str]) -> None:
    script = f"""
import ztclient
try:
    ztclient.Node({arguments})
except ztclient.NodeUnavailableError as error:
    print(error)
"""
    result = run(script, **environment)
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert "needs a Unix socket" in line and "ZTNODE_ADDRESS=tls://" in line


@pytest.fixture
def remote(tmp_path: Path, tls_files: TlsFiles) -> Iterator[RunningNode]:
    """A node that is reached by TLS."""
    with RunningNode(tmp_path, TcpOptions("127.0.0.1:0", tls_files.certificate, tls_files.key)) as running:
        yield running


def test_a_node_elsewhere_is_reached_by_tls(remote: RunningNode, tls_files: TlsFiles) -> None:
    script = f"""
import threading, ztclient
node = ztclient.Node()
print(*(network.nwid for network in node.networks()))
with node.dial("10.121.15.99", 80, 10) as connected:
    connected.sendall(b"hello")
    connected.shutdown(socket.SHUT_WR)
    print(connected.makefile("rb").read())
with node.listen("{IP}", 8080) as listener:
    listener.settimeout(10)
    dialled = node.dial("{IP}", 8080, 10)
    accepted, _ = listener.accept()
    accepted.sendall(b"served")
    print(dialled.recv(100))
"""
    with peer(echo) as real:
        remote.serve("10.121.15.99", 80, real)
        result = run(
            script,
            "grpc",
            ZTNODE_ADDRESS=remote.addresses[1],
            ZTNODE_TOKEN_FILE=str(remote.state / "control.token"),
            ZTNODE_CA_FILE=str(tls_files.certificate),
        )
    assert (result.stdout, result.stderr) == (f"{NWID:016x}\nb'hello'\nb'served'\n", "")
