"""Announces a running node to this user's clients. ``ztclient.discovery`` says where, in what form, and reads it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ztclient import discovery


class Registration:
    """An entry in the registry for as long as this object is open. Use as a context manager, or call ``close``."""

    def __init__(self, address: str, state: Path) -> None:
        """``address``: in a form of ztclient.discovery. ``state``: the state directory. Raises OSError."""
        directory = discovery.runtime_directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not discovery.is_private(directory):
            raise PermissionError(
                errno.EACCES, f"{directory} is not a directory of this user with mode 0700; clients would not trust it"
            )
        real = os.path.realpath(state)
        values = {"address": address, "state": real, "pid": os.getpid(), "started": time.time()}
        # Named by the state directory, which one node at a time holds: a new node replaces what a crashed one left.
        self._path = directory / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}.json"
        scratch = self._path.with_suffix(f".{os.getpid()}.tmp")
        self._descriptor = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it gets its name: whoever finds the entry finds it alive.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.write(self._descriptor, json.dumps(values).encode())
            scratch.replace(self._path)
        except BaseException:
            os.close(self._descriptor)
            scratch.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Withdraw the entry. Safe to call twice."""
        if self._descriptor < 0:
            return
        with suppress(FileNotFoundError):
            # Not an entry that a later node of the same state directory has put in its place.
            if self._path.stat().st_ino == os.fstat(self._descriptor).st_ino:
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
