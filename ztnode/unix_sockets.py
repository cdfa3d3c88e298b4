"""Whether a directory can hold Unix sockets: many that come from another machine (9p, SMB, shared folders) cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Final

_OTHER_REASONS: Final = frozenset(
    (errno.EACCES, errno.EADDRINUSE, errno.EDQUOT, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EROFS)
)
"""For which a socket cannot be made that say nothing of what the directory can hold."""


def refusal(path: str) -> OSError | None:
    """Why there can be no Unix socket at ``path``; None where there can, or one is. One is made for it, and taken away
    again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(path)
        except OSError as error:
            return None if error.errno in _OTHER_REASONS else error
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - the callers have paths as text
    return None
