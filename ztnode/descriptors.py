"""File descriptors of a process: how many it may have, and the first three."""

from __future__ import annotations

import contextlib
import os
import resource
import sys


def raise_descriptor_limit() -> None:
    """Every client is a descriptor; the usual soft limit of 1,024 is for programs that call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_missing_standard_descriptors() -> None:
    """Open what is missing of 0, 1 and 2 on /dev/null: else the next file or socket gets that number, and what is
    printed goes there."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
        os.set_inheritable(descriptor, True)
    # Python found nothing there when it started, and has no streams for them.
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
