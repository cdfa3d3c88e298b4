"""State in a store that several hosts share, as the node's ``StateStore``: read once, kept in memory, written through.

While the store does not answer the node goes on from memory; what it wanted to write is written when it is back.
That is said once, and once when it is over. The controller's documents are the exception: an address that was promised
and not kept could be promised again by the one that takes over, so they are refused while the store is out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Final

from ztnode import plugins
from ztnode.hookspecs import LeaseLost, SharedStore
from ztnode.node.ahead import changes
from ztnode.node.lease import BEAT, Lease
from ztnode.plugins.stores import MAX_VALUE_BYTES, check_key

log = logging.getLogger(__name__)

RETRY_EVERY: Final = 1.0
STRICT: Final = "controller.d/network/"
"""Keys that begin so are written or refused, never kept back."""


class SharedState:
    """See ``StateStore``. Raises LeaseLost for what this node may not write any more."""

    def __init__(self, store: SharedStore, lease: Lease, name: str) -> None:
        """Nothing is known until ``load``. ``name``: the store in words for the log."""
        self._store = store
        self._lease = lease
        self._name = name
        self._values: dict[str, bytes] = {}
        self._loading = True
        self._missed: dict[str, bytes | None] = {}
        self._out = False
        self._lock = threading.Lock()
        """For what is here; never held while the store is asked."""
        self._calls = threading.Lock()
        """For the store: one call at a time."""
        self._over = threading.Event()
        self._wake = threading.Event()
        self._retrier = threading.Thread(target=self._retry_on, name="ztnode-state-retry", daemon=True)
        self._retrier.start()

    def load(self, known: dict[str, bytes] | None = None) -> None:
        """Read what the store has, once the lease is ours and kept; of ``known``, which is ours from now on, only what
        is something else by now. Raises OSError, naming the key of a value that cannot be state."""
        values, read = known or {}, 0
        ahead = len(values)
        for key, value in changes(self._store, values):
            read += 1
            if value is None:
                values.pop(key, None)
                continue
            if not isinstance(value, bytes) or len(value) > MAX_VALUE_BYTES:
                raise OSError(f"{key} in the store is damaged: larger than {MAX_VALUE_BYTES} bytes")
            values[key] = value
        for key in [key for key in values if not _is_key(key)]:
            log.warning("%r in the store is nothing of ours and is left alone", key[:200])
            del values[key]
        with self._lock:
            if not self._loading:
                raise ConnectionError(f"{self._name} lost what it had while it was read")
            self._loading = False
            self._values = values
        if ahead:
            log.info("%s: %d of %d values are other than when they were read in advance", self._name, read, len(values))

    def read(self, key: str) -> bytes | None:
        """See StateStore."""
        if (value := self._values.get(key)) is None:
            check_key(key)
        return value

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
        with self._lock:
            if self._loading:  # there is nothing yet that could be
                self._loading = False
                return
        log.error("%s has lost what was kept there: all of it is written again from memory", self._name)
        with self._lock:
            self._missed = {**self._values, **self._missed}
            self._out = True
        self._wake.set()

    def close(self) -> None:
        """See StateStore. What could not be written until now is named and lost."""
        self._over.set()
        self._wake.set()
        self._retrier.join()
        if self._missed and self._lease.is_held():
            self._catch_up()
        if self._missed:
            log.error("%s: not written: %s", self._name, ", ".join(sorted(self._missed)))
        self._lease.release()
        self._store.close()

    def _put(self, key: str, value: bytes | None) -> None:
        if not self._lease.is_held():
            raise LeaseLost("another node may have the store by now")
        strict = key.startswith(STRICT)
        with self._lock:
            if self._out:
                if strict:
                    raise ConnectionError(f"{self._name} does not answer")
                self._remember(key, value)
                self._missed[key] = value
                return
        try:
            with self._calls:
                self._send(key, value)
        except (ConnectionError, TimeoutError) as error:
            if not strict:
                with self._lock:
                    self._remember(key, value)
                    self._missed[key] = value
            self.out(error)
            if strict:
                raise
        else:
            with self._lock:
                self._remember(key, value)
                if key in self._missed:  # all is being written again, and that one is older
                    self._missed[key] = value

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
        while True:
            self._wake.wait()
            if self._over.wait(RETRY_EVERY):
                return
            self._wake.clear()
            if not self._catch_up():
                self._wake.set()

    def _catch_up(self) -> bool:
        """Write what was missed; whether the store answers."""
        written = 0
        try:
            while True:
                with self._lock:
                    missed = next(iter(self._missed.items()), None)
                    if missed is None and written:
                        self._out = False
                        break
                if missed is None:
                    with self._calls:
                        self._store.read(BEAT)  # nothing to write, and does it answer?
                    with self._lock:
                        if self._missed:
                            continue
                        self._out = False
                    break
                key, value = missed
                try:
                    with self._calls:
                        self._send(key, value)
                except LeaseLost:
                    return True  # the node goes offline, and names them when it closes
                except (ConnectionError, TimeoutError):
                    raise
                except OSError as error:
                    log.error("cannot keep %s: %s", key, error)
                written += 1
                with self._lock:
                    if self._missed.get(key, b"") is value:
                        del self._missed[key]
        except (ConnectionError, TimeoutError):
            return False
        except Exception as error:  # a plugin's own fault must not end this thread
            log.error("%s: %s", self._name, plugins.describe(error))
            return False
        log.warning("%s answers again; what it missed is written: %d values", self._name, written)
        return True

    def out(self, error: Exception) -> None:
        """The store does not answer: say so once, and try until it does."""
        with self._lock:
            known, self._out = self._out, True
        if not known:
            log.warning("%s does not answer (%s): going on from memory", self._name, error)
        self._wake.set()


def _is_key(key: str) -> bool:
    try:
        check_key(key)
    except ValueError:
        return False
    return True
