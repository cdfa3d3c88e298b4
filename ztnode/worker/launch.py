"""Starts the process of a worker, which loads what it works with and waits for its Begin.

A start of a node takes half a second of one core, and its worker's a quarter. ``launch_ahead`` has the worker's run
beside it on another from the first moment, when neither the node's state nor its event loop is there.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import Final, NamedTuple

from ztnode.child_environment import child_environment
from ztnode.ring import Ring

TO_WORKER_BYTES: Final = 4 << 20
"""About 1,400 frames of 2,800 bytes: what arrives in 30 ms at 130 MB/s, while the worker waits for a core."""
FROM_WORKER_BYTES: Final = 2 << 20
"""The stack is held back when it is full, so it need only bridge the node's absence; more would be delay alone."""


class Launched(NamedTuple):
    """A process, and our ends of what leads to it. It ends when ``control`` is closed."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    to_worker: Ring
    from_worker: Ring


_ahead: list[Launched] = []


def launch_ahead(count: int) -> None:
    """Start the processes that the next ``count`` calls of ``launch`` give. Raises OSError."""
    for _ in range(count):
        _ahead.append(_launch())


def launch() -> Launched:
    """A process for a worker. Raises OSError."""
    return _ahead.pop() if _ahead else _launch()


def _launch() -> Launched:
    with contextlib.ExitStack() as undo:
        rings = [Ring.create(TO_WORKER_BYTES)]
        undo.callback(rings[0].close)
        rings.append(Ring.create(FROM_WORKER_BYTES))
        undo.callback(rings[1].close)
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with theirs:
            fds = [",".join(map(str, ring.fds)) for ring in rings]
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ztnode.worker", str(theirs.fileno()), *fds],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *set(rings[0].fds), *set(rings[1].fds)),
                env=child_environment(),
            )
        undo.pop_all()
        return Launched(process, ours, rings[0], rings[1])
