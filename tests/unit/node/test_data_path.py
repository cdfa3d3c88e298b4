"""What leaves a node whose lease ends meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.node.test_lease import Clock, Shared
from ztnode.node.assembly import Parts
from ztnode.node.data_path import DataPath
from ztnode.node.lease import HELD_FOR, Lease
from ztnode.node.ports import Ports
from ztnode.wire.endpoint import Endpoint


@pytest.mark.parametrize("ends", ["before", "while documents are kept", "between two sends"])
def test_not_a_word_is_said_after_the_lease(ends: str) -> None:
    """However long anything takes: a store that is slow, a process that is frozen in the middle of a batch."""
    clock = Clock()
    lease = Lease(Shared(), token="ours", clock=clock)
    assert lease.try_take() is None
    said: list[Endpoint] = []

    def freeze(when: str) -> None:
        if ends == when:
            clock.now += HELD_FOR

    def send(endpoint: Endpoint, _datagrams: Sequence[bytes]) -> int:
        assert lease.is_held()
        said.append(endpoint)
        freeze("between two sends")
        return 0

    batches = [(("192.0.2.1", port), [b"x"]) for port in range(1, 9)]
    parts: Any = SimpleNamespace(
        vl1=SimpleNamespace(to_send=lambda: batches),
        vl2=None,
        controller=SimpleNamespace(changed_documents=list),
        documents=SimpleNamespace(keep=lambda _changes: freeze("while documents are kept")),
        transport=SimpleNamespace(send=send),
        lease=lease,
    )

    async def flush() -> None:
        path = DataPath(cast(Parts, parts), cast(Ports, None), lambda: None)
        freeze("before")
        path.flush()
        path.flush()

    asyncio.run(flush())
    assert len(said) == (1 if ends == "between two sends" else 0)
