"""Identities made with all cores: valid, stoppable, and never a process left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES
from ztnode.node import identity_pool
from ztnode.wire.identity import Identity

ENDLESS = """
from ztnode.node import identity_pool as pool
start = pool._start_helpers
def started(count):
    helpers = start(count)
    print(*(helper.pid for helper in helpers), flush=True)
    return helpers
pool._start_helpers = started
pool.try_candidate = lambda secret: None
pool._collect = lambda results: None
pool.generate_identity(2)
"""


def is_running(pid: int) -> bool:
    """A process that ended counts as gone even where nobody has asked for its exit status yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_an_identity_is_made_and_valid() -> None:
    identity = identity_pool.generate_identity(2)
    assert identity.secret is not None
    assert identity.validate()


def test_a_helper_alone_can_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process finds nothing, so the answer must come from the other."""
    monkeypatch.setattr(identity_pool, "try_candidate", lambda secret: time.sleep(0.05))
    identity = identity_pool.generate_identity(2)
    assert identity == Identity.parse_text(identity.build_text(include_secret=True))
    assert identity.validate()


def test_helpers_that_die_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = Identity(0x9AD07D0109, bytes(64), bytes(64))
    tries = iter([None] * 10 + [found])

    def slow_try(secret: bytes) -> Identity | None:
        time.sleep(0.05)
        return next(tries)

    monkeypatch.setattr(identity_pool, "try_candidate", slow_try)
    assert identity_pool.generate_identity(3) is found


def test_helpers_that_cannot_start_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    found = Identity(0x9AD07D0109, bytes(64), bytes(64))
    monkeypatch.setattr(identity_pool, "try_candidate", lambda secret: found)
    assert identity_pool.generate_identity(3) is found


def test_it_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_pool, "try_candidate", lambda secret: time.sleep(0.01))
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(CancelledError):
        identity_pool.generate_identity(1, stop)


def test_a_helper_ends_when_its_parent_is_gone() -> None:
    """Its standard input closes however the parent ended, SIGKILL included."""
    parent = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    helper = int(parent.stdout.readline())
    assert is_running(helper)
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not is_running(helper))


def test_ctrl_c_leaves_no_helper() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    helper = int(parent.stdout.readline())
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert wait_for(lambda: not is_running(helper))


def test_checks_are_made_by_helpers_that_go_away() -> None:
    good, bad = IDENTITIES[1].without_secret(), Identity(0x1234567890, IDENTITIES[1].public)

    async def check() -> list[int]:
        checks = identity_pool.IdentityChecks(2)
        assert await asyncio.gather(*(checks.check(identity) for identity in (good, bad, good))) == [True, False, True]
        helpers = [helper.pid for helper in checks._helpers]
        assert 1 <= len(helpers) <= 2
        assert all(is_running(helper) for helper in helpers)
        checks._retire()
        assert not checks._idle and await checks.check(good)
        helpers += [helper.pid for helper in checks._helpers]
        await checks.close()
        return helpers

    for helper in asyncio.run(check()):
        assert wait_for(lambda pid=helper: not is_running(pid))  # type: ignore[misc]


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent/python"])
def test_checks_go_on_without_helpers(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)

    async def check() -> bool:
        checks = identity_pool.IdentityChecks(1)
        verdict = await checks.check(IDENTITIES[1].without_secret())
        await checks.close()
        return verdict

    assert asyncio.run(check())
