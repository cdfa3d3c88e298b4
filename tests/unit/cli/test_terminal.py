"""What a person sees at a terminal: a real pseudo-terminal, of a size that we set."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from tests.unit.fake_node import RunningNode, asking
from ztnode.node.api import JoinState

OTHER = "8056c2e21c000001"
SHOW_CURSOR = "\x1b[?25h"


class Terminal:
    """A command of ours at a terminal of 60 columns."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-m", "ztnode", *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"PYTHONUTF8": "1"}
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, pattern: str, timeout: float = 30.0) -> None:
        """Wait until what was written matches."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            assert self._read(), self.text

    def read_to_end(self) -> str:
        """All that was written, once the command has ended."""
        while self._read():
            pass
        self.process.wait(30)
        os.close(self._ours)
        return self.text

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # how Linux says that nobody holds the other end any more
            return False
        self.text += data.decode()
        return bool(data)


def test_a_table_is_folded_to_the_terminal(running_node: RunningNode) -> None:
    lines = Terminal("networks").read_to_end().replace("\r\n", "\n").split("\n")
    assert lines[0].startswith("\x1b[1mNWID")
    plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert all(len(line) <= 60 for line in plain)
    assert set(plain[1]) == {"─"}
    assert "10.121.15.1/16" in "\n".join(plain)


def test_a_wait_shows_a_spinner_and_cleans_up(running_node: RunningNode) -> None:
    running_node.node.on_join = lambda nwid: asking(nwid, JoinState.REQUESTING, "asking the controller " * 10)
    terminal = Terminal("join", OTHER, "--wait", "2")
    text = terminal.read_to_end()
    # How many of its frames there are is a matter of how busy the machine is.
    assert len(set(re.findall(r"([⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]) 8056c2e21c000001: asking the controller", text))) > 1
    assert text.rindex(SHOW_CURSOR) > text.rindex("\x1b[?25l")
    # No frame is wider than the terminal: what it wraps could not be written over.
    assert all(len(frame) <= 60 for frame in re.findall(r"\x1b\[2K([^\r\x1b]*)", text))
    assert "is not ready after 2 s" in text.rpartition(SHOW_CURSOR)[2].replace("\r\n", "")
    assert terminal.process.returncode == 1


def test_ctrl_c_leaves_the_cursor_visible(running_node: RunningNode, tmp_path: Path) -> None:
    terminal = Terminal("capture", "9ad07d01093a69e3", str(tmp_path / "wire.pcapng"))
    terminal.read_until("capturing")
    terminal.process.send_signal(signal.SIGINT)
    text = terminal.read_to_end()
    assert text.rindex(SHOW_CURSOR) > text.rindex("\x1b[?25l")
    assert terminal.process.returncode == 0
