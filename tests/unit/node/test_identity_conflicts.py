"""Another host with our identity, as it is told."""

from __future__ import annotations

import asyncio
from typing import Any

from ztnode.node import identity_conflicts
from ztnode.node.identity_conflicts import IdentityConflicts


class FakeVl1:
    """Says what a test wants."""

    shared = False

    def is_shared(self, _now: float) -> bool:
        return self.shared


def test_it_is_told_when_it_begins_and_when_its_signs_are_gone(monkeypatch: Any) -> None:
    monkeypatch.setattr(identity_conflicts, "CHECK_EVERY", 0.0)
    vl1: Any = FakeVl1()

    async def look() -> None:
        conflicts = IdentityConflicts(vl1)
        watched = conflicts.watch()
        assert await anext(watched) == ""
        vl1.shared = True
        conflicts.shared()
        assert "another host runs with this node's identity" in await anext(watched)
        vl1.shared = False
        while (told := await anext(watched)) != "":
            assert "another host" in told
        conflicts.close()
        assert [told async for told in watched] == []

    asyncio.run(look())


def test_a_collision_stays() -> None:
    async def look() -> None:
        vl1: Any = FakeVl1()
        conflicts = IdentityConflicts(vl1)
        conflicts.collided(0x9D219039F3)
        assert "another node has this node's address" in conflicts.text()
        conflicts.close()

    asyncio.run(look())
