"""``ztnode nc`` as a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.unit.fake_node import IP, RunningNode
from tests.unit.peers import echo, peer, read_to_end, reset_after_some

HOST = "10.121.15.99"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ztnode", "nc", *arguments]


def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), input=data, capture_output=True, timeout=60, check=False)


def test_input_goes_out_and_what_comes_is_printed(running_node: RunningNode) -> None:
    data = os.urandom(1_000_000)
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        done = run(HOST, "7", data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_the_peers_end_is_the_end_though_input_stays_open(running_node: RunningNode) -> None:
    with peer(lambda connected: connected.sendall(b"bye\n")) as real:
        running_node.serve(HOST, 7, real)
        with subprocess.Popen(command("-v", HOST, "7"), stdin=subprocess.PIPE, stdout=-1, stderr=-1) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read() == b"bye\n"
            assert process.wait(20) == 0
            assert process.stderr.read() == b"connected to 10.121.15.99 port 7\n"


def test_what_ends_badly_is_one_line(running_node: RunningNode) -> None:
    with peer(reset_after_some) as real:
        running_node.serve(HOST, 7, real)
        done = run(HOST, "7", data=b"x")
    assert done.returncode == 1
    assert done.stdout == b"0123456789"
    assert done.stderr.startswith(b"ztnode: the connection failed: ")
    done = run(HOST, "9")
    assert done.returncode == 1
    assert b"refused" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [[HOST], ["7"], ["a..example", "7"], [HOST, "0"], [HOST, "x"]])
def test_bad_usage(running_node: RunningNode, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_listening(running_node: RunningNode) -> None:
    with subprocess.Popen(command("-l", "-v", IP, "9000"), stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"listening on 10.121.15.1 port 9000\n"
        with socket.create_connection(running_node.node.overlay[IP, 9000], 20) as connected:
            process.stdin.write(b"from here")
            process.stdin.close()
            assert read_to_end(connected) == b"from here"
            connected.sendall(b"from there")
        assert process.stdout.read() == b"from there"
        assert process.wait(20) == 0


def test_ctrl_c(running_node: RunningNode) -> None:
    with subprocess.Popen(command("-l", "-v", "9000"), stdin=-1, stderr=-1) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_as_ssh_proxy_command(running_node: RunningNode) -> None:
    """The server speaks first and so does ssh; what the server got is ssh's own banner."""
    banners = []

    def server(connected: socket.socket) -> None:
        connected.sendall(b"SSH-2.0-Test\r\n")
        banners.append(connected.recv(100))

    with peer(server) as real:
        running_node.serve(HOST, 22, real)
        proxy = f"{sys.executable} -m ztnode nc %h %p"
        options = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-o", f"ProxyCommand={proxy}"]
        subprocess.run(["ssh", *options, f"user@{HOST}", "true"], capture_output=True, timeout=60, check=False)
    assert banners
    assert banners[0].startswith(b"SSH-2.0-")
