"""The command line, `ztnode`. ``common``: the conventions that every command follows; ``app``: the list of commands."""

from __future__ import annotations

import sys
from typing import NoReturn

from ztnode.cli.exit_codes import INTERRUPTED
from ztnode.cli.interrupts import ended_by_interrupt, interruptible
from ztnode.descriptors import open_missing_standard_descriptors


def main() -> NoReturn:
    """The console script. Ends the process: 0 done, 1 an error in one line, 2 bad usage, 130 Ctrl-C."""
    try:
        open_missing_standard_descriptors()
        with ended_by_interrupt():
            from ztnode.cli.app import run

        code = interruptible(lambda: run(sys.argv[1:]))
    except KeyboardInterrupt:  # before a command was there, or while an error was being told
        code = INTERRUPTED
    sys.exit(code)
