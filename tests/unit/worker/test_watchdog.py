"""A worker that is caught in an endless round still ends: with its node, or with the reason."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from ztnode.worker import protocol

HUNG = (
    "import socket, sys\n"
    "from ztnode.worker.watchdog import Watchdog\n"
    "control = socket.socket(fileno=0); control.setblocking(False)\n"
    "Watchdog(control, sys.argv[1], lambda: int(sys.argv[2]), check_seconds=float(sys.argv[3])).start()\n"
    "control.send(b'!')\n"
    "while True:\n"
    "    pass\n"
)


def hang(path: Path, round_number: int, check_seconds: float) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [sys.executable, "-c", HUNG, str(path), str(round_number), str(check_seconds)]
        process = subprocess.Popen(arguments, stdin=theirs.fileno())
    ours.settimeout(10)
    assert ours.recv(1) == b"!"
    return process, ours


def test_hung_worker_ends_with_its_node(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.sock"
    path.touch()
    process, ours = hang(path, 2, 60)
    start = time.monotonic()
    ours.close()
    assert process.wait(30) == 0
    assert time.monotonic() - start < 20, "it looks at its loop each 60 s"
    assert not path.exists()


def test_hung_worker_says_where_and_ends(tmp_path: Path) -> None:
    process, ours = hang(tmp_path / "x", 2, 0.1)
    assert process.wait(30) == 1
    [message] = protocol.MessageStream().feed(ours.recv(4096))
    assert isinstance(message, protocol.Dying)
    assert "hung for more than 0.1 s in <string>:" in message.reason
    ours.close()


def test_loop_that_waits_for_work_is_left_alone(tmp_path: Path) -> None:
    process, ours = hang(tmp_path / "x", 3, 0.05)
    time.sleep(0.5)
    assert process.poll() is None
    ours.close()
    assert process.wait(30) == 0


LOOKS = (
    "import os, socket, sys, threading, time\n"
    "from ztnode.worker.watchdog import Watchdog\n"
    "looks = []\n"
    "def look():\n"
    "    looks.append(time.monotonic())\n"
    "    if len(looks) == 6:\n"
    "        print(*(later - earlier for earlier, later in zip(looks, looks[1:])), flush=True)\n"
    "        os._exit(0)\n"
    "    return 3 if len(looks) < 5 else 5\n"
    "Watchdog(socket.socket(fileno=0), '', look, check_seconds=0.05).start()\n"
    "threading.Event().wait()\n"
)


def test_loop_that_only_waits_is_looked_at_ever_more_rarely() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        shown = subprocess.run(
            [sys.executable, "-c", LOOKS], stdin=theirs.fileno(), stdout=subprocess.PIPE, timeout=60, check=True
        )
    pauses = list(map(float, shown.stdout.split()))
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.05), strict=True)), pauses
