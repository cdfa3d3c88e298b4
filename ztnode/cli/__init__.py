"""The command line, `ztnode`. ``common``: the conventions that every command follows; ``app``: the list of commands."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script. Ends the process: 0 done, 1 an error in one line, 2 bad usage, 130 Ctrl-C."""
    from ztnode.cli.app import run

    sys.exit(run(sys.argv[1:]))
