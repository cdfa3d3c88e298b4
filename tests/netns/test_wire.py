"""The bad wire in user space does what it is asked to, between the kernel's own stacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.site import Site, site, unavailable
from tests.fault_injector import Faults

DELAY = 0.05
CONNECT = """
import socket, sys, time
started = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 9), timeout=1.5)
except ConnectionRefusedError:
    print(time.monotonic() - started)
"""


def refusal_seconds(place: Site) -> float | None:
    """How long a closed port takes to answer; None: no answer."""
    command = [*place.near.prefix, sys.executable, "-c", CONNECT, place.far.address]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return float(answer) if answer else None


def test_delay_loss_and_the_cable_again() -> None:
    """A closed port answers after the wire's round trip (twice on first contact, for ARP), not at all over a wire that
    loses everything, and at once over the cable."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with site() as place:
        with place.bad_wire(Faults(loss=1.0)):
            assert refusal_seconds(place) is None
        with place.bad_wire(Faults(delay=DELAY)):
            refusal_seconds(place)
            seconds = refusal_seconds(place)
            assert seconds is not None and seconds >= 2 * DELAY
        seconds = refusal_seconds(place)
        assert seconds is not None and seconds < 2 * DELAY
