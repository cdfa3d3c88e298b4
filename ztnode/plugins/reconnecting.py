"""What transports over a connection have in common: it is made, lost, and made again."""

from __future__ import annotations

import asyncio
import logging
import random
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
"""Seconds from the loss of a connection to the next attempt: twice as many each time, until one was of use and stood
for ``STEADY``; one word and the end are no reason to be back at once."""
STEADY: Final = 10.0
DIAL_TIMEOUT: Final = 10.0


class Reconnecting:
    """Keeps a connection for as long as ``run`` does."""

    def __init__(self, what: str, dial: Callable[[], Awaitable[asyncio.Future[bool]]]) -> None:
        """``what``: its name in the log. ``dial`` makes the connection; the future that it returns is done when the
        connection is lost, and says whether it was of any use. It raises OSError, with what there is to say."""
        self._what = what
        self._dial = dial
        self.failures = 0
        """Attempts that brought no connection."""

    async def run(self) -> None:
        """Never ends by itself. What is wrong is said once, until a connection was of use."""
        loop = asyncio.get_running_loop()
        pause, told = FIRST_PAUSE, False
        while True:
            try:
                async with asyncio.timeout(DIAL_TIMEOUT):
                    lost = await self._dial()
            except OSError as error:  # TimeoutError is one
                self.failures += 1
                if not told:
                    told = True
                    log.warning("%s cannot be used: %s; tried again", self._what, _reason(error))
            else:
                began = loop.time()
                if await lost:
                    told = False
                    if loop.time() - began >= STEADY:
                        pause = FIRST_PAUSE
            await sleep(pause * random.uniform(0.75, 1.0))  # not all clients of a restarted server at once
            pause = min(2 * pause, LONGEST_PAUSE)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer in {DIAL_TIMEOUT:g} s"
    return error.strerror or str(error)
