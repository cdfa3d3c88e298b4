"""Fixtures for the tests of VL2."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from tests.unit.vl2.vl2_lab import ALICE, BOB, NWID, ROOT, Wire, member_config


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def pair(wire: Wire) -> Wire:
    """Alice and Bob on a private network, and a root that answers GATHER."""
    wire.add(ROOT, is_upstream=lambda: True)
    for number, address in enumerate((ALICE, BOB), 1):
        addresses = (IPv4Interface(f"10.0.0.{number}/24"),)
        wire.configs[address] = member_config(address, static_addresses=addresses)
        wire.add(address).join(NWID, wire.now)
    wire.run(1.0)
    wire.log.clear()
    return wire
