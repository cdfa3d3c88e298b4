"""Readiness of file descriptors: one handler per descriptor, epoll on Linux, poll elsewhere.

``selectors`` of the standard library would do but for one thing: it cannot tell an error from readability, nor watch a
descriptor for nothing but errors, which is what a connection needs whose sender is held back.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import Final, TypeAlias

READ: Final = select.POLLIN
WRITE: Final = select.POLLOUT
ERROR: Final = select.POLLERR
HANGUP: Final = select.POLLHUP

Handler: TypeAlias = Callable[[int], object]
"""Called with the mask of what is ready: READ, WRITE, ERROR, HANGUP. ERROR and HANGUP come unasked."""


class Poller:
    """Level-triggered. A handler may register, change and remove any descriptor, its own included."""

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._gone: set[int] = set()
        # The event bits of poll and epoll are the same numbers on Linux.
        if hasattr(select, "epoll"):
            epoll = select.epoll()
            self._backend: select.epoll | select.poll = epoll
            self._poll: Callable[[float], list[tuple[int, int]]] = epoll.poll
        else:
            backend = select.poll()
            self._backend = backend
            self._poll = lambda timeout: backend.poll(None if timeout < 0 else timeout * 1000)

    def register(self, fd: int, mask: int, handler: Handler) -> None:
        """Watch ``fd``. Raises OSError when the system cannot watch more."""
        self._backend.register(fd, mask)
        self._handlers[fd] = handler

    def wake_by(self, fd: int) -> bool:
        """Have ``wait`` come back once for each time that the eventfd ``fd`` is written to, without anybody reading it.
        False where the system has no such thing."""
        if not isinstance(self._backend, select.epoll):
            return False
        self._backend.register(fd, select.EPOLLIN | select.EPOLLET)
        return True

    def modify(self, fd: int, mask: int) -> None:
        """Watch a registered ``fd`` for something else."""
        self._backend.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Forget ``fd``; call it before closing. No error when it is not registered."""
        if self._handlers.pop(fd, None) is not None:
            self._gone.add(fd)
            with contextlib.suppress(OSError, KeyError):
                self._backend.unregister(fd)

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """What is ready within ``timeout`` seconds (negative: for ever), for ``dispatch``."""
        return self._poll(timeout)

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        """Call the handlers of what ``wait`` returned."""
        handlers, gone = self._handlers, self._gone
        gone.clear()
        for fd, mask in events:
            # A handler earlier in this batch may have closed this descriptor, and the number may belong to another by
            # now. That one is not meant; if it is ready too, the next round says so.
            if fd not in gone and (handler := handlers.get(fd)) is not None:
                handler(mask)
