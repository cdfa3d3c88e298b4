"""Makes a new identity, and checks those of strangers, with all the cores there are.

An identity needs about 15 tries of a memory-hard hash (``ztnode.wire.identity``). The tries are independent: this
process and one helper per further core race through candidates of their own, and the first find ends the race.

A helper is ``ztnode.identity_helper``. It knows its parent by its standard input, on which nothing is ever sent:
when that closes, however the parent ended, the helper ends after the candidate in hand, so none is left behind. It
runs in a session of its own, so that Ctrl-C reaches the parent alone, which then ends it.

Checks of strangers' identities cost a hash each, too. ``IdentityChecks`` has them done by helpers that read identities
from standard input and answer on standard output, line by line, at a low priority; they end after a while without work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Final

from ztnode import identity_helper
from ztnode.child_environment import child_environment
from ztnode.wire.c25519 import SECRET_LENGTH
from ztnode.wire.identity import Identity, try_candidate
from ztnode.wire.wire_error import WireError

MAX_PROCESSES: Final = 8
"""Each takes some 60 MB, and by then the wait is for the processes to start."""
IDLE_LIFETIME: Final = 60.0
"""Seconds without work after which the helpers that check identities end."""


def generate_identity(processes: int | None = None, stop: threading.Event | None = None) -> Identity:
    """A new identity. Blocks for a second or so: call it in a thread when there is an event loop to serve.

    ``processes`` is how many race, this one included; None: one per usable core. Setting ``stop`` from another thread
    ends it within a few tenths of a second with ``concurrent.futures.CancelledError``. Helpers that cannot be started
    or die are done without.
    """
    count = min(usable_cores() if processes is None else processes, MAX_PROCESSES)
    helpers = _start_helpers(count - 1)
    results = selectors.DefaultSelector()  # not select(): the node may have more than 1024 descriptors
    for helper in helpers:
        assert helper.stdout is not None
        results.register(helper.stdout, selectors.EVENT_READ, helper.stdout)
    try:
        found: Identity | None = None
        while found is None:
            if stop is not None and stop.is_set():
                raise CancelledError
            found = try_candidate(os.urandom(SECRET_LENGTH)) or _collect(results)
        return found
    finally:
        results.close()
        for helper in helpers:
            helper.kill()
        for helper in helpers:
            helper.communicate()


class IdentityChecks:
    """``Identity.validate`` in processes, as many as there are cores, on the running event loop."""

    def __init__(self, processes: int | None = None) -> None:
        self._limit = min(usable_cores() if processes is None else processes, MAX_PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []
        self._free = asyncio.Semaphore(self._limit)
        self._helpers: set[asyncio.subprocess.Process] = set()
        self._retiring: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def begin(self, identity: Identity, done: Callable[[Identity, bool], None]) -> None:
        """Check one beside everything else, and tell ``done`` the verdict, unless it is closed before."""

        async def check() -> None:
            valid = await self.check(identity)
            if not self._closed:
                done(identity, valid)

        task = asyncio.get_running_loop().create_task(check())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def check(self, identity: Identity) -> bool:
        """The verdict. A helper that cannot be started, or dies, is done without."""
        async with self._free:
            if self._closed:
                raise asyncio.CancelledError
            answer = await self._ask(identity)
        if answer is None:
            return await asyncio.to_thread(identity.validate)
        return answer

    async def close(self) -> None:
        """End all helpers."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._retiring is not None:
            self._retiring.cancel()
        self._idle.clear()
        helpers, self._helpers = self._helpers, set()
        for helper in helpers:
            with contextlib.suppress(ProcessLookupError):
                helper.kill()
        for helper in helpers:
            await helper.wait()

    async def _ask(self, identity: Identity) -> bool | None:
        helper = self._idle.pop() if self._idle else await self._start()
        if helper is None or helper.stdin is None or helper.stdout is None:
            return None
        try:
            helper.stdin.write(identity.build_text().encode() + b"\n")
            line = await helper.stdout.readline()
        except OSError:
            line = b""
        if line not in (identity_helper.YES, identity_helper.NO):
            self._helpers.discard(helper)
            with contextlib.suppress(ProcessLookupError):
                helper.kill()
            return None
        self._idle.append(helper)
        if self._retiring is not None:
            self._retiring.cancel()
        self._retiring = asyncio.get_running_loop().call_later(IDLE_LIFETIME, self._retire)
        return line == identity_helper.YES

    async def _start(self) -> asyncio.subprocess.Process | None:
        try:
            helper = await asyncio.create_subprocess_exec(
                *_command(identity_helper.CHECK),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,
            )
        except OSError:
            return None
        self._helpers.add(helper)
        return helper

    def _retire(self) -> None:
        """There was nothing to do for a while: the helpers in wait end with their standard input."""
        self._retiring = None
        idle, self._idle = self._idle, []
        for helper in idle:
            self._helpers.discard(helper)
            if helper.stdin is not None:
                helper.stdin.close()


def usable_cores() -> int:
    """The processors that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_helpers(count: int) -> list[subprocess.Popen[bytes]]:
    helpers: list[subprocess.Popen[bytes]] = []
    for _ in range(count):
        try:
            helper = subprocess.Popen(
                _command(identity_helper.SEARCH),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,
            )
        except OSError:
            break
        helpers.append(helper)
    return helpers


def _command(what: str) -> list[str]:
    return [sys.executable, "-P", "-m", identity_helper.__name__, what]


def _collect(results: selectors.BaseSelector) -> Identity | None:
    """What a helper has found by now, if any."""
    for key, _ in results.select(0):
        line: bytes = key.data.readline()
        try:
            return Identity.parse_text(line.decode("ascii", "replace"))
        except WireError:
            results.unregister(key.fileobj)  # it died: the others go on
    return None
