"""Commands that work on an event loop until they are done or Ctrl-C ends them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_interrupted(
    main: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """As ``asyncio.run``, which misses Ctrl-C when the signal comes just before the loop goes to sleep, or to another
    thread than the loop's: then nothing wakes it. Raises KeyboardInterrupt once ``main`` was cancelled and
    has cleaned up; at a second Ctrl-C at once."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_interruptible(main))


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
