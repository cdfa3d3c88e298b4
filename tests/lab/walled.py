"""A host from which no UDP goes anywhere, and a TCP relay: ours, or ZeroTier's tcp-proxy named by $ZTNODE_TCP_PROXY."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any, Final

from tests.lab.hosts import MEGABYTE, PORT, Host, Lab, lab, until
from tests.lab.scenarios import OWN, PEER, Figure, Sides

ROOT, CTRL, FAR, RELAY, NAT = (f"80.1.1.{number}" for number in (1, 2, 3, 9, 31))
"""Relays are for addresses of the internet."""
RELAY_PORT: Final = 443
PACE: Final = 2e6
ANNOUNCED_AFTER: Final = 6.0
"""Seconds after which a zerotier-one that has joined can be found: it looks every five for what its TAP device is
subscribed to (ZT_TAP_CHECK_MULTICAST_INTERVAL), and before that neither root nor controller knows who has its address.
What we examine is a way to a peer that is there."""
_WALL: Final = (
    "table inet udpwall {\n chain f {\n  type filter hook forward priority -5;\n  meta l4proto udp drop\n }\n}\n"
)


def _built(here: Lab, sides: Sides) -> tuple[Host, Host]:
    """A root, a controller, a peer that serves and a relay, outside; the host to examine, behind the wall."""
    places = here.places
    for place, ip in (("root", ROOT), ("ctrl", CTRL), ("peer", FAR), ("relay", RELAY)):
        places.plug(place, [f"{ip}/24"])
    places.router("nat", f"{NAT}/24", "192.168.50")
    places.plug("own", ["192.168.50.12/24"], to="nat", bridge="lan")
    places.route("own", "192.168.50.1")
    places.filter("nat", _WALL)
    root = here.host("root", ours=sides.peer_ours, arguments=("--root",))
    here.make_planet((root, [(ROOT, PORT)]))
    root.start()
    controller = here.host("ctrl", ours=sides.peer_ours, arguments=("--controller",)).start()
    peer = here.host("peer", ours=sides.peer_ours).start()
    if program := os.environ.get("ZTNODE_TCP_PROXY"):
        here.start("relay", program, log=here.folder / "relay.log")
    else:
        here.host("relay", ours=True, arguments=("--tcp-relay-listen", f"{RELAY}:{RELAY_PORT}")).start()
    until("the controller is online", controller.is_online)
    here.make_network(controller)
    until("the peer is online", peer.is_online)
    peer.join(PEER)
    peer.serve(PEER)
    if not sides.peer_ours:
        time.sleep(ANNOUNCED_AFTER)
    return _own(here, sides, "auto"), peer


def _own(here: Lab, sides: Sides, use: str) -> Host:
    settings: dict[str, Any] = {"tcpFallbackRelay": f"{RELAY}/{RELAY_PORT}", "allowTcpFallbackRelay": True}
    settings["forceTcpRelay"] = use == "force"
    arguments = ("--tcp-relay", f"{use}={RELAY}:{RELAY_PORT}")
    return here.host("own", ours=sides.ours, arguments=arguments, settings=settings)


def _is_relayed(own: Host) -> bool:
    if not own.is_ours:
        return bool(own.api("/status")["tcpFallbackActive"])
    lines = re.findall(r"packets go by tcp|is left|packets go by the TCP relay", (own.folder / "log").read_text())
    return bool(lines) and lines[-1] != "is left"


def udp_blocked(sides: Sides) -> Iterator[Figure]:
    """No UDP, a TCP relay: online with auto and force, its speed, and UDP that comes back and goes in mid-download."""
    with lab("walled") as here:
        own, _ = _built(here, sides)
        own = _own(here, sides, "force")
        began = time.monotonic()
        own.start()
        up = time.monotonic()
        until("online by force", own.is_online, 30, 0.02)
        yield Figure("force: online after the program's start", time.monotonic() - began)
        yield Figure("force: online after it is up", time.monotonic() - up, must=2)
        own.join(OWN)
        took = own.fetch(PEER, 1024).result()
        yield Figure("force: first byte of a connection", float(took["connect"]), must=2)
        took = max((own.fetch(PEER, 64 * MEGABYTE).result() for _ in range(3)), key=lambda got: -got["seconds"])
        yield Figure("force: 1/MB/s", float(took["seconds"]) / 67.1, "", 0.05)
        yield Figure("force: MB/s", 67.1 / float(took["seconds"]), "")
        own.stop()
        own = _own(here, sides, "auto")
        began = time.monotonic()
        own.start()
        until("online with auto", own.is_online, 90)
        yield Figure("auto: online after the program's start", time.monotonic() - began, must=65)
        own.fetch(PEER, 1024).result()
        yield Figure("auto: first byte after the program's start", time.monotonic() - began, must=65)
        download = own.fetch(PEER, int(PACE * 60), PACE)
        time.sleep(5)
        here.places.mend("nat", "udpwall")
        began = time.monotonic()
        until("the relay is left", lambda: not _is_relayed(own), 60)
        yield Figure("UDP is back: the relay is left after", time.monotonic() - began, must=30)
        yield Figure("UDP is back: the download stands still", float(download.result()["stall"]), must=1)
        download = own.fetch(PEER, int(PACE * 30), PACE, 200)
        time.sleep(5)
        here.places.filter("nat", _WALL)
        began = time.monotonic()
        until("the relay is taken", lambda: _is_relayed(own), 150)
        yield Figure("UDP is blocked: the relay is taken after", time.monotonic() - began, must=10)
        yield Figure("UDP is blocked: the download stands still", float(download.result(300)["stall"]), must=15)
