"""A router's port is asked for, kept, told and given back; ``tests/netns/test_port_mapping.py`` has a real router."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztnode.node import pcp, port_mapping
from ztnode.node.pcp import NatPmp, Pcp, PortMappingError
from ztnode.node.port_mapping import PortMapping, default_gateway
from ztnode.wire import port_mapping as wire
from ztnode.wire.endpoint import Endpoint

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0132A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0032A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


def test_the_default_gateway(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    assert default_gateway(tmp_path / "route") == "192.168.50.1"
    (tmp_path / "route").write_text("nonsense\nof\tanother\tkind\n")
    assert default_gateway(tmp_path / "route") is None
    assert default_gateway(tmp_path / "none") is None


class Way:
    """A mapper that gives what it is told to."""

    def __init__(self, name: str, *given: Endpoint | str) -> None:
        self.name = name
        self.given = list(given)
        self.lifetime: int | None = None
        self.unmapped = 0

    async def map(self, port: int, lifetime: int) -> tuple[Endpoint, int]:
        now = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        if isinstance(now, str):
            raise PortMappingError(now)
        return now, lifetime if self.lifetime is None else self.lifetime

    async def unmap(self, port: int) -> None:
        self.unmapped += 1


class Keeper:
    """A PortMapping whose waits are over when it is told so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ways: Way) -> None:
        self.told: list[Endpoint | None] = []
        self.waits: asyncio.Queue[float] = asyncio.Queue()
        self.go = asyncio.Semaphore(0)
        monkeypatch.setattr(port_mapping, "default_gateway", lambda: "192.168.50.1")
        monkeypatch.setattr(port_mapping, "_mappers", lambda _gateway: ways)
        monkeypatch.setattr(port_mapping, "sleep", self._sleep)
        self.mapping = PortMapping(9993, self.told.append)

    async def _sleep(self, seconds: float) -> None:
        await self.waits.put(seconds)
        await self.go.acquire()


def test_the_first_that_gives_is_kept_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        none = Way("PCP", "no answer")
        good = Way("NAT-PMP", ("80.1.1.31", 9993), ("80.1.1.31", 9993), ("80.1.1.31", 20000), "out of resources")
        keeper = Keeper(monkeypatch, none, good)
        keeper.mapping.start()
        assert await keeper.waits.get() == port_mapping.LIFETIME / 2
        for expected in (3600, 3600, port_mapping.AGAIN):
            keeper.go.release()
            assert await keeper.waits.get() == expected
        assert keeper.told == [("80.1.1.31", 9993), ("80.1.1.31", 20000), None]
        good.given = [("80.1.1.32", 9993)]
        keeper.go.release()
        await keeper.waits.get()
        await keeper.mapping.close()
        assert keeper.told[-1] == ("80.1.1.32", 9993) and good.unmapped == 1

    asyncio.run(check())


def test_a_router_behind_another_nat_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        inner = Way("UPnP", ("10.0.0.7", 9993))
        keeper = Keeper(monkeypatch, inner)
        keeper.mapping.start()
        assert await keeper.waits.get() == port_mapping.AGAIN
        await keeper.mapping.close()
        assert keeper.told == [] and inner.unmapped == 1

    asyncio.run(check())


@pytest.mark.parametrize(
    ("given", "asked_after"), [(0, port_mapping.SHORTEST / 2), (2**32 - 1, port_mapping.LIFETIME / 2)]
)
def test_a_router_does_not_choose_how_often_it_is_asked(
    given: int, asked_after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        way = Way("PCP", ("80.1.1.31", 9993))
        way.lifetime = given
        keeper = Keeper(monkeypatch, way)
        keeper.mapping.start()
        assert await keeper.waits.get() == asked_after
        await keeper.mapping.close()

    asyncio.run(check())


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in the place of the router's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        monkeypatch.setattr(wire, "PORT", sock.getsockname()[1])
        monkeypatch.setattr(pcp, "PATIENCE", (0.05, 0.05, 0.05))
        yield sock


def test_nonsense_and_silence(gateway: socket.socket) -> None:
    async def check() -> None:
        async def answer(*answers: bytes) -> None:
            for each in answers:
                _, client = await asyncio.to_thread(gateway.recvfrom, 2048)
                for _ in range(100):
                    gateway.sendto(each, client)

        with pytest.raises(PortMappingError, match="no answer"):
            await Pcp("127.0.0.1").map(9993, 7200)
        for _ in range(3):
            gateway.recv(2048)
        answering = asyncio.create_task(answer(b"nonsense" * 10, bytes.fromhex("0081 0001 00000001")))
        with pytest.raises(PortMappingError, match="speaks no PCP"):
            await Pcp("127.0.0.1").map(9993, 7200)
        await answering
        gave = bytes.fromhex("0081 0000 00000001 2709 4e20 00000e10")
        answering = asyncio.create_task(answer(gave, bytes.fromhex("0080 0000 00000001 5001011f")))
        assert await NatPmp("127.0.0.1").map(9993, 7200) == (("80.1.1.31", 20000), 3600)
        await answering

    asyncio.run(check())


def test_a_router_without_it_says_so_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PortMappingError, match="not offered"):
        patch.setattr(wire, "PORT", port)
        asyncio.run(NatPmp("127.0.0.1").map(9993, 7200))
