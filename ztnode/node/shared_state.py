"""State in a store that several hosts share, as the node's ``StateStore``: read once, kept in memory, written through.

While the store does not answer the node goes on from memory; what it wanted to write is written when it is back.
That is said once, and once when it is over. The controller's documents are the exception: an address that was promised
and not kept could be promised again by the one that takes over, so they are refused while the store is out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from ztnode.hookspecs import LeaseLost, SharedStore
from ztnode.node.lease import Lease
from ztnode.plugins.stores import MAX_VALUE_BYTES, check_key

log = logging.getLogger(__name__)

RETRY_EVERY: Final = 1.0
STRICT: Final = "controller.d/"
"""Keys that begin so are written or refused, never kept back."""


class SharedState:
    """See ``StateStore``. Raises LeaseLost for what this node may not write any more."""

    def __init__(
        self, store: SharedStore, lease: Lease, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read everything; the lease is ours by now. ``name``: the store in words for the log. Raises OSError, naming
        the key of a value that cannot be state."""
        self._store = store
        self._lease = lease
        self._name = name
        self._clock = clock
        self._values: dict[str, bytes] = {}
        for key, value in store.items():
            if key.startswith(("lease/", "pool/")):
                continue
            if not isinstance(value, bytes) or len(value) > MAX_VALUE_BYTES:
                raise OSError(f"{key} in the store is damaged: larger than {MAX_VALUE_BYTES} bytes")
            try:
                check_key(key)
            except ValueError:
                log.warning("%r in the store is nothing of ours and is left alone", key[:200])
                continue
            self._values[key] = value
        self._missed: dict[str, bytes | None] = {}
        self._out_at: float | None = None
        """When the store was tried in vain, last."""
        self._calls = threading.RLock()
        self._over = threading.Event()
        self._wake = threading.Event()
        self._retrier = threading.Thread(target=self._retry_on, name="ztnode-state-retry", daemon=True)
        self._retrier.start()

    def read(self, key: str) -> bytes | None:
        """See StateStore."""
        check_key(key)
        return self._values.get(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See StateStore."""
        yield from sorted(key for key in list(self._values) if key.startswith(prefix))

    def write(self, key: str, value: bytes) -> None:
        """See StateStore."""
        check_key(key)
        self._put(key, bytes(value))

    def delete(self, key: str) -> None:
        """See StateStore."""
        check_key(key)
        self._put(key, None)

    def forgotten(self) -> None:
        """The store has lost what it had: write everything again."""
        log.error("%s has lost what was kept there: all of it is written again from memory", self._name)
        with self._calls:
            self._missed.update(self._values)
        self._wake.set()

    def close(self) -> None:
        """See StateStore. What could not be written until now is named and lost."""
        self._over.set()
        self._wake.set()
        self._retrier.join()
        with self._calls:
            if self._missed and self._lease.is_held():
                self._catch_up()
            if self._missed:
                log.error("%s: not written: %s", self._name, ", ".join(sorted(self._missed)))
        self._lease.release()
        self._store.close()

    def _put(self, key: str, value: bytes | None) -> None:
        with self._calls:
            if not self._lease.is_held():
                raise LeaseLost("another node may have the store by now")
            strict = key.startswith(STRICT)
            if self._missed or (self._out_at is not None and self._clock() - self._out_at < RETRY_EVERY):
                if strict:
                    raise ConnectionError(f"{self._name} does not answer")
                self._remember(key, value)
                self._missed[key] = value
                self._wake.set()
                return
            try:
                self._send(key, value)
            except (ConnectionError, TimeoutError) as error:
                self._tell_out(error)
                if strict:
                    raise
                self._missed[key] = value
                self._wake.set()
            else:
                self._tell_back(0)
            self._remember(key, value)

    def _remember(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _send(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._store.delete(key)
        else:
            self._store.write(key, value)

    def _retry_on(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            if self._over.wait(RETRY_EVERY):
                return
            with self._calls:
                if self._catch_up():
                    self._wake.clear()

    def _catch_up(self) -> bool:
        """Write what was missed; whether that is done with."""
        written = 0
        for key, value in list(self._missed.items()):
            try:
                self._send(key, value)
            except (ConnectionError, TimeoutError) as error:
                self._tell_out(error)
                return False
            except LeaseLost:
                return True  # the node goes offline, and names them when it closes
            except OSError as error:
                log.error("cannot keep %s: %s", key, error)
            del self._missed[key]
            written += 1
        self._tell_back(written)
        return True

    def _tell_out(self, error: OSError) -> None:
        if self._out_at is None:
            log.warning("%s does not answer (%s): going on from memory", self._name, error)
        self._out_at = self._clock()

    def _tell_back(self, written: int) -> None:
        if self._out_at is not None:
            self._out_at = None
            log.warning("%s answers again; written now what it missed: %d values", self._name, written)
