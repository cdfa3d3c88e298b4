"""libzt, a ZeroTier core that this project did not write, on the network that we provide."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.processes import Talker

SETTINGS = {
    "name": "interop",
    "v4AssignMode": {"zt": True},
    "ipAssignmentPools": [{"ipRangeStart": "10.121.15.1", "ipRangeEnd": "10.121.15.90"}],
    "routes": [{"target": "10.121.15.0/24"}],
}
MEGABYTE = 1 << 20


@pytest.mark.timeout(180)
def test_two_libzt_nodes_meet_on_our_private_network(
    embedded: tuple[Talker, Path], libzt: Callable[[str, Path, int], Talker], tmp_path: Path
) -> None:
    """Root, WHOIS, rendezvous, controller, certificates and multicast, as two foreign nodes see them: they go online,
    wait for authorization, get an address each and fetch a file from one another, whole."""
    network, planet = embedded
    nwid = network.do("created", do="create", settings=SETTINGS)["nwid"]
    server, client = libzt("server", planet, 29994), libzt("client", planet, 29995)
    for node in (server, client):
        node.tell(do="join", nwid=nwid)
    waiting: set[str] = set()
    while len(waiting) < 2:
        members = network.do("members", do="members", nwid=nwid)["members"]
        waiting = {member["address"] for member in members}
    assert not any(member["authorized"] for member in members)
    for address in waiting:
        network.do("member", do="member", nwid=nwid, address=address, settings={"authorized": True})
    addresses = [node.expect("joined", 60)["addresses"][0] for node in (server, client)]
    assert len(set(addresses)) == 2 and all(address.startswith("10.121.15.") for address in addresses)

    body = tmp_path / "body"
    body.write_bytes(hashlib.sha256(b"seed").digest() * (MEGABYTE // 32))
    server.do("serving", do="serve", port=5380, body=str(body))
    got = client.do("got", do="get", host=addresses[0], port=5380, timeout=60)
    assert got["sha256"] == hashlib.sha256(body.read_bytes()).hexdigest()

    counters = network.do("counters", do="counters")
    assert counters["controller"]["requests_refused"] >= 2 and counters["controller"]["configurations_pushed"] >= 2
