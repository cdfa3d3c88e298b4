"""A standby reads in advance, so that little is left to do when the store is its own.

What it knows by then is believed of no value: under the lease each is compared with the store's, by its SHA-256 where
the store can tell that, else by the value itself. So whatever happened between the last look and the lease is seen, and
who held the store before, or what the server lost meanwhile, makes no difference.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from ztnode import plugins
from ztnode.hookspecs import SharedStore, TellsChanges

log = logging.getLogger(__name__)

NOT_STATE: Final = ("lease/", "pool/")
"""Beginnings of the keys by which nodes share a store."""
PART: Final = 1000
"""Values that are asked for in one go."""
LOOK_EVERY: Final = 10.0
"""Seconds between two looks at least: a standby costs the store little."""
LOOK_SHARE: Final = 30.0
"""How many times as long as a look took the next one waits."""
LONGEST_PAUSE: Final = 120.0
MAX_AHEAD_BYTES: Final = 1 << 28
"""Of values that a standby keeps; what is beyond is read when it is needed."""
GENTLY: Final = 100
"""Values after which it rests as long as they took: the active node may be on the same host."""

Change: TypeAlias = tuple[str, bytes | None]
"""A key and its value, None: there is none any more."""


def changes(store: SharedStore, known: Mapping[str, bytes]) -> Iterator[Change]:
    """What makes ``known`` equal to what the store has now; the caller may change ``known`` accordingly on the way.
    Raises OSError."""
    if not isinstance(store, TellsChanges):
        there = set()
        for key, value in store.items():
            if not key.startswith(NOT_STATE):
                there.add(key)
                if known.get(key) != value:
                    yield key, value
        yield from ((key, None) for key in known.keys() - there)
        return
    digests = {key: digest for key, digest in store.digests() if not key.startswith(NOT_STATE)}
    yield from ((key, None) for key in known.keys() - digests.keys())
    wanted = (key for key, digest in digests.items() if key not in known or _digest(known[key]) != digest)
    while part := list(itertools.islice(wanted, PART)):
        found = dict(store.read_many(part))
        yield from ((key, found.get(key)) for key in part if key in found or key in known)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


class Ahead:
    """Looks into a store that another node holds, on a thread of its own."""

    def __init__(
        self,
        open_store: Callable[[], SharedStore],
        name: str,
        prepare: Callable[[str, bytes | None], None] = lambda _key, _value: None,
    ) -> None:
        """``open_store`` gives the object for this alone. ``prepare`` is called on the thread with what was read, and
        with None for what is gone; it raises nothing."""
        self._open = open_store
        self._name = name
        self._prepare = prepare
        self._values: dict[str, bytes] = {}
        self._size = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless that is done."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ztnode-ahead", daemon=True)
            self._thread.start()

    def stop(self) -> dict[str, bytes]:
        """End, and give away what is known; within the time of one call of the store."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        values, self._values = self._values, {}
        return values

    def _run(self) -> None:
        store: SharedStore | None = None
        told, looks = "", 0
        while not self._over.is_set():
            began = time.monotonic()
            try:
                store = store or self._open()
                self._look(store)
                if not looks and not self._over.is_set():
                    log.info("%s: %d values are read in advance", self._name, len(self._values))
                looks += 1
            except Exception as error:  # who waits for the lease says what is wrong with the store
                if (what := plugins.describe(error)) != told:
                    told = what
                    log.debug("%s: cannot read in advance: %s", self._name, what)
            pause = LOOK_SHARE * (time.monotonic() - began)
            self._over.wait(min(max(pause, LOOK_EVERY), LONGEST_PAUSE))
        if store is not None:
            store.close()

    def _look(self, store: SharedStore) -> None:
        began = time.monotonic()
        for number, (key, value) in enumerate(changes(store, self._values), 1):
            self._keep(key, value)
            if number % GENTLY == 0:
                self._over.wait(time.monotonic() - began)
                began = time.monotonic()
            if self._over.is_set():
                return

    def _keep(self, key: str, value: bytes | None) -> None:
        self._size -= len(self._values.pop(key, b""))
        if value is not None and self._size + len(value) > MAX_AHEAD_BYTES:
            value = None
        self._prepare(key, value)
        if value is not None:
            self._values[key] = value
            self._size += len(value)
