"""Makes a new identity with all the cores there are.

An identity needs about 15 tries of a memory-hard hash (``ztnode.wire.identity``). The tries are independent: this
process and one helper per further core race through candidates of their own, and the first find ends the race.

A helper is this module run as a program. It knows its parent by its standard input, on which nothing is ever sent:
when that closes, however the parent ended, the helper ends after the candidate in hand, so none is left behind. It
runs in a session of its own, so that Ctrl-C reaches the parent alone, which then ends it.
"""

from __future__ import annotations

import os
import select
import selectors
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from typing import Final

from ztnode.wire.c25519 import SECRET_LENGTH
from ztnode.wire.errors import WireError
from ztnode.wire.identity import Identity, try_candidate

MAX_PROCESSES: Final = 8
"""Each takes some 60 MB, and by then the wait is for the processes to start."""


def generate_identity(processes: int | None = None, stop: threading.Event | None = None) -> Identity:
    """A new identity. Blocks for a second or so: call it in a thread when there is an event loop to serve.

    ``processes`` is how many race, this one included; None: one per usable core. Setting ``stop`` from another thread
    ends it within a few tenths of a second with ``concurrent.futures.CancelledError``. Helpers that cannot be started
    or die are done without.
    """
    count = min(_usable_cores() if processes is None else processes, MAX_PROCESSES)
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


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_helpers(count: int) -> list[subprocess.Popen[bytes]]:
    helpers: list[subprocess.Popen[bytes]] = []
    for _ in range(count):
        try:
            helper = subprocess.Popen(
                [sys.executable, "-m", "ztnode.node.identity_pool"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            break
        helpers.append(helper)
    return helpers


def _collect(results: selectors.BaseSelector) -> Identity | None:
    """What a helper has found by now, if any."""
    for key, _ in results.select(0):
        line: bytes = key.data.readline()
        try:
            return Identity.parse_text(line.decode("ascii", "replace"))
        except WireError:
            results.unregister(key.fileobj)  # it died: the others go on
    return None


def _race() -> None:
    """The helper's program: write one identity, its secret included, to standard output."""
    identity: Identity | None = None
    while identity is None:
        if select.select([sys.stdin], [], [], 0)[0]:
            return
        identity = try_candidate(os.urandom(SECRET_LENGTH))
    sys.stdout.write(identity.build_text(include_secret=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _race()
