"""By which id a control call is known, to whoever made it and to the log.

By task, not by context: a timer that a call arms keeps the context, and with it the id, as long as it is armed anew.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Final

_of_tasks: Final[weakref.WeakKeyDictionary[asyncio.Task[Any], str]] = weakref.WeakKeyDictionary()


def begin(request: str) -> None:
    """The running task answers this call."""
    task = asyncio.current_task()
    if task is not None:
        _of_tasks[task] = request


def current() -> str:
    """The call that the running task answers; empty where there is none."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return ""
    return "" if task is None else _of_tasks.get(task, "")
