"""Ctrl-C before there is a loop."""

from __future__ import annotations

import signal
import subprocess
import sys

SWALLOWS = """
import os, signal, time
from ztnode.cli.on_loop import ended_by_interrupt

class Watched:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

with ended_by_interrupt():
    Watched()
    print("goes on", flush=True)
"""


def test_an_interrupt_that_python_would_forget_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_handlers_of_others_are_left_alone() -> None:
    code = (
        "import signal; from ztnode.cli.on_loop import ended_by_interrupt as ended\n"
        "default = signal.default_int_handler\n"
        "with ended(): assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL\n"
        "assert signal.getsignal(signal.SIGINT) is default; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with ended(): assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
