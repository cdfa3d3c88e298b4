"""Exit codes beside 0 (done), 1 (an error in one line) and 2 (bad usage)."""

from __future__ import annotations

INTERRUPTED = 130
"""After Ctrl-C: 128 and the number of SIGINT, as shells have it."""

PIPE_CLOSED = 141
"""The reader of our output went away: 128 and the number of SIGPIPE."""
