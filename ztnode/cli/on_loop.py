"""Commands that work on an event loop until they are done or Ctrl-C ends them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_interrupted(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, which misses Ctrl-C when the signal comes just before the loop goes to sleep, or to another
    thread than the loop's: then nothing wakes it. Raises KeyboardInterrupt once ``main`` was cancelled and
    has cleaned up; at a second Ctrl-C at once."""
    return asyncio.run(_interruptible(main))


@contextlib.contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Until a loop takes it over, Ctrl-C ends the process without Python. For what has nothing to clean up yet: a
    KeyboardInterrupt that comes during a callback of C code, as imports have them, is printed and forgotten."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


async def _interruptible(main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
