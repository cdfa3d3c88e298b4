"""Against any live network, opt-in: a node of ours joins it and fetches a page from one of its members.

LIBZT_RUN_ZEROTIER_E2E=1              run these tests
LIBZT_ZEROTIER_NWID=9ad07d01093a69e3  the network to join; authorize the node when the test says so
LIBZT_ZEROTIER_URL=http://...         a page on a managed address of it
LIBZT_ZEROTIER_PLANET=FILE            its planet, if it is not ZeroTier's own
LIBZT_ZEROTIER_STATE=DIR              a state directory to use again, so that one authorization serves many runs
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import ztclient
from ztnode.embedded import EmbeddedMember

AUTHORISATION_TIMEOUT = 90.0

if os.environ.get("LIBZT_RUN_ZEROTIER_E2E") != "1":
    pytest.skip("live network: set LIBZT_RUN_ZEROTIER_E2E=1, see the top of this file", allow_module_level=True)

NWID = os.environ["LIBZT_ZEROTIER_NWID"]
URL = urlsplit(os.environ["LIBZT_ZEROTIER_URL"])


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMember]:
    """A node that has joined the network."""
    state = Path(os.environ.get("LIBZT_ZEROTIER_STATE") or tmp_path_factory.mktemp("live"))
    planet = os.environ.get("LIBZT_ZEROTIER_PLANET")
    started = EmbeddedMember("live", state, ["--planet", planet] if planet else [], ())
    try:
        started.wait_online()
        started.node.join(NWID, AUTHORISATION_TIMEOUT, on_change=lambda network: print(network.state, network.detail))
        yield started
    finally:
        started.stop()


def test_there_is_a_managed_address(member: EmbeddedMember) -> None:
    assert member.node.ips(NWID)


def test_a_page_comes_over_the_network(member: EmbeddedMember) -> None:
    assert URL.hostname is not None
    kind = ztclient.HTTPSConnection if URL.scheme == "https" else ztclient.HTTPConnection
    connection = kind(URL.hostname, URL.port or None, timeout=30, node=member.node)
    connection.request("GET", URL.path or "/")
    response = connection.getresponse()
    body = response.read()
    assert response.status < 500
    length = response.getheader("Content-Length")
    assert length is None or len(body) == int(length)
    connection.close()
