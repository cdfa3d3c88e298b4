"""A whole ZeroTier network of one's own on this machine: a root and controller, and members, each a ``ztnode serve``.

For ``ztnode demo``, tests and benchmarks. Everything lives in one directory and ends with the object.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import ztclient
import ztclient.controller
from ztnode import worldtool
from ztnode.node.home import IDENTITY_PUBLIC, IDENTITY_SECRET
from ztnode.node.identity_pool import generate_identity
from ztnode.node.options import HOME
from ztnode.plugins.stores import FileStore
from ztnode.wire.identity import Identity

START_TIMEOUT: Final = 60.0
"""Seconds for a node process to come up: on a crowded machine Python takes long to start, and an identity to make."""
STOP_TIMEOUT: Final = 5.0


class EmbeddedError(RuntimeError):
    """A process of the network did not do what it should; the text ends with its last words."""


class EmbeddedMember:
    """One ``ztnode serve`` process."""

    def __init__(self, name: str, state: Path, arguments: Sequence[str], prefix: Sequence[str]) -> None:
        """Start it; ``prefix`` is a command that runs another, such as ``ip netns exec NAME``."""
        self.name = name
        self.state = state
        self._log = state / "serve.log"
        state.mkdir(parents=True, exist_ok=True)
        # Unlisted: the user's own clients must not find it in place of the user's own node. Its standard input is a
        # pipe from us that ends with us, whatever ends us.
        serve = [
            sys.executable,
            "-m",
            "ztnode",
            "serve",
            "--isolated",
            "--unlisted",
            "--until-eof",
            "--state",
            str(state),
        ]
        self.command = [*prefix, *serve, *arguments]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    @property
    def node(self) -> ztclient.Node:
        """A client of this node."""
        return ztclient.Node(state=self.state)

    def last_words(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")[-2000:].strip()
        return ""

    def wait_online(self) -> ztclient.Status:
        """Wait until it answers and has reached a root. Raises EmbeddedError."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise EmbeddedError(f"{self.name} ended with code {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(ztclient.Error):
                status = self.node.status()
                if status.online:
                    return status
            time.sleep(0.02)
        raise EmbeddedError(f"{self.name} is not online after {START_TIMEOUT:g} s: {self.last_words()}")

    def stop(self) -> None:
        """End it as Ctrl-C would, by force if it does not."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class EmbeddedNetwork:
    """The root and controller, started when the object is made, and members as they are added."""

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        identities: Iterable[Identity] = (),
        controller_arguments: Sequence[str] = (),
    ) -> None:
        """``host``: the physical address at which members reach the root; it must be one where ``prefix`` runs.
        ``identities`` are taken in turn, secrets included; when there are no more, each node makes its own, which takes
        seconds. ``controller_arguments`` go to the root's ``ztnode serve``."""
        self._identities = iter(identities)
        self.directory = directory
        self.planet = directory / "planet"
        self.members: dict[str, EmbeddedMember] = {}
        identity = self._identity()
        port = free_port() if not prefix else 9993
        root = worldtool.parse_root(identity.build_text(), [f"{host}/{port}"])
        secret = worldtool.WorldSecret.generate(os.urandom)
        self.planet.write_bytes(worldtool.create_world([root], secret, time.time_ns() // 1_000_000))
        arguments = ["--root", "--controller", "--port", str(port), *controller_arguments]
        try:
            self.controller = self._start("root", identity, arguments, prefix)
            self.controller.wait_online()
        except BaseException:  # such as Ctrl-C, for which nobody has this object yet to close it
            self.close()
            raise

    def create(self, *, name: str = "embedded", private: bool = False, subnet: str = "10.121.15.0/24") -> str:
        """Make a network and return its NWID; addresses are assigned from ``subnet``."""
        settings = ztclient.controller.subnet(subnet)
        settings.update({"name": name, "private": private})
        return ztclient.controller.Controller(self.controller.node).create_network(**settings).nwid

    def add(
        self, name: str, *arguments: str, prefix: Sequence[str] = (), identity: Identity | None = None
    ) -> EmbeddedMember:
        """Start one more node; it is not waited for. ``arguments`` go to ``ztnode serve``."""
        port = [] if "--port" in arguments else ["--port", "0"]
        return self._start(name, identity or self._identity(), [*port, *arguments], prefix)

    def add_all(self, *names: str) -> list[EmbeddedMember]:
        """Start several nodes; each starts while the identity of the next is made."""
        return [self.add(name) for name in names]

    def _identity(self) -> Identity:
        return next(self._identities, None) or generate_identity()

    def restart(self, member: EmbeddedMember) -> EmbeddedMember:
        """Start a member that was stopped again, on the same state."""
        arguments = member.command[member.command.index(str(member.state)) + 1 :]
        again = self.members[member.name] = EmbeddedMember(member.name, member.state, arguments, ())
        return again

    def _start(self, name: str, identity: Identity, arguments: Sequence[str], prefix: Sequence[str]) -> EmbeddedMember:
        state = self.directory / name
        store = FileStore(state / HOME)
        store.write(IDENTITY_SECRET, identity.build_text(include_secret=True).encode())
        store.write(IDENTITY_PUBLIC, identity.build_text().encode())
        store.close()
        member = EmbeddedMember(name, state, ["--planet", str(self.planet), *arguments], prefix)
        self.members[name] = member
        return member

    def close(self) -> None:
        """End all processes, the newest first."""
        while self.members:
            _, member = self.members.popitem()
            member.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def free_port(host: str = "127.0.0.1") -> int:
    """A port for a program to be started, free for TCP and UDP on ``host`` at this moment.

    It is outside of what the kernel hands out by itself (32768 and up on Linux): by the time the program binds it,
    somebody's connection would have one of those. Raises OSError when none of 100 is free."""
    for _ in range(100):
        port = random.randrange(10_000, 32_768)
        with contextlib.ExitStack() as probes:
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    probes.enter_context(socket.socket(family, kind)).bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no port of {host} is free")
