"""The exception of an errno."""

from __future__ import annotations

import os


def os_error(number: int) -> OSError:
    """An OSError with its usual text; Python picks the subclass (ECONNREFUSED makes a ConnectionRefusedError)."""
    return OSError(number, os.strerror(number))
