"""Tells any number of slow or fast readers how things change; memory is bounded by the number of things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Conflation(Generic[K, V]):
    """The readers of one stream of news. Each has one place for every key, where news replace older news."""

    def __init__(self) -> None:
        self._pending: dict[asyncio.Event, dict[K, V]] = {}
        self._closed = False

    def publish(self, key: K, value: V, *, supersedes: Callable[[K], bool] | None = None) -> None:
        """What ``key`` names is now so; what readers have not taken about a key that this ``supersedes`` is void."""
        for wake, pending in self._pending.items():
            if supersedes is not None:
                for void in [known for known in pending if supersedes(known)]:
                    del pending[void]
            pending.pop(key, None)  # to the end of the order
            pending[key] = value
            wake.set()

    def close(self) -> None:
        """End all readers' loops."""
        self._closed = True
        for wake in self._pending:
            wake.set()

    async def watch(self, present: Iterable[tuple[K, V]]) -> AsyncGenerator[V, None]:
        """``present`` first, then each change, until ``close``."""
        wake = asyncio.Event()
        pending = self._pending[wake] = dict(present)
        try:
            while True:
                while pending:
                    yield pending.pop(next(iter(pending)))
                if self._closed:  # maybe while the reader was busy with what it got last
                    return
                wake.clear()
                await wake.wait()
        finally:
            del self._pending[wake]
