"""Ctrl-C at moments when Python would forget it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter

from tests.unit.fake_node import RunningNode

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

DROPPED = """
import os, signal, sys, time
from ztnode.cli.interrupts import interruptible

class Watched:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def work():
    try:
        Watched()
        time.sleep(60)
    finally:
        print("cleans up")

try:
    interruptible(work)
except KeyboardInterrupt:
    print("interrupted")
"""

AT_MANY_MOMENTS = """
import collections, os, signal, sys
from ztnode.cli import main

seen, ends = collections.Counter(), collections.Counter()

def hit(name):
    kind = next((each for each in ("_get_module_lock.<locals>.cb", "__set_name__") if name.endswith(each)), "")
    seen[kind] += 1
    return seen[kind] % {"__set_name__": 60, "": 8000}.get(kind, 30) == 5

def watch(frame, event, argument):
    if event != "call":
        return
    name = frame.f_code.co_qualname
    if name == "insecure_channel":  # with gRPC's threads there is no fork
        sys.setprofile(None)
        print(dict(ends), flush=True)
    elif hit(name):
        sys.setprofile(None)
        if child := os.fork():
            ends[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
            sys.setprofile(watch)
        else:
            os.kill(os.getpid(), signal.SIGINT)

sys.argv[:] = ["ztnode", "peers", "--json"]
sys.setprofile(watch)
main()
"""
"""A command of which a copy gets Ctrl-C every so many calls of a function, on the way to its channel to the node."""


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


def test_an_interrupt_that_python_dropped_comes_again() -> None:
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleans up\ninterrupted\n", "")


def test_a_client_command_forgets_no_interrupt_on_its_way_to_the_node(running_node: RunningNode) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_MANY_MOMENTS],
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.strip() == ""
    ends, _, rest = done.stdout.partition("\n")
    assert rest.startswith("[")  # the command itself, which nobody interrupted
    counted: Counter[int] = Counter(ast.literal_eval(ends))
    assert set(counted) == {130, -signal.SIGINT}
    assert counted[130] > 5
