"""What the lab can show: functions of which program is examined, that give figures with what must be reached."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.lab.hosts import MEGABYTE, PORT, Host, Lab, lab, until

PYTHON: Final = (sys.executable, "-m")
PEER: Final = "10.121.15.50"
OWN: Final = "10.121.15.51"
PACE: Final = 5e6
"""Bytes a second of a download that something happens to."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement."""

    what: str
    value: float | str
    unit: str = "s"
    must: float | None = None
    """At most this; None: reported alone."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Which program is examined, and which its peer is."""

    ours: bool
    peer_ours: bool = False


Scenario = Callable[[Sides], Iterator[Figure]]


def behind_nat(here: Lab, sides: Sides, *, mtu_of: str | None = None) -> tuple[Host, Host]:
    """Root, controller and a peer that serves, outside; the host to examine behind a NAT, in the network."""
    here.basics()
    here.places.plug("peer", ["203.0.113.3/24", "2a00:77::3/64"])
    here.places.router("nat", "203.0.113.31/24", "192.168.50")
    here.places.plug("own", ["192.168.50.12/24"], to="nat", bridge="lan")
    here.places.route("own", "192.168.50.1")
    return joined(here, sides)


def joined(here: Lab, sides: Sides) -> tuple[Host, Host]:
    """The host to examine and its peer, started and in the network; the peer serves."""
    peer, own = here.host("peer", ours=sides.peer_ours).start(), here.host("own", ours=sides.ours).start()
    for host, ip in ((peer, PEER), (own, OWN)):
        until(f"{host.place} is online", host.is_online)
        host.join(ip)
    peer.serve(PEER)
    own.fetch(PEER, MEGABYTE).result()
    until("a direct path", lambda: own.paths(peer.address) and peer.paths(own.address))
    return own, peer


def _stall(here: Lab, sides: Sides, event: Callable[[], None], after: float = 6.0) -> float:
    """How long a paced download stands still when something happens."""
    own = here.hosts["own"]
    download = own.fetch(PEER, int(PACE * 30), PACE)
    time.sleep(after)
    event()
    return float(download.result(240)["stall"])


def _limit(sides: Sides) -> float:
    return 3.0 if sides.peer_ours else 32.0


def rebind(sides: Sides) -> Iterator[Figure]:
    """A NAT forgets us in the middle of a download, and gives us another port."""
    with lab("rebind") as here:
        behind_nat(here, sides)
        seconds = _stall(here, sides, lambda: here.places.forget_bindings("nat"))
        yield Figure("NAT forgets us: the download stands still", seconds, must=_limit(sides))


def moved(sides: Sides) -> Iterator[Figure]:
    """Our own address changes in the middle of a download."""
    with lab("moved") as here:
        behind_nat(here, sides)

        def move() -> None:
            here.places.inside("own", "ip", "addr", "add", "192.168.50.77/24", "dev", "eth0")
            here.places.inside("own", "ip", "addr", "del", "192.168.50.12/24", "dev", "eth0")
            here.places.inside("own", "ip", "addr", "add", "192.168.50.77/24", "dev", "eth0", check=False)
            here.places.inside("own", "ip", "route", "replace", "default", "via", "192.168.50.1")

        yield Figure("own address changes: the download stands still", _stall(here, sides, move), must=_limit(sides))


def cut(sides: Sides) -> Iterator[Figure]:
    """The wire is cut for 20 s; what counts is the time from its mending on."""
    with lab("cut") as here:
        behind_nat(here, sides)

        def interrupt() -> None:
            here.places.cut("nat")
            time.sleep(20)
            here.places.mend("nat", "cut")

        seconds = _stall(here, sides, interrupt) - 20
        yield Figure("wire cut for 20 s: stands still after it is mended", seconds, must=_limit(sides))


def short_nat(sides: Sides) -> Iterator[Figure]:
    """A NAT that forgets after 10 s of silence, a pause of 25 s, then a connection that was open goes on, and a new one
    from the peer's side is not needed for it."""
    with lab("shortnat") as here:
        here.basics()
        here.places.plug("peer", ["203.0.113.3/24"])
        here.places.router("nat", "203.0.113.31/24", "192.168.50", forgets_after=10)
        here.places.plug("own", ["192.168.50.12/24"], to="nat", bridge="lan")
        here.places.route("own", "192.168.50.1")
        own, _ = joined(here, sides)
        time.sleep(25)
        began = time.monotonic()
        own.fetch(PEER, 1024).result()
        yield Figure("NAT that forgets after 10 s, a fetch after 25 s of silence", time.monotonic() - began, must=10)


def double_nat(sides: Sides) -> Iterator[Figure]:
    """Two NATs one behind the other, ours inside; the peer behind a NAT of its own."""
    with lab("double") as here:
        here.basics()
        places = here.places
        places.router("outer", "203.0.113.31/24", "192.168.40")
        places.router("nat", "192.168.40.2/24", "192.168.50", to="outer", bridge="lan", gateway="192.168.40.1")
        places.plug("own", ["192.168.50.12/24"], to="nat", bridge="lan")
        places.route("own", "192.168.50.1")
        places.router("other", "203.0.113.32/24", "192.168.60")
        places.plug("peer", ["192.168.60.12/24"], to="other", bridge="lan")
        places.route("peer", "192.168.60.1")
        began = time.monotonic()
        own, peer = joined(here, sides)
        yield Figure("double NAT to a NAT: from start to a direct path", time.monotonic() - began, must=60)
        yield Figure("... by", own.paths(peer.address)[0], "")


def hairpin(sides: Sides) -> Iterator[Figure]:
    """Both behind one NAT with hairpinning, in LANs that do not reach each other."""
    with lab("hairpin") as here:
        here.basics()
        places = here.places
        places.router("nat", "203.0.113.31/24", "192.168.50", hairpin=True)
        for place, ip in (("own", "192.168.50.12"), ("peer", "192.168.50.13")):
            places.plug(place, [f"{ip}/24"], to="nat", bridge="lan")
            places.inside("nat", "ip", "link", "set", f"{place}0", "type", "bridge_slave", "isolated", "on")
            places.route(place, "192.168.50.1")
        began = time.monotonic()
        own, peer = joined(here, sides)
        yield Figure("behind one NAT: from start to a direct path", time.monotonic() - began, must=60)
        yield Figure("... by", own.paths(peer.address)[0], "")


def black_hole(sides: Sides) -> Iterator[Figure]:
    """A path that silently drops UDP of more than 1,400 bytes, at our end."""
    with lab("blackhole") as here:
        behind_nat(here, sides)
        own = here.hosts["own"]
        here.places.drop_long("nat", 1400)
        for again in ("first", "second"):
            down = own.fetch(PEER, 4 * MEGABYTE, patience=60).result()
            yield Figure(f"UDP over 1,400 bytes is lost: 4 MB down, {again}", float(down["seconds"]), must=20)


def lonely_pair(sides: Sides) -> Iterator[Figure]:
    """Root and controller are down, both members start again on one LAN: they find each other."""
    with lab("lonely") as here:
        root, controller = here.basics()
        here.places.plug("peer", ["203.0.113.3/24"])
        here.places.plug("own", ["203.0.113.4/24"])
        own, peer = joined(here, sides)
        if sides.ours:
            time.sleep(35)  # what is known of peers is written 30 s after the start
        for host in (root, controller, peer, own):
            host.stop(15)
        peer.start()
        own.start()
        began = time.monotonic()
        until("addresses", lambda: own.has(OWN) and peer.has(PEER), 60)
        if sides.peer_ours:
            peer.serve(PEER)  # a socket of the kernel listens still
        own.fetch(PEER, 1024, patience=60).result()
        yield Figure(
            "root and controller down, both started again: until a fetch is done", time.monotonic() - began, must=30
        )


def forgetful_root(sides: Sides) -> Iterator[Figure]:
    """The root has lost its memory, the controller is down, and our node starts again and dials."""
    with lab("forgetful") as here:
        root, controller = here.basics()
        here.places.plug("peer", ["203.0.113.3/24"])
        here.places.plug("own", ["203.0.113.4/24"])
        own, _ = joined(here, sides)
        if sides.ours:
            time.sleep(35)
        own.stop(15)
        controller.stop()
        root.stop(15)
        for kept in (root.folder / "peers.d").glob("*"):
            kept.unlink()
        root.start()
        began = time.monotonic()
        own.start()
        until("its address", lambda: own.has(OWN), 60)
        own.fetch(PEER, 1024, patience=60).result()
        yield Figure("root without memory, controller down: from start to a fetch", time.monotonic() - began, must=15)


def first_seconds(sides: Sides) -> Iterator[Figure]:
    """Dial as soon as the address of a new network is there."""
    with lab("first") as here:
        here.basics()
        here.places.plug("peer", ["203.0.113.3/24"])
        here.places.plug("own", ["203.0.113.4/24"])
        peer = here.host("peer", ours=sides.peer_ours).start()
        own = here.host("own", ours=sides.ours).start()
        for host in (peer, own):
            until(f"{host.place} is online", host.is_online)
        peer.join(PEER)
        peer.serve(PEER)
        own.join(OWN)
        fetched = own.fetch(PEER, 1024, patience=30).result()
        yield Figure("dial in the first second of a new network: connect", float(fetched["connect"]), must=10)


def two_links(sides: Sides) -> Iterator[Figure]:
    """Both ends have two links; the one in use dies in the middle of a download."""
    with lab("links") as here:
        here.basics()
        here.places.switch("sw2")
        for place, number in (("peer", 3), ("own", 4)):
            here.places.plug(place, [f"203.0.113.{number}/24"])
            here.places.plug(place, [f"198.51.100.{number}/24"], to="sw2", device="eth1")
        own, peer = joined(here, sides)
        until("two paths", lambda: len(own.paths(peer.address)) > 1, 60)
        used = own.paths(peer.address)[0]
        table = "203.0.113" in used

        def die() -> None:
            switch, port = ("sw", "peer0") if table else ("sw2", "peer1")
            here.places.inside(switch, "ip", "link", "set", port, "nomaster")

        yield Figure("two links, the one in use goes dead: stands still", _stall(here, sides, die), must=2)


def dual_stack(sides: Sides) -> Iterator[Figure]:
    """IPv4 dies at our end in the middle of a download, later IPv6 does and IPv4 is back."""
    with lab("dual") as here:
        here.basics()
        here.places.plug("peer", ["203.0.113.3/24", "2a00:77::3/64"])
        here.places.plug("own", ["203.0.113.4/24", "2a00:77::4/64"])
        own, peer = joined(here, sides)
        until("paths of both families", lambda: len({"2a00" in way for way in own.paths(peer.address)}) > 1, 60)
        own_places = here.places
        yield Figure(
            "IPv4 dies: stands still", _stall(here, sides, lambda: own_places.cut_family("own", "ipv4")), must=5
        )
        yield Figure("... then by", own.paths(peer.address)[0], "")

        def back() -> None:
            own_places.mend("own", "ipv4")
            time.sleep(8)
            own_places.cut_family("own", "ipv6")

        yield Figure("IPv4 is back, 8 s later IPv6 dies: stands still", _stall(here, sides, back), must=5)


def bonded(sides: Sides) -> Iterator[Figure]:
    """A peer of the reference that bonds two links, with a host of one link."""
    for policy in ("active-backup", "balance-xor", "broadcast"):
        with lab("bond") as here:
            here.basics()
            here.places.plug("own", ["203.0.113.4/24"])
            here.places.plug("peer", ["203.0.113.3/24"])
            here.places.plug("peer", ["203.0.113.103/24"], device="eth1")
            here.host("peer", ours=False, settings={"defaultBondingPolicy": policy, "allowSecondaryPort": True})
            peer, own = here.hosts["peer"].start(), here.host("own", ours=sides.ours).start()
            for host, ip in ((peer, PEER), (own, OWN)):
                until(f"{host.place} is online", host.is_online)
                host.join(ip)
            peer.serve(PEER)
            done = own.fetch(PEER, 16 * MEGABYTE, patience=60).result()
            yield Figure(f"peer bonds ({policy}): 16 MB down", float(done["seconds"]), must=10)


ATTACKS: Final = (("salsa", 10_000, 0.7), ("junk", 50_000, 0.5), ("hello", 5_000, 0.7), ("replay", 20_000, 0.7))
"""What is sent, how often a second, and what part of a quiet download's speed must be left."""


def under_attack(sides: Sides) -> Iterator[Figure]:
    """Downloads of 16 MB under floods, each between two quiet ones."""
    with lab("attack") as here:
        here.basics()
        for place, number in (("peer", 3), ("own", 4), ("attacker", 66)):
            here.places.plug(place, [f"203.0.113.{number}/24"])
        own, peer = joined(here, sides)
        size = 16 * MEGABYTE
        tape = here.folder / "tape"
        command = (*PYTHON, "tests.lab.flood", "record", str(tape), "4", str(PORT))
        recording = here.start("own", *command, log=here.folder / "record.log")
        own.fetch(PEER, size).result()
        recording.wait(30)
        for kind, rate, must in ATTACKS:
            what = (str(tape),) if kind == "replay" else (own.address, peer.identity)
            yield from _flooded(here, own, kind, rate, what, must)


def impersonated(sides: Sides) -> Iterator[Figure]:
    """The same under floods that have the peer's own address and port on them."""
    with lab("posing") as here:
        here.basics()
        for place, number in (("peer", 3), ("own", 4), ("attacker", 66)):
            here.places.plug(place, [f"203.0.113.{number}/24"])
        own, peer = joined(here, sides)
        own.fetch(PEER, 16 * MEGABYTE).result()  # the first one loads what moves much data
        for kind in ("junk", "aes", "heads"):
            yield from _flooded(here, own, kind, 20_000, (own.address, peer.identity, "203.0.113.3"), 0.5)


def _flooded(here: Lab, own: Host, kind: str, rate: int, what: Sequence[str], must: float) -> Iterator[Figure]:
    """A download under a flood, and what is left of it."""
    size = 16 * MEGABYTE
    lines, memory = own.log_lines(), own.resident()
    before = float(own.fetch(PEER, size).result()["seconds"])
    command = (*PYTHON, "tests.lab.flood", kind, "203.0.113.4", str(PORT), str(rate), "120", *what)
    flood = here.start("attacker", *command, log=here.folder / "flood.log")
    time.sleep(3)
    during = float(own.fetch(PEER, size).result(240)["seconds"])
    here.end(flood)
    time.sleep(1)
    after = float(own.fetch(PEER, size).result()["seconds"])
    quiet = (before + after) / 2
    name = f"{kind} {rate:,}/s"
    yield Figure(f"{name}: seconds of 16 MB, per second quiet", during / quiet, "x", must=1 / must)
    yield Figure(f"{name}: a second later, the same", after / before, "x", must=1.25)
    yield Figure(f"{name}: memory gained", (own.resident() - memory) / 1e6, "MB", must=20)
    yield Figure(f"{name}: log lines", float(own.log_lines() - lines), "", must=0)


def newcomer(sides: Sides) -> Iterator[Figure]:
    """A newcomer at a root under junk: from the start of its process until it is online."""
    with lab("newcomer") as here:
        here.places.plug("root", ["203.0.113.1/24"])
        here.places.plug("attacker", ["203.0.113.66/24"])
        root = here.host("root", ours=sides.ours, arguments=("--root",))
        here.make_planet((root, [("203.0.113.1", PORT)]))
        root.start()
        for number, (rate, must) in enumerate(((0, None), (2_000, 3.0), (20_000, 10.0))):
            place = f"new{number}"
            here.places.plug(place, [f"203.0.113.{10 + number}/24"])
            command = (*PYTHON, "tests.lab.flood", "junk", "203.0.113.1", str(PORT), str(rate), "60", root.address)
            flood = here.start("attacker", *command, log=here.folder / "flood.log") if rate else None
            time.sleep(1)
            began = time.monotonic()
            host = here.host(place, ours=True).start()
            until("online", host.is_online, 60)
            seconds = time.monotonic() - began
            yield Figure(f"root under {rate:,} junk packets a second: newcomer online", seconds, must=must)
            if flood is not None:
                here.end(flood)


def acquaintance(sides: Sides) -> Iterator[Figure]:
    """First connections of twenty unknown peers to a leaf under junk."""
    with lab("acquaintance") as here:
        here.places.plug("root", ["203.0.113.1/24"])
        here.places.plug("own", ["203.0.113.4/24"])
        here.places.plug("crowd", ["203.0.113.5/24"])
        here.places.plug("attacker", ["203.0.113.66/24"])
        root = here.host("root", ours=True, arguments=("--root",))  # the other looks into one stranger in 4 s
        here.make_planet((root, [("203.0.113.1", PORT)]))
        root.start()
        own = here.host("own", ours=sides.ours).start()
        until("online", own.is_online, 60)
        for number, rate in enumerate((0, 2_000)):
            command = (*PYTHON, "tests.lab.flood", "junk", "203.0.113.4", str(PORT), str(rate), "90", own.address)
            flood = here.start("attacker", *command, log=here.folder / "flood.log") if rate else None
            log = here.folder / f"crowd{number}.json"
            asking = (*PYTHON, "tests.lab.acquaintances", str(here.planet), own.address, str(20 * number + 20))
            crowd = here.start("crowd", *asking, log=log)
            crowd.wait(120)
            times = json.loads(log.read_text())[20 * number :]
            within = sum(1 for each in times if each is not None and each <= 1.0)
            yield Figure(f"leaf under {rate:,} a second: unknown peers not connected within 1 s", 20.0 - within, "", 0)
            yield Figure("... the slowest", max(10.0 if each is None else each for each in times))
            if flood is not None:
                here.end(flood)


SCENARIOS: Final[dict[str, Scenario]] = {
    "rebind": rebind,
    "moved": moved,
    "cut": cut,
    "short-nat": short_nat,
    "double-nat": double_nat,
    "hairpin": hairpin,
    "black-hole": black_hole,
    "lonely-pair": lonely_pair,
    "forgetful-root": forgetful_root,
    "first-seconds": first_seconds,
    "two-links": two_links,
    "dual-stack": dual_stack,
    "bonded-peer": bonded,
    "under-attack": under_attack,
    "impersonated": impersonated,
    "newcomer": newcomer,
    "acquaintance": acquaintance,
}
