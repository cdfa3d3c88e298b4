"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The machine is shared and timings are no property of a codec; the limit on a whole test is pytest-timeout's.
settings.register_profile("ztnode", deadline=None, max_examples=40)
# By hand, for as long as one likes: --hypothesis-profile thorough.
settings.register_profile("thorough", deadline=None, max_examples=2000)
# For the other Pythons, of which deploy/tests.sh asks whether all still works and not whether it is right.
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("ztnode")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Longer runs of tests that are short in CI, by hand."""
    group = parser.getgroup("fleets of nodes (tests/system/test_fleet.py)")
    group.addoption("--kills", type=int, default=16, help="How often the active controller is killed.")
    group.addoption("--kills-seed", type=int, default=0, help="Of the moments at which it is.")
    group.addoption("--outage", type=float, default=0.0, help="Seconds for which a store is out; 0: a few.")
    group.addoption("--large-fleet", type=int, default=0, help="Members of the network that is taken over; 0: none is.")
    group.addoption("--freezes", type=int, default=0, help="How often a node is frozen for longer than its lease.")
