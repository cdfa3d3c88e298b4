"""Exit codes beside 0 (done), 1 (an error in one line) and 2 (bad usage)."""

from __future__ import annotations

STORE_HELD = 75
"""Another node holds the store, and this one was told not to wait: EX_TEMPFAIL of sysexits(3)."""

INTERRUPTED = 130
"""After Ctrl-C: 128 and the number of SIGINT, as shells have it."""

PIPE_CLOSED = 141
"""The reader of our output went away: 128 and the number of SIGPIPE."""
