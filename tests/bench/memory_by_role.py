"""What strangers and peers can make a node hold in all: ``python -m tests.bench.memory_by_role``.

Fills every table of VL1 that they reach, one after the other, in a process of its own for each role, and says by how
much the process grew: packets of unknown senders, waiting for their identity, from as many networks as there are
places; incomplete packets; HELLOs of new identities; and as many peers as are kept, each with as many packet ids as are
remembered. Their identities are taken as proved: to make so many real ones takes hours.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Final

from tests.bench import machine
from tests.lab.flood import forged
from tests.unit.vl1.test_vl1_hostile import hello_from, made_up, pair
from tests.unit.vl1.vl1_network import Host, Network
from ztnode.vl1.peer import MAX_UNTRUSTED_PATHS, Peer
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys

ROLES: Final = {"leaf": 4096, "root": 16384}
"""Peers that are kept."""
JUNK: Final = 100_000
IDS: Final = 4096
"""More than are remembered of any peer."""


def sources(count: int) -> Iterator[Endpoint]:
    """Each in a network of its own."""
    for number in range(count):
        yield f"11.{number >> 8 & 255}.{number & 255}.{number >> 16 & 255}", 9993


def flood(victim: Host, made: Callable[[int], bytes], count: int, start: float) -> None:
    """Within two seconds, for that is how long some of it is kept."""
    batch: list[tuple[bytes, Endpoint]] = []
    for number, source in enumerate(sources(count)):
        batch.append((made(number), source))
        if len(batch) == 64:
            victim.vl1.receive(batch, start + 2 * number / count)
            victim.vl1.to_send(), victim.vl1.messages(), victim.vl1.events()
            batch = []


def fill(role: str) -> Iterator[tuple[str, float]]:
    """Each step, and the megabytes that the process has by then more than at the start."""
    network = Network()
    root, one, _ = pair(network)
    victim = root if role == "root" else one
    own = victim.address.to_bytes(5, "big")
    strangers = made_up(2048)
    hellos = [hello_from(stranger, victim.vl1.identity) for stranger in strangers]
    before = resident()
    flood(victim, lambda _: forged("junk", own, "")[:18] + b"\x18" + os.urandom(1381), JUNK, network.now)
    yield "packets of unknown senders", resident() - before
    flood(victim, lambda _: forged("heads", own, "") + os.urandom(1000), JUNK, network.now + 60)
    yield "incomplete packets", resident() - before
    flood(victim, lambda number: hellos[number % 2048], JUNK, network.now + 120)
    yield "new identities", resident() - before
    topology = victim.vl1._core.topology
    now = network.now + 180
    peers = []
    for number, source in enumerate(sources(ROLES[role])):
        identity = Identity(0x2000000000 + number, os.urandom(64))
        peers.append(topology.insert(Peer(identity, PeerKeys(os.urandom(48)))))
        for path in range(MAX_UNTRUSTED_PATHS):
            peers[-1].learn((source[0], 1024 + path), now, 1432)
    yield f"peers with {MAX_UNTRUSTED_PATHS} paths each", resident() - before
    victim.vl1.handle_timer(now)
    for peer in peers:
        for _ in range(IDS):
            peer.seen.is_new(os.urandom(8))
    yield "their packet ids", resident() - before


def resident() -> float:
    """Megabytes."""
    gc.collect()
    return machine.resident([os.getpid()]) / 1e6


def main(roles: list[str]) -> None:
    """Print a table."""
    for role in roles:
        if len(roles) > 1:
            subprocess.run([sys.executable, "-m", "tests.bench.memory_by_role", role], check=True)
            continue
        for step, size in fill(role):
            print(f"{role:12}{'... and ' + step:40}{size:8.1f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ROLES))
