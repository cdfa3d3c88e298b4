"""State stores: a directory laid out as a ZeroTier One home, and memory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from ztnode.atomic_file import SCRATCH_PREFIX, SCRATCH_SUFFIX, sync_directory, write_atomically
from ztnode.hookspecs import StateStore, hookimpl
from ztnode.plugins.url_scheme import url_scheme

log = logging.getLogger(__name__)

LOCK: Final = ".ztnode.lock"
MAX_VALUE_BYTES: Final = 1 << 20
"""No file of a ZeroTier home that we read is near this; a larger one is damage, not state."""


def check_key(key: str) -> PurePosixPath:
    """A key as a relative path. Raises ValueError for one that would leave the store."""
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or path.name.startswith("."):
        raise ValueError(f"not a state key: {key!r}")
    return path


class FileStore:
    """State in a directory. One process at a time: the directory is locked until ``close``."""

    def __init__(self, root: Path) -> None:
        """Open, making the directory where there is none. Raises OSError: not writable, or in use."""
        self._root = root
        self._made = not root.exists()
        while (held := _locked(root)) is None:
            pass  # whoever had it removed it with all the rest this moment
        self._lock, self._name = held
        self._remove_scratch()

    def read(self, key: str) -> bytes | None:
        """See StateStore. Raises OSError also for a file that is too large to be state."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                value = file.read(MAX_VALUE_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(value) > MAX_VALUE_BYTES:
            raise OSError(f"{path} is damaged: larger than {MAX_VALUE_BYTES} bytes")
        return value

    def write(self, key: str, value: bytes) -> None:
        """See StateStore."""
        path = self._path(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, value, mode=0o600 if key.endswith(".secret") else 0o644)

    def delete(self, key: str) -> None:
        """See StateStore."""
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_directory(path.parent)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See StateStore."""
        for path in sorted(self._root.rglob("*")):
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(".") and path.is_file() and not path.is_symlink():
                yield key

    def close(self) -> None:
        """Give the lock back. Where nothing was kept, as after a first start that failed, the lock goes with it,
        and so does the directory that we made."""
        if [entry.name for entry in self._root.iterdir()] == [LOCK]:
            (self._root / LOCK).unlink()
            if self._made:
                with contextlib.suppress(OSError):
                    self._root.rmdir()
        os.close(self._lock)
        if self._name is not None:
            self._name.close()

    def _path(self, key: str) -> Path:
        """Where a key is kept. Raises OSError where a link would lead out of the directory: it is ours, what it points
        to need not be."""
        relative = check_key(key)
        path = self._root
        for part in relative.parts:
            path = path / part
            if path.is_symlink():
                raise OSError(
                    errno.ELOOP, "is a symbolic link, which is not followed: put the real one there", str(path)
                )
        return path

    def _remove_scratch(self) -> None:
        """Remove what writers that were killed had begun. Nobody else writes here: we hold the lock."""
        for path in self._root.rglob(f"{SCRATCH_PREFIX}*{SCRATCH_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()


def _locked(root: Path) -> tuple[int, socket.socket | None] | None:
    """The descriptor of the directory's lock, made where there is none, and what stands for it where the file system
    has no locks; None if the file was removed meanwhile, so that another node would not find it locked. Raises OSError:
    not writable, or in use."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "is a file; state is kept in a directory", str(root)) from None
    refuse_other_owner(root)
    refuse_running_service(root)
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    name = None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise _in_use(root) from None
            name = _named(lock, root, error)
        if os.path.samestat(os.fstat(lock), (root / LOCK).stat()):
            return lock, name
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    if name is not None:
        name.close()
    return None


def _in_use(root: Path) -> OSError:
    return OSError(errno.EAGAIN, "in use by another node; stop that one or give another --state", str(root))


def _named(lock: int, root: Path, refused: OSError) -> socket.socket | None:
    """Where files cannot be locked (NFS without its lock service, some of FUSE): on Linux a name that the kernel gives
    to one process of this host at a time, and takes back at its end. Raises OSError: in use."""
    why = f"{root}: its file system has no locks ({refused.strerror})"
    if sys.platform != "linux":
        log.warning("%s: see to it yourself that no second node uses it", why)
        return None
    found = os.fstat(lock)
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0ztnode-state-{found.st_dev}-{found.st_ino}")
    except OSError:
        name.close()
        raise _in_use(root) from None
    log.warning("%s: a second node of this host is kept out, one of another host is not", why)
    return name


def refuse_other_owner(root: Path) -> None:
    """Raise OSError where the directory belongs to another user, who could read and change what is kept there. Root may
    own it, as it owns a mounted volume: root can do that anywhere."""
    owner = root.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise PermissionError(
            errno.EACCES, f"belongs to another user (id {owner}): chown it, or give another --state", str(root)
        )


def refuse_running_service(root: Path) -> None:
    """Raise OSError when a ZeroTier One service runs on this home: two nodes of one identity break both."""
    try:
        pid = int((root / "zerotier-one.pid").read_text())
        command = Path(f"/proc/{pid}/comm").read_text()
    except (OSError, ValueError):
        return
    if command.startswith("zerotier"):
        raise OSError(f"{root} is in use by zerotier-one (process {pid}); stop it or copy the directory")


class MemoryStore:
    """State that is forgotten with the process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def read(self, key: str) -> bytes | None:
        """See StateStore."""
        check_key(key)
        return self._values.get(key)

    def write(self, key: str, value: bytes) -> None:
        """See StateStore."""
        check_key(key)
        self._values[key] = bytes(value)

    def delete(self, key: str) -> None:
        """See StateStore."""
        self._values.pop(key, None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See StateStore."""
        yield from sorted(key for key in self._values if key.startswith(prefix))

    def close(self) -> None:
        """See StateStore."""
        self._values.clear()


@hookimpl(trylast=True)
def ztnode_state_store(url: str) -> StateStore | None:
    """``memory:`` or a directory's path; not what looks like another plugin's URL."""
    if url == "memory:":
        return MemoryStore()
    if url_scheme(url) is not None:
        return None
    return FileStore(Path(url).expanduser())
