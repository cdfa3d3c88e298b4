"""How soon a restarted root has its members back: a real root, and members with real sockets and hardly anything else.

    python -m tests.lab.readmission COUNT...

The members share two processes and one /24 of loopback, each with a VL1 and a UDP socket of its own, and say something
to the root every second. The root starts with what it would have kept of them (``peers.d``); told is how long after the
start of its process, and after the first of them, so many have heard it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.system.harness import identities as identities_of_zerotier
from tests.unit.vl1.test_vl1_hostile import made_up
from ztnode import worldtool
from ztnode.embedded import free_port
from ztnode.hookspecs import Datagrams
from ztnode.node.home import IDENTITY_PUBLIC, IDENTITY_SECRET, PEERS
from ztnode.plugins.stores import FileStore
from ztnode.plugins.udp import UdpTransport
from ztnode.vl1 import Vl1
from ztnode.wire.identity import Identity
from ztnode.wire.packet import VERB_ECHO
from ztnode.wire.world import World

PROCESSES: Final = 2
PATIENCE: Final = 120.0


class Member:
    """One node without networks."""

    def __init__(self, identity: Identity, planet: World) -> None:
        now = time.monotonic()
        self.vl1 = Vl1(identity, planet, random=os.urandom, now=now, wall=int(time.time() * 1000))
        self.root = planet.roots[0].identity.address
        self._transport = UdpTransport()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Bind, and greet the root."""
        await self._transport.open(0, self._receive)
        self._say_something()

    def _say_something(self) -> None:
        """An idle node would not notice for up to 14 s that there is another root."""
        self.vl1.send(self.root, VERB_ECHO, b"", time.monotonic())
        self._settle()
        asyncio.get_running_loop().call_later(1.0, self._say_something)

    def send(self, address: int, verb: int, payload: bytes) -> None:
        """Send a message."""
        self.vl1.send(address, verb, payload, time.monotonic())
        self._settle()

    def heard(self) -> float:
        """When the root was last heard, monotonic seconds; these are the same in all processes of a host."""
        peer = self.vl1.peer(self.root)
        return float("-inf") if peer is None or not self.vl1.online else peer.last_receive

    def _receive(self, batch: Datagrams) -> None:
        self.vl1.receive(batch, time.monotonic())
        self._settle()

    def _wake(self) -> None:
        self._timer = None
        self.vl1.handle_timer(time.monotonic())
        self._settle()

    def _settle(self) -> None:
        self.vl1.messages()
        self.vl1.events()
        for endpoint, datagrams in self.vl1.to_send():
            self._transport.send(endpoint, datagrams)
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.001, (self.vl1.next_timer() or 0.0) - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)


def members(identities: list[str], planet: bytes, pipe: Connection) -> None:
    """Run these, and answer each time that is sent by how many have heard the root since."""

    async def run() -> None:
        world = World.parse(planet)
        crowd = [Member(Identity.parse_text(text), world) for text in identities]
        for member in crowd:
            await member.start()
        loop = asyncio.get_running_loop()
        asked: asyncio.Queue[float | None] = asyncio.Queue()
        loop.add_reader(pipe.fileno(), lambda: asked.put_nowait(pipe.recv()))
        while (since := await asked.get()) is not None:
            pipe.send(sum(member.heard() > since for member in crowd))

    asyncio.run(run())


def measure(count: int) -> tuple[float, float]:
    """Seconds from the start of the root's process until the first and the last member have heard it."""
    identities = made_up(count)
    root = Identity.parse_text(next(identities_of_zerotier()).build_text(include_secret=True))
    with tempfile.TemporaryDirectory() as folder:
        state, port = Path(folder), free_port()
        entry = worldtool.parse_root(root.build_text(), [f"127.0.0.1/{port}"])
        secret = worldtool.WorldSecret.generate(os.urandom)
        planet = worldtool.create_world([entry], secret, int(time.time() * 1000))
        (state / "the.planet").write_bytes(planet)
        store = FileStore(state / "zerotier")
        store.write(IDENTITY_SECRET, root.build_text(include_secret=True).encode())
        store.write(IDENTITY_PUBLIC, root.build_text().encode())
        store.write(PEERS, _kept(root, World.parse(planet), identities))
        store.close()
        context = multiprocessing.get_context("spawn")
        pipes, crowd = [], []
        for share in range(PROCESSES):
            ours, theirs = context.Pipe()
            texts = [identity.build_text(include_secret=True) for identity in identities[share::PROCESSES]]
            crowd.append(context.Process(target=members, args=(texts, planet, theirs), daemon=True))
            crowd[-1].start()
            pipes.append(ours)
        _heard(pipes, 0.0)  # they are there
        command = [sys.executable, "-m", "ztnode", "serve", "--root", "--unlisted", "--state", folder]
        command += ["--planet", str(state / "the.planet"), "--port", str(port)]
        started, first = time.monotonic(), 0.0
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while (passed := time.monotonic() - started) < PATIENCE:
                heard = _heard(pipes, started)
                first = first or (passed if heard else 0.0)
                if heard == count:
                    return first, passed
                time.sleep(0.02)
            raise SystemExit(f"{heard} of {count} members are there after {PATIENCE:g} s")
        finally:
            process.kill()
            process.wait()
            for member in crowd:
                member.kill()


def _kept(root: Identity, planet: World, identities: Sequence[Identity]) -> bytes:
    """What a root that knew these would have written."""
    now = time.monotonic()
    before = Vl1(root, planet, random=os.urandom, now=now, wall=int(time.time() * 1000))
    for identity in identities:
        before.add_peer(identity.without_secret(), now).last_receive = now
    return before.known_peers(now)


def _heard(pipes: Sequence[Connection], since: float) -> int:
    for pipe in pipes:
        pipe.send(since)
    return sum(pipe.recv() for pipe in pipes)


def main() -> None:
    """See the module."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for count in map(int, sys.argv[1:]):
        first, last = measure(count)
        print(f"{count} members behind one /24: the first {first:.1f} s after the root's start,", end=" ")
        print(f"all {last - first:.1f} s later", flush=True)


if __name__ == "__main__":
    main()
