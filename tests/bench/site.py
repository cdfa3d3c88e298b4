"""Two places, ``near`` and ``far``: network namespaces joined by one cable, which may be swapped for a bad wire while
everything runs. Each has a bridge with its address, so that no program sees an interface come or go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fault_injector import Faults
from tests.wires import wire

BRIDGE = "br0"
CABLE = ("cable0", "cable1")
TAP = "wire0"
CARRIER_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace and its address."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that is to run here."""
        return ("ip", "netns", "exec", self.name)

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` here; what it prints."""
        return subprocess.run(["ip", "-n", self.name, *arguments], check=True, capture_output=True, text=True).stdout

    def until_forwarding(self, device: str) -> None:
        """Wait until frames pass this port of the bridge: the kernel tells it of a carrier within a second or so."""
        deadline = time.monotonic() + CARRIER_TIMEOUT
        while time.monotonic() < deadline:
            (link,) = json.loads(self.ip("-details", "-json", "link", "show", device))
            if link["linkinfo"]["info_slave_data"]["state"] == "forwarding":
                return
            time.sleep(0.02)
        raise TimeoutError(f"{device} of {self.name} does not forward")


@dataclass(frozen=True, slots=True)
class Site:
    """Both places."""

    near: Place
    far: Place

    @property
    def places(self) -> tuple[Place, Place]:
        """Near, then far."""
        return self.near, self.far

    @contextlib.contextmanager
    def bad_wire(self, faults: Faults, seed: int = 1) -> Iterator[None]:
        """The cable is unplugged and a bad wire in its place, for as long as the block lasts."""
        for place, device in zip(self.places, CABLE, strict=True):
            place.ip("link", "set", device, "down")
        try:
            with wire((self.near.name, TAP), (self.far.name, TAP), faults, seed):
                for place in self.places:
                    place.ip("link", "set", TAP, "master", BRIDGE)
                for place in self.places:
                    place.until_forwarding(TAP)
                yield
        finally:
            self.plug_in()

    def plug_in(self) -> None:
        """The cable is in place and works when this returns."""
        for place, device in zip(self.places, CABLE, strict=True):
            place.ip("link", "set", device, "up")
        for place, device in zip(self.places, CABLE, strict=True):
            place.until_forwarding(device)


def unavailable() -> str | None:
    """Why there can be no site here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for network namespaces"
    if shutil.which("ip") is None:
        return "needs the program ip (iproute2)"
    try:
        with site():
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        words = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        return f"no network namespaces with bridges and veth: {words!r}"


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Made, and removed at the end. Raises OSError, subprocess.CalledProcessError."""
    places = [Place(f"ztbench-{os.getpid()}-{name}", f"10.78.0.{number}") for number, name in ((1, "near"), (2, "far"))]
    near, far = places
    try:
        for place in places:
            subprocess.run(["ip", "netns", "add", place.name], check=True, capture_output=True)
            place.ip("link", "set", "lo", "up")
            place.ip("link", "add", BRIDGE, "type", "bridge")
        near.ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1], "netns", far.name)
        for place, device in zip(places, CABLE, strict=True):
            # A bridge takes on the lowest address among its ports, unless it was given one.
            place.ip("link", "set", BRIDGE, "address", f"02:00:5e:00:53:{place.address.rpartition('.')[2].zfill(2)}")
            place.ip("link", "set", device, "master", BRIDGE)
            place.ip("addr", "add", f"{place.address}/24", "dev", BRIDGE)
            place.ip("link", "set", BRIDGE, "up")
        found = Site(near, far)
        found.plug_in()
        yield found
    finally:
        for place in places:
            subprocess.run(["ip", "netns", "del", place.name], capture_output=True, check=False)
