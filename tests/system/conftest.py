"""A whole network on loopback, made once for the tests that only use it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import ztclient
from tests.system.harness import PORT, Handler, Overlay, identities, ipv4
from ztnode.embedded import EmbeddedNetwork


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    """The network, up and joined, with a web server on alpha."""
    with EmbeddedNetwork(tmp_path_factory.mktemp("overlay"), identities=identities()) as network:
        nwid = network.create()
        alpha, beta = network.add_all("alpha", "beta")
        alpha.wait_online()
        beta.wait_online()
        ip = ipv4(alpha, nwid)
        ipv4(beta, nwid)
        with ztclient.HTTPServer((ip, PORT), Handler, node=alpha.node) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            yield Overlay(network, nwid, alpha, beta, ip)
            server.shutdown()
            thread.join()
