"""What a node notices of its host."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ztnode.node import host_watch, interfaces
from ztnode.node.host_watch import HostWatch
from ztnode.wire.endpoint import Endpoint


class FakeVl1:
    """Remembers where it was told that the host can be reached."""

    def __init__(self) -> None:
        self.told: list[list[Endpoint]] = []
        self._enough: tuple[int, asyncio.Event] | None = None
        self.surface_addresses: list[Endpoint] = []

    def set_local_endpoints(self, endpoints: list[Endpoint]) -> None:
        self.told.append(endpoints)
        if self._enough is not None and len(self.told) >= self._enough[0]:
            self._enough[1].set()

    async def told_times(self, count: int) -> None:
        self._enough = count, asyncio.Event()
        await self._enough[1].wait()


def watch(state: Path, vl1: FakeVl1, ports: list[Endpoint], pumped: list[float]) -> HostWatch:
    parts: Any = SimpleNamespace(
        vl1=vl1,
        transport=SimpleNamespace(local_endpoints=lambda: ports),
        local_conf=SimpleNamespace(avoided_interfaces=()),
    )
    return HostWatch(state, parts, pumped.append)


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "addresses", lambda *_avoided: ["192.0.2.1", "2001:db8::1"])


def test_vl1_is_told_of_this_hosts_addresses_and_of_a_mapped_port(tmp_path: Path) -> None:
    vl1 = FakeVl1()
    pumped: list[float] = []

    async def look() -> None:
        host = watch(tmp_path, vl1, [("0.0.0.0", 9993)], pumped)
        host.start(map_port=True)
        assert host.port == 9993 and host.asks_router and host.mapped is None
        host._on_mapped(("203.0.113.7", 41000))
        host.stop_looking()
        await host.close()

    asyncio.run(look())
    own = [("192.0.2.1", 9993), ("2001:db8::1", 9993)]
    assert vl1.told == [own, [*own, ("203.0.113.7", 41000)]]
    assert len(pumped) == 1


def test_without_a_port_of_ours_there_is_nothing_to_tell_or_to_map(tmp_path: Path) -> None:
    vl1 = FakeVl1()

    async def look() -> None:
        host = watch(tmp_path, vl1, [], [])
        host.start(map_port=True)
        assert host.port == 0 and not host.asks_router
        host.stop_looking()

    asyncio.run(look())
    assert vl1.told == [[]]


def test_a_state_that_is_gone_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_watch, "PERIOD", 0.0)
    vl1 = FakeVl1()
    state = tmp_path / "st"
    state.mkdir()

    async def look() -> None:
        host = watch(state, vl1, [("0.0.0.0", 9993)], [])
        host.start(map_port=False)
        state.rmdir()
        await vl1.told_times(4)
        host.stop_looking()

    with caplog.at_level(logging.ERROR):
        asyncio.run(look())
    assert [record.getMessage().count("was removed or replaced") for record in caplog.records] == [1]
