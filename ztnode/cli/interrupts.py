"""Ctrl-C that is never forgotten.

Python turns the signal into a KeyboardInterrupt wherever the main thread is. Where that is in a callback of C code (of
a weak reference, which each import has, ``__del__``, a function that gRPC calls) it is printed as "Exception ignored
in" and dropped, and the program runs on; where a class is being made, it becomes another error.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

T = TypeVar("T")

AGAIN: Final = 0.005
"""Seconds until an interrupt that had no effect comes again."""


@contextlib.contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """While there is nothing to clean up, Ctrl-C ends the process without Python: for imports, and for what comes
    before a loop takes the signal over."""
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before not in (signal.default_int_handler, _interrupt):
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, before)


def interruptible(work: Callable[[], T]) -> T:
    """What ``work`` gives. During it Ctrl-C raises KeyboardInterrupt, once an import that is under way is over, and
    again where it was dropped; after it the process is about to end, and Ctrl-C ends it. Uses SIGALRM."""
    drop = sys.unraisablehook

    def unraisable(dropped: UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _come_again()
        else:
            drop(dropped)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGALRM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        result = work()
        if signal.getitimer(signal.ITIMER_REAL)[0]:
            raise KeyboardInterrupt
        return result
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    while frame is not None and frame.f_code is not interruptible.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _come_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _come_again() -> None:
    # By a timer, and not by a thread: whoever was interrupted may hold the locks that a thread's start takes.
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
