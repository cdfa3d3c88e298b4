"""Ctrl-C while there is nothing to clean up."""

from __future__ import annotations

import signal
import subprocess
import sys

SWALLOWS = """
import os, signal, time
from ztnode.cli.interrupts import ended_by_interrupt

class Watched:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

with ended_by_interrupt():
    Watched()
    print("goes on", flush=True)
"""

INTERRUPTS = """
import os, signal, sys
from ztnode.cli import main

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == WANTED:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv[:] = ["ztnode", "serve", "--state", os.devnull]
main()
"""


def test_an_interrupt_that_python_would_forget_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_handlers_of_others_are_left_alone() -> None:
    code = (
        "import signal; from ztnode.cli.interrupts import ended_by_interrupt as ended\n"
        "default = signal.default_int_handler\n"
        "with ended(): assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL\n"
        "assert signal.getsignal(signal.SIGINT) is default; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with ended(): assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_during_the_import_of_a_command_is_not_forgotten() -> None:
    for module in ("ztnode.cli.app", "ztnode.cli.serve_command", "ztnode.serve"):
        program = INTERRUPTS.replace("WANTED", repr(module))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (-signal.SIGINT, ""), module
