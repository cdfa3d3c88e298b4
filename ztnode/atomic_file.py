"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SCRATCH_PREFIX: Final = "."
SCRATCH_SUFFIX: Final = ".tmp"
"""Of the name that a file has while it is written. Who is killed meanwhile leaves one behind."""


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write ``content`` beside ``path``, flush it to the disk and give it its name: a reader, or the next start after a
    power failure, sees the old content or the new one whole.

    ``mode``: the new file's permissions, whatever the umask; at no moment has it more. ``replace`` False: raises
    FileExistsError where the name is taken, even by a file that came up at the last moment. Raises OSError,
    which names the file; what was there is untouched then.
    """
    scratch = path.with_name(f"{SCRATCH_PREFIX}{path.name}.{os.getpid()}{SCRATCH_SUFFIX}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(scratch, flags, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if replace:
            scratch.replace(path)
        else:
            # Unlike a rename, a link does not take the place of a file that came up meanwhile.
            os.link(scratch, path)
    except OSError as error:
        if error.filename is None:  # of a write, such as to a disk that is full
            error.filename = str(path)
        raise
    finally:
        scratch.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names that came or went in ``directory`` outlive a power failure. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
