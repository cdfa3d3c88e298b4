"""A state store for ztnode: ``ztnode serve --store sqlite:/var/lib/ztnode.db``, everything in one SQLite file.

For hosts that back up or replicate databases rather than directories. SQLite's own transactions make a write
atomic, and its exclusive lock keeps a second node out.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ztnode.hookspecs import StateStore, hookimpl

SCHEME: Final = "sqlite:"


class SqliteStore:
    """See ``ztnode.hookspecs.StateStore``."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, for its owner alone. Raises OSError."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
            # An exclusive-mode connection takes its lock with the first write, so write before anybody else can.
            self._database.execute("PRAGMA user_version = 1")
        except sqlite3.Error as error:
            self._database.close()
            raise OSError(f"cannot open {path}: {error}; is another node using it?") from error

    def read(self, key: str) -> bytes | None:
        """See StateStore."""
        row = self._execute("SELECT value FROM state WHERE key = ?", key).fetchone()
        return None if row is None else bytes(row[0])

    def write(self, key: str, value: bytes) -> None:
        """See StateStore."""
        self._execute("INSERT OR REPLACE INTO state VALUES (?, ?)", key, value)

    def delete(self, key: str) -> None:
        """See StateStore."""
        self._execute("DELETE FROM state WHERE key = ?", key)

    def keys(self, prefix: str = "") -> Iterable[str]:
        """See StateStore."""
        rows = self._execute("SELECT key FROM state ORDER BY key").fetchall()
        return [key for (key,) in rows if key.startswith(prefix)]

    def close(self) -> None:
        """See StateStore."""
        self._database.close()

    def _execute(self, statement: str, *arguments: str | bytes) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, arguments)
        except sqlite3.Error as error:
            raise OSError(f"state database: {error}") from error


@hookimpl
def ztnode_state_store(url: str) -> StateStore | None:
    """A store for ``sqlite:PATH``, otherwise not ours."""
    return SqliteStore(Path(url.removeprefix(SCHEME)).expanduser()) if url.startswith(SCHEME) else None
