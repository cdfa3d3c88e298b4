"""Members of a private network, a root and their controller: what the VL2 targets share."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface
from typing import Final

from tests.unit.vl2.test_vl2_frames import VERBS
from tests.unit.vl2.vl2_lab import ALICE, BOB, CONTROLLER, IDENTITIES, NWID, ROOT, Wire, frame, member_config
from ztnode.wire.config_chunk import split_config
from ztnode.wire.packet import VERB_NETWORK_CONFIG

CHOSEN: Final = NWID.to_bytes(8, "big")


def network() -> Wire:
    """Alice and Bob know each other's certificates."""
    wire = Wire()
    wire.add(ROOT, is_upstream=lambda: True)
    for number, address in enumerate((ALICE, BOB), 1):
        wire.configs[address] = member_config(address, static_addresses=(IPv4Interface(f"10.0.0.{number}/24"),))
        wire.add(address).join(NWID, wire.now)
    wire.run(1.0)
    wire.send(ALICE, frame(ALICE, BOB))
    wire.send(BOB, frame(BOB, ALICE))
    return wire


def say(wire: Wire, sender: int, target: int, selector: int, content: bytes) -> None:
    """One message of ``sender``; the high bit of ``selector`` puts the network's id before it."""
    body = CHOSEN + content if selector & 0x80 else content
    wire.deliver(sender, target, VERBS[(selector & 0x7F) % len(VERBS)], body, packet_id=selector)
    wire.settle()


def configure(wire: Wire, member: int, content: bytes, number: int) -> None:
    """A configuration that says ``content`` and more, signed by the controller."""
    whole = b"v=7\nnwid=%016x\nid=%010x\nts=%x\n" % (NWID, member, 0x7FFF0000 + number) + content
    for part in split_config(NWID, whole[:30_000], number + 1, IDENTITIES[CONTROLLER]):
        wire.deliver(CONTROLLER, member, VERB_NETWORK_CONFIG, part.build())
    wire.settle()


def real_configurations() -> Iterator[bytes]:
    """What our own controller's member got, after the lines that ``configure`` writes."""
    yield member_config(BOB, static_addresses=(IPv4Interface("10.0.0.2/24"),)).build()
