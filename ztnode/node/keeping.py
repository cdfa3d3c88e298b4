"""What becomes of state that the disk does not take. What a user asked for is refused. With what the network brings
the node goes on: its log says so now and then, and the controller's documents are tried again when the disk takes
others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from ztnode import plugins
from ztnode.node.home import Home

log = logging.getLogger(__name__)

REMINDER: Final = 60.0
"""Seconds between two lines about the same trouble: on a full disk every packet of a member could be one."""
MAX_TROUBLES: Final = 256


class Complaints:
    """Logs errors, each kind once a minute with the number of times that it was not told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, what: str, error: BaseException) -> None:
        """``what`` is the kind and the beginning of the line."""
        now = self._clock()
        at, untold = self._told.get(what, (float("-inf"), 0))
        if now - at < REMINDER:
            self._told[what] = (at, untold + 1)
            return
        if len(self._told) >= MAX_TROUBLES:
            del self._told[next(iter(self._told))]
        self._told[what] = (now, 0)
        log.error("%s: %s%s", what, plugins.describe(error), f" ({untold} more times since)" if untold else "")


class Writes:
    """Writes of the state that nobody waits for."""

    def __init__(self) -> None:
        self._complaints = Complaints()
        self._loop = asyncio.get_running_loop()

    def watch(self, write: concurrent.futures.Future[None], what: str) -> None:
        """Have the log say that ``what`` cannot be kept, if that is how it ends."""

        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                self._complaints.tell(f"cannot keep {what}", error)

        asyncio.wrap_future(write, loop=self._loop).add_done_callback(done)


class Documents:
    """The controller's documents on their way to the disk."""

    def __init__(self, home: Home, complaints: Complaints) -> None:
        self._home = home
        self._complaints = complaints
        self._unkept: dict[str, bytes | None] = {}

    def commit(self, key: str, data: bytes | None) -> None:
        """Return when the disk has this one. Raises OSError."""
        self._home.keep_document(key, data).result()
        self._unkept.pop(key, None)
        self._retry()

    def keep(self, changes: Iterable[tuple[str, bytes | None]]) -> None:
        """Return when the disk has them, or will not take them."""
        writes = [(key, data, self._home.keep_document(key, data)) for key, data in changes]
        refused = False
        for key, data, write in writes:
            self._unkept.pop(key, None)
            try:
                write.result()
            except OSError as error:
                refused = True
                self._unkept[key] = data
                self._complaints.tell("cannot keep what the controller decided, a restart will not know it", error)
        if writes and not refused:
            self._retry()

    def _retry(self) -> None:
        for key, data in list(self._unkept.items()):
            try:
                self._home.keep_document(key, data).result()
            except OSError:
                return
            del self._unkept[key]
