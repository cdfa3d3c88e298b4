"""How soon a connection that was lost is made again."""

from __future__ import annotations

import asyncio

import pytest

from ztnode.plugins import reconnecting
from ztnode.plugins.reconnecting import FIRST_PAUSE, LONGEST_PAUSE, Reconnecting


@pytest.mark.parametrize("useful", [True, False])
@pytest.mark.parametrize("steady", [True, False])
def test_only_one_that_was_of_use_and_stood_is_tried_again_at_once(
    useful: bool, steady: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            raise asyncio.CancelledError

    async def dial() -> asyncio.Future[bool]:
        lost = asyncio.get_running_loop().create_future()
        lost.set_result(useful)
        return lost

    monkeypatch.setattr(reconnecting, "sleep", sleep)
    monkeypatch.setattr(reconnecting, "STEADY", 0.0 if steady else 10.0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Reconnecting("a relay", dial).run())
    if useful and steady:
        assert max(pauses) <= FIRST_PAUSE
    else:
        assert pauses[-1] >= 0.75 * LONGEST_PAUSE
        assert sum(pauses) > 4 * LONGEST_PAUSE
