"""Ends a worker whose loop does not come round any more.

The loop notices by itself that the node is gone, unless it is caught in a round that never ends; a mistake in a
protocol must not leave a process behind that burns a core for nobody, nor keep a node waiting for ever. So one thread
watches the control channel for its end, and now and then the loop for progress. It sleeps in poll(2) and costs the loop
nothing; and the longer the loop has had nothing to do, the longer it sleeps.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from ztnode.worker import protocol

CHECK_SECONDS: Final = 5.0
"""A round that is found at two checks in a row has lasted at least this long; a long one lasts milliseconds."""
LONGEST_CHECK_SECONDS: Final = 20.0
"""So long at most until the next check of a loop that has only waited since the last one. Idle workers sleep."""


class Watchdog(threading.Thread):
    """``round_number`` counts up whenever the loop goes to wait (to an odd number) and comes back (to an even one)."""

    def __init__(
        self,
        control: socket.socket,
        path: str,
        round_number: Callable[[], int],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._control = control
        self._path = path
        self._round_number = round_number
        self._check_seconds = check_seconds
        self._watched = threading.get_ident()

    def run(self) -> None:
        """Until the process ends."""
        poll = select.poll()
        poll.register(self._control.fileno(), 0)  # an empty mask: the hang-up is reported without being asked for
        seen = -1
        wait = self._check_seconds
        while not poll.poll(wait * 1000):
            number = self._round_number()
            if number != seen:
                wait = self._check_seconds
            elif number & 1:
                wait = min(2 * wait, LONGEST_CHECK_SECONDS)
            else:
                self._tell()
                os._exit(1)
            seen = number
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - pathlib costs start-up time
        os._exit(0)

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._watched)
        place = f" in {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
        reason = f"its loop hung for more than {self._check_seconds:g} s{place}"
        with contextlib.suppress(OSError):
            self._control.send(protocol.build(protocol.Dying(reason)))
