"""Memory goes back some time after much of it has become free, and once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ztnode.worker.give_back import DELAY, WORTH, GiveBack


def test_it_is_due_once_after_much_has_become_free() -> None:
    give_back = GiveBack()
    give_back.held(2 * WORTH, 1.0)
    give_back.held(WORTH + 1, 2.0)
    assert not give_back.due
    give_back.held(0, 3.0)
    assert give_back.due == 3.0 + DELAY
    give_back.held(0, 3.5)
    assert give_back.due == 3.0 + DELAY
    give_back.handle_timer(0)
    give_back.held(WORTH, 9.0)
    give_back.held(1, 10.0)
    assert not give_back.due


PROGRAM = """
from ztnode.worker.give_back import trim
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
kept = [bytes(20_000) for _ in range(5_000)]
small = [piece[:5_000] for piece in kept]
del kept
before = resident()
del small[1:]
trim()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc alone is asked")
def test_malloc_returns_what_it_kept() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 10 << 20
