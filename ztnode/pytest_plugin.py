"""Fixtures for tests of programs that speak over ZeroTier: a network of one's own on loopback.

pytest finds them by ztnode's entry point; ``pytest -p no:ztnode`` does without. Nothing is started until a test asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import ztclient
    from ztclient.controller import Controller
    from ztnode.embedded import EmbeddedNetwork

IDENTITIES = "zerotier_identities"
"""The ini option."""
JOIN_TIMEOUT = 60.0
"""Seconds, on a machine where other tests run too."""


class ZeroTierNetwork:
    """A root, a controller and one network, whose members are added as they are wanted."""

    def __init__(self, embedded: EmbeddedNetwork, *, private: bool = False, subnet: str = "10.121.15.0/24") -> None:
        """Raises ztnode.embedded.EmbeddedError when a node does not start."""
        self._embedded = embedded
        self._private = private
        self.nwid = embedded.create(name="pytest", private=private, subnet=subnet)
        """The network's id, 16 hexadecimal digits."""

    @property
    def planet(self) -> Path:
        """The planet file, for programs that join by themselves: ``ztclient.run(nwid, planet=...)``."""
        return self._embedded.planet

    @property
    def controller(self) -> Controller:
        """The network's controller: members, settings, rules."""
        from ztclient.controller import Controller

        return Controller(self._embedded.controller.node)

    def add(self, count: int = 1) -> list[ztclient.Node]:
        """Start so many nodes, have each join, and wait until it has its address (``Node.ips``). They run until the end
        of the session. Raises ztnode.embedded.EmbeddedError, ztclient.Error."""
        first = len(self._embedded.members)
        members = self._embedded.add_all(*(f"node{number}" for number in range(first, first + count)))
        nodes = []
        for member in members:
            member.wait_online()
            member.node.join(self.nwid, JOIN_TIMEOUT)
            nodes.append(member.node)
        return nodes


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    text = "identities with their secrets, one a line (ztnode identity new), for nodes to take in turn: " + (
        "to make a new one takes two seconds, and its address is another each time"
    )
    parser.addini(IDENTITIES, text, type="paths", default=[])


@pytest.fixture(scope="session")
def zerotier_network(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ZeroTierNetwork]:
    """A public network, 10.121.15.0/24, for the whole run; about three seconds, each node another two."""
    from ztnode.embedded import EmbeddedNetwork
    from ztnode.wire.identity import Identity

    lines = [line for path in pytestconfig.getini(IDENTITIES) for line in path.read_text().split()]
    # The sockets of nodes are in their directories, and a socket's path may have 107 bytes.
    with EmbeddedNetwork(tmp_path_factory.mktemp("zt"), identities=map(Identity.parse_text, lines)) as embedded:
        yield ZeroTierNetwork(embedded)


@pytest.fixture(scope="session")
def zerotier_node(zerotier_network: ZeroTierNetwork) -> ztclient.Node:
    """A node that is a member of ``zerotier_network`` and has its address."""
    (node,) = zerotier_network.add()
    return node
