"""Programs under test as processes that speak JSON lines, and the small network that they meet on."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


class ProcessError(AssertionError):
    """A program under test ended, fell silent or reported an error."""


class Talker:
    """A subprocess that takes commands and gives events, one JSON object a line."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._log_path = log
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=REPOSITORY
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, **command: Any) -> None:
        """Send a command without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def expect(self, event: str, timeout: float) -> dict[str, Any]:
        """The next event, which must be ``event``."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ProcessError(f"{self.name}: no {event!r} within {timeout:.0f} s{self._tail()}") from None
        if not line:
            raise ProcessError(f"{self.name} ended before {event!r}{self._tail()}")
        message: dict[str, Any] = json.loads(line)
        if message["event"] != event:
            raise ProcessError(f"{self.name}: {message} where {event!r} was expected{self._tail()}")
        return message

    def do(self, event: str, timeout: float = 10.0, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its event."""
        self.tell(**command)
        return self.expect(event, timeout)

    def _tail(self) -> str:
        text = self._log_path.read_text(errors="replace").strip()[-2000:]
        return f"; its log ends:\n{text}" if text else ""

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


@dataclass(frozen=True)
class Site:
    """Where the processes run: ``prefix`` goes before each command; ``address`` is one they can all reach each other
    by. ZeroTier takes no loopback address for a path, so it is another one."""

    prefix: tuple[str, ...]
    address: str

    def talker(self, name: str, script: str, log_folder: Path, *arguments: str) -> Talker:
        """Start a script of this folder on this site."""
        command = [*self.prefix, sys.executable, str(HERE / script), *arguments]
        return Talker(name, command, log_folder / f"{name}.log")


def make_namespace(name: str) -> Site | None:
    """A network namespace of our own with one private address; None where we may not make one."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return None
    address = "10.77.0.1"
    inside = ("ip", "netns", "exec", name)
    commands = (
        ("ip", "netns", "add", name),
        (*inside, "ip", "link", "set", "lo", "up"),
        (*inside, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"),
        (*inside, "ip", "addr", "add", f"{address}/24", "dev", "eth0"),
        (*inside, "ip", "link", "set", "eth0", "up"),
        (*inside, "ip", "link", "set", "eth1", "up"),
    )
    for command in commands:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            remove_namespace(name)
            return None
    return Site(inside, address)


def remove_namespace(name: str) -> None:
    """Remove it, with its interfaces."""
    subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)


def host_site() -> Site | None:
    """This machine as it is, by the address that it would use towards the world; None where it has no such address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks for a route
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else Site((), address)
