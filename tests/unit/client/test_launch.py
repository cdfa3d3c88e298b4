"""``ztclient.run`` that is interrupted while its node starts."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest

from ztclient import launch

NWID = "ff00160016000000"


@pytest.fixture(autouse=True)
def node_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "_command", lambda: [sys.executable, "-c", "import sys; sys.stdin.read()"])
    yield
    assert not launch._users


def assert_ended(run: launch.Run) -> None:
    assert run._child is not None
    assert run._child.returncode is not None
    assert not run._state.exists()


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = 0

    def sleep(seconds: float, really: object = time.sleep) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps == 1:
            raise KeyboardInterrupt
        assert sleeps < 2000, "it waits for the lock that it holds itself"
        assert callable(really)
        really(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    run = launch.run(NWID)
    with pytest.raises(KeyboardInterrupt):
        run.__enter__()
    assert_ended(run)


def test_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        run = launch.run(NWID)
        entering = asyncio.create_task(run.__aenter__())
        monkeypatch.setattr(launch, "_load", entering.cancel)  # its node has been started
        async with asyncio.timeout(30):
            with pytest.raises(asyncio.CancelledError):
                await entering
        assert_ended(run)

    asyncio.run(main())
