"""What messages of members, controllers and roots cost a member: ``python -m tests.bench.worst_messages``.

Microseconds of one core (process time) of VL2 alone; opening the packet comes on top (``worst_packets``). "each": while
the sender's share lasts; "in a burst": the mean of 4,096 in one second, in which most find the share used up; and the
bytes that this burst leaves behind. The frames of 1,400 bytes are the only ones that nothing limits: they are what the
network is for.
"""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Final

from tests.unit.vl2.vl2_lab import ALICE, BOB, CONTROLLER, MALLORY, NWID, ROOT, WALL, Wire, frame, mac, member_config
from ztnode.wire.mac import BROADCAST
from ztnode.wire.multicast import Gather, Like, MulticastGroup, build_gather, build_likes
from ztnode.wire.packet import (
    VERB_ERROR,
    VERB_EXT_FRAME,
    VERB_FRAME,
    VERB_MULTICAST_FRAME,
    VERB_MULTICAST_GATHER,
    VERB_MULTICAST_LIKE,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_OK,
    VERB_USER_MESSAGE,
)

BURST: Final = 4096
FIRST: Final = 16
"""Within every sender's share."""
NETWORK: Final = NWID.to_bytes(8, "big")


@dataclass(frozen=True)
class Case:
    """Who sends what to whom; ``make`` gives the payload, another one each time where that is dearer."""

    sender: int
    receiver: int
    name: str
    verb: int
    make: Callable[[int], bytes]


def lab() -> Wire:
    """Alice and Bob on a private network, a root, and Mallory, who is no member."""
    wire = Wire()
    wire.add(ROOT, is_upstream=lambda: True)
    for number, address in enumerate((ALICE, BOB), 1):
        wire.configs[address] = member_config(address, static_addresses=(IPv4Interface(f"10.0.0.{number}/24"),))
        wire.add(address).join(NWID, wire.now)
    wire.run(1.0)
    return wire


def cases(wire: Wire) -> Iterator[Case]:
    """The dearest of each verb and role that we know of."""
    ipv4 = bytes.fromhex("45000578000040004011") + bytes(1390)
    wire.send(BOB, frame(BOB, ALICE, ipv4))
    plain = wire.sent(BOB, ALICE, VERB_FRAME)[-1]
    extended = NETWORK + b"\0" + mac(ALICE) + mac(BOB) + b"\x08\0" + ipv4
    group = MulticastGroup(BROADCAST)
    to_all = NETWORK + b"\0" + BROADCAST.to_bytes(6, "big") + bytes(4) + b"\x08\x06" + bytes(1370)
    credentials = max(wire.sent(BOB, ALICE, VERB_NETWORK_CREDENTIALS), key=len)

    def forged(number: int) -> bytes:
        # A byte of the signature: as dear as a good one, and never known already.
        return credentials[:-30] + number.to_bytes(4, "big") + credentials[-26:]

    for sender, who in ((BOB, "member"), (MALLORY, "no member")):
        yield Case(sender, ALICE, f"{who}: FRAME, 1,400 bytes", VERB_FRAME, lambda _: plain)
        yield Case(sender, ALICE, f"{who}: EXT_FRAME, 1,400 bytes", VERB_EXT_FRAME, lambda _: extended)
        yield Case(sender, ALICE, f"{who}: MULTICAST_FRAME, 1,370 bytes", VERB_MULTICAST_FRAME, lambda _: to_all)
        yield Case(
            sender,
            ALICE,
            f"{who}: MULTICAST_LIKE, 70 groups",
            VERB_MULTICAST_LIKE,
            lambda number: build_likes(
                [Like(NWID, MulticastGroup(BROADCAST, 70 * number + each)) for each in range(70)]
            ),
        )
        gather = build_gather(Gather(NWID, group, 1000))
        yield Case(sender, ALICE, f"{who}: MULTICAST_GATHER", VERB_MULTICAST_GATHER, lambda _, gather=gather: gather)  # type: ignore[misc]
        yield Case(sender, ALICE, f"{who}: NETWORK_CREDENTIALS, forged", VERB_NETWORK_CREDENTIALS, forged)
        yield Case(
            sender, ALICE, f"{who}: CONFIG_REQUEST", VERB_NETWORK_CONFIG_REQUEST, lambda _: NETWORK + bytes(1000)
        )
        yield Case(sender, ALICE, f"{who}: USER_MESSAGE", VERB_USER_MESSAGE, lambda _: bytes(1400))
        yield Case(
            sender, ALICE, f"{who}: OK to what nobody asked", VERB_OK, lambda _: b"\x0b" + os.urandom(8) + NETWORK
        )
        yield Case(
            sender, ALICE, f"{who}: ERROR likewise", VERB_ERROR, lambda _: b"\x0b" + os.urandom(8) + b"\3" + NETWORK
        )
    rules = member_config(ALICE, timestamp=WALL + 1)
    (chunk,) = wire.chunks(rules)
    yield Case(CONTROLLER, ALICE, "controller: NETWORK_CONFIG, taken", VERB_NETWORK_CONFIG, lambda _: chunk)
    yield Case(
        CONTROLLER,
        ALICE,
        "controller: NETWORK_CONFIG, first of 300 chunks",
        VERB_NETWORK_CONFIG,
        lambda number: (
            NETWORK
            + (1300).to_bytes(2, "big")
            + bytes(1300)
            + b"\0"
            + number.to_bytes(8, "big")
            + (400_000).to_bytes(4, "big")
            + bytes(4)
            + b"\1\0\x60"
            + bytes(96)
        ),
    )
    likes = build_likes([Like(number, group) for number in range(70)])
    yield Case(BOB, ROOT, "anybody to a root: MULTICAST_LIKE, 70", VERB_MULTICAST_LIKE, lambda _: likes)
    gather = build_gather(Gather(NWID, group, 1000))
    yield Case(BOB, ROOT, "anybody to a root: MULTICAST_GATHER", VERB_MULTICAST_GATHER, lambda _: gather)


def cost(wire: Wire, case: Case, count: int) -> float:
    """Microseconds each."""
    peer = wire.vl1s[case.receiver].known[case.sender]
    node = wire.nodes[case.receiver]
    made = [memoryview(case.make(number)) for number in range(count)]
    started = time.process_time()
    for number, payload in enumerate(made):
        node.receive([(peer, case.verb, 1 << 32 | number, payload)], wire.now)  # type: ignore[list-item]
    seconds = time.process_time() - started
    wire.queue.clear()
    wire.collect()
    return seconds / count * 1e6


def main() -> None:
    """Print a table."""
    print(f"{'message':48}{'us each':>9}{'in a burst':>12}{'bytes held':>12}")
    for index in range(len(list(cases(lab())))):
        wire = lab()
        case = list(cases(wire))[index]
        each = cost(wire, case, FIRST)
        wire = lab()
        case = list(cases(wire))[index]
        gc.collect()
        tracemalloc.start()
        cost(wire, case, BURST)
        wire.inboxes.clear()
        wire.log.clear()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        wire = lab()
        case = list(cases(wire))[index]
        print(f"{case.name:48}{each:9.1f}{cost(wire, case, BURST):12.1f}{held:12,}", flush=True)


if __name__ == "__main__":
    main()
