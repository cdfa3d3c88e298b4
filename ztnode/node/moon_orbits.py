"""The moons of a node: which it orbits, which it looks for, and what of that is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ztnode.node import snapshots
from ztnode.node.api import MoonInfo
from ztnode.node.home import Home
from ztnode.vl1 import Vl1
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World


class MoonOrbits:
    """What NodeApi says of moons. ``pump`` has the node send what follows."""

    def __init__(self, vl1: Vl1, home: Home, pump: Callable[[float], None]) -> None:
        self._vl1 = vl1
        self._home = home
        self._pump = pump

    def all(self) -> Sequence[MoonInfo]:
        """Those that are known, then those that are looked for."""
        wanted = [MoonInfo(moon, seed, 0, ()) for moon, seed in self._vl1.moon_seeds.items()]
        return [snapshots.moon(moon) for moon in self._vl1.moons] + wanted

    async def orbit(self, moon: int, seed: int) -> MoonInfo:
        """See NodeApi."""
        now = time.monotonic()
        self._vl1.orbit(moon, seed, now)
        info = self._one(moon)
        if info.seed is not None:
            try:
                await asyncio.wrap_future(self._home.keep_seed(moon, seed))
            except OSError:
                self._vl1.deorbit(moon, now)
                raise
        self._pump(time.monotonic())
        return info

    async def orbit_world(self, data: bytes) -> MoonInfo:
        """See NodeApi."""
        try:
            moon = World.parse(data)
        except WireError as error:
            raise ValueError(f"this is no moon file: {error}") from None
        now = time.monotonic()
        self._vl1.add_moon(moon, now)
        await asyncio.wrap_future(self._home.keep_moon(moon.id, data))
        self._pump(time.monotonic())
        return self._one(moon.id)

    async def deorbit(self, moon: int) -> None:
        """See NodeApi."""
        if all(known.id != moon for known in self.all()):
            raise KeyError(moon)
        await asyncio.wrap_future(self._home.forget_moon(moon))
        now = time.monotonic()
        self._vl1.deorbit(moon, now)
        self._pump(now)

    def _one(self, moon_id: int) -> MoonInfo:
        return next(moon for moon in self.all() if moon.id == moon_id)
