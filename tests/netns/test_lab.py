"""Two nodes of ours on two links in namespaces: what a link does to long datagrams, and what its death does.

The rest of the lab needs time and a program of the reference: ``python -m tests.lab``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.hosts import MEGABYTE, Lab, lab, until
from tests.lab.places import unavailable
from tests.lab.scenarios import PEER, Sides, joined

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with lab("test") as made:
        made.basics(ours=True)
        made.places.switch("sw2")
        for place, number in (("peer", 3), ("own", 4)):
            made.places.plug(place, [f"203.0.113.{number}/24"])
            made.places.plug(place, [f"198.51.100.{number}/24"], to="sw2", device="eth1")
        joined(made, Sides(ours=True, peer_ours=True))
        yield made


def lowered(made: Lab) -> int:
    """How often the two have found a path to carry less than they thought."""
    return sum(made.hosts[place].node.status().counters.get("vl1.path_mtu_lowered", 0) for place in ("own", "peer"))


def test_download_over_a_path_that_loses_long_datagrams(here: Lab) -> None:
    own = here.hosts["own"]
    here.places.drop_long("own", 1400)
    here.places.drop_long("own", 1400, "sw2", "eth1")
    try:
        assert own.fetch(PEER, MEGABYTE, patience=60).result()["bytes"] == MEGABYTE
        until("the path is known to be narrow", lambda: lowered(here))
    finally:
        for switch in ("sw", "sw2"):
            here.places.mend(switch, "long", family="bridge")


def test_a_lane_follows_our_own_address(here: Lab) -> None:
    """The system would send from another address than when the lane was given, which stays ours all the same: no packet
    fails here, and in a network behind a NAT none would arrive."""
    own, peer = here.hosts["own"], here.hosts["peer"]

    def count(name: str) -> int:
        return own.node.status().counters.get(f"lanes.{name}", 0)

    download = own.fetch(PEER, 6 * MEGABYTE, rate=1e6, patience=60)
    until("a lane", lambda: count("given") > count("taken_back"))
    given = count("given")
    network, device = ("203.0.113", "eth0") if "203.0.113" in own.paths(peer.address)[0] else ("198.51.100", "eth1")
    here.places.inside("own", "ip", "addr", "add", f"{network}.44/24", "dev", device)
    here.places.inside("own", "ip", "route", "replace", f"{network}.0/24", "dev", device, "src", f"{network}.44")
    until("another lane", lambda: count("given") > given)
    assert download.result()["bytes"] == 6 * MEGABYTE


def test_other_link_carries_on_when_one_goes_dead(here: Lab) -> None:
    """No carrier is lost and nobody is told: the switch forgets the port."""
    own, peer = here.hosts["own"], here.hosts["peer"]
    until("two paths", lambda: len(own.paths(peer.address)) > 1, 60)
    first = "203.0.113" in own.paths(peer.address)[0]
    download = own.fetch(PEER, 4 * MEGABYTE, rate=1e6, patience=60)
    until("the download runs", lambda: any(each.state == "ESTABLISHED" for each in own.node.connections()))
    here.places.inside("sw" if first else "sw2", "ip", "link", "set", "peer0" if first else "peer1", "nomaster")
    assert download.result()["bytes"] == 4 * MEGABYTE
    assert ("203.0.113" in own.paths(peer.address)[0]) is not first
