"""A member's VL2 against another member that means ill, and against who is none; frames of the stack between."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from tests.fuzz.vl2_engine import network, say
from tests.unit.vl2.test_vl2_frames import VERBS
from tests.unit.vl2.vl2_lab import ALICE, BOB, MALLORY, NWID, ROOT, frame


def fuzz(data: bytes) -> None:
    """Pieces whose selector is a verb, from Alice, Mallory or the root in turn; those of 0xFF go out, 0xFE is time."""
    wire = network()
    for number, (selector, content) in enumerate(split(data)):
        if selector == 0xFF:
            wire.send(BOB, content)
        elif selector == 0xFE:
            wire.run(min(300, content[0] if content else 1))
        else:
            say(wire, (ALICE, MALLORY, ALICE, ROOT)[number & 3], BOB, selector, content)
    wire.run(1)
    assert wire.nodes[BOB].network(NWID) is not None
    assert len(wire.log) < 20_000, "much is sent for little"


def seeds() -> Iterator[bytes]:
    """Each verb with and without the network before it, and what Alice's node really said."""
    for number in range(len(VERBS)):
        yield join((number, bytes(30)), (0x80 | number, bytes(30)), (0xFE, b"\x05"))
    wire = network()
    for source, target, verb, payload in wire.log:
        if (source, target) == (ALICE, BOB) and verb in VERBS:
            yield join((VERBS.index(verb), payload), (0xFF, frame(BOB, ALICE)))
