"""First connections to a node, from others that it has never heard of: real sockets, and hardly anything else.

    python -m tests.lab.acquaintances PLANET ADDRESS COUNT

Each of them greets the planet's root; a second after the last is online they ask the node with this address for an
ECHO, one after the other. Prints the seconds until each has heard it, as JSON; null: not within ten.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import islice
from pathlib import Path

from tests.lab.readmission import Member
from tests.system.harness import identities
from ztnode.wire.identity import Identity
from ztnode.wire.packet import VERB_ECHO
from ztnode.wire.world import World

PATIENCE = 10.0


async def contact(member: Member, address: int) -> float | None:
    """Seconds until the node has answered; None: it has not."""
    started = time.monotonic()
    member.send(address, VERB_ECHO, b"who are you")
    while (passed := time.monotonic() - started) < PATIENCE:
        peer = member.vl1.peer(address)
        if peer is not None and peer.last_receive > started:
            return passed
        await asyncio.sleep(0.002)
    return None


async def run(planet: World, address: int, count: int) -> list[float | None]:
    """All of them."""
    made = [Identity.parse_text(each.build_text(include_secret=True)) for each in islice(identities(), count)]
    members = [Member(identity, planet) for identity in made]
    for member in members:
        await member.start()
    for _ in range(600):
        if all(member.vl1.online for member in members):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    return [await contact(member, address) for member in members]


if __name__ == "__main__":
    path, address, count = sys.argv[1:]
    print(json.dumps(asyncio.run(run(World.parse(Path(path).read_bytes()), int(address, 16), int(count)))))
