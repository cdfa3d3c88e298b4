"""What leaves a node whose lease ends meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.node.test_lease import Clock, Shared
from ztnode.node.assembly import Parts
from ztnode.node.data_path import TRAFFIC_SLACK, DataPath
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


def test_the_layers_are_asked_for_their_timers_after_traffic_and_not_with_each_batch() -> None:
    """Yet what a batch has brought about is not forgotten, and an idle node is not woken for nothing."""
    asked: list[float] = []
    alarm = asyncio.Event()
    handled: list[float] = []

    def next_timer() -> float:
        asked.append(time.monotonic())
        alarm.set()
        return time.monotonic() + 3600

    def layer(**methods: Any) -> Any:
        methods["has_news"] = False
        return SimpleNamespace(next_timer=next_timer, handle_timer=handled.append, **methods)

    parts: Any = SimpleNamespace(
        vl1=layer(receive=lambda *_: None, messages=list, to_send=list, favored_endpoints=lambda *_: []),
        vl2=layer(frames=list),
        controller=None,
        documents=None,
        transport=SimpleNamespace(send=None, favor=lambda _endpoints: None),
        lease=None,
    )

    async def traffic() -> None:
        path = DataPath(cast(Parts, parts), cast(Ports, None), lambda: None)
        for _ in range(100):
            path.receive([(b"x", ("192.0.2.1", 1))])
        assert not asked
        await asyncio.wait_for(alarm.wait(), 30)
        assert len(handled) == len(asked) == 2  # one of each layer
        await asyncio.sleep(5 * TRAFFIC_SLACK)
        assert len(handled) == 2
        path.close()

    asyncio.run(traffic())
