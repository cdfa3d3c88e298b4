"""A member's VL2 against its own controller: configurations of any content, well signed, and other answers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from tests.fuzz.vl2_engine import configure, network, real_configurations, say
from tests.unit.vl2.vl2_lab import ALICE, BOB, CONTROLLER, NWID, frame


def fuzz(data: bytes) -> None:
    """Pieces: 0 is a configuration, 0xFE time, 0xFF frames both ways, all others are verbs."""
    wire = network()
    for number, (selector, content) in enumerate(split(data)):
        if selector == 0:
            configure(wire, BOB, content, number)
        elif selector == 0xFE:
            wire.run(min(300, content[0] if content else 1))
        elif selector == 0xFF:
            wire.send(BOB, frame(BOB, ALICE, content or bytes(60)))
            wire.send(ALICE, frame(ALICE, BOB, content or bytes(60)))
        else:
            say(wire, CONTROLLER, BOB, selector, content)
    wire.run(1)
    assert wire.nodes[BOB].network(NWID) is not None


def seeds() -> Iterator[bytes]:
    """Real configurations whole, and verbs."""
    for config in real_configurations():
        yield join((0, config), (0xFF, bytes(60)), (0xFE, b"\x0a"))
    for selector in (0x80, 0x81, 0x87, 0x01, 0x07):
        yield join((selector, bytes(40)), (0xFF, b""))
