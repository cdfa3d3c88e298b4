"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write ``content`` beside ``path``, flush it to the disk and give it its name.

    ``mode``: the new file's permissions. ``replace`` False: raises FileExistsError where the name is taken, even by a
    file that came up at the last moment. Raises OSError; what was there is untouched then.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            scratch.replace(path)
        else:
            # Unlike a rename, a link does not take the place of a file that came up meanwhile.
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
