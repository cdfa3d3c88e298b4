"""Places of a lab: network namespaces on one switch that stands for the Internet, NAT routers, and wires that break.

Nothing leaves the namespaces. Everything that was made goes away when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Nat = Literal["cone", "symmetric"]
SWITCH: Final = "sw"
_MASQUERADE: Final = {"cone": "masquerade", "symmetric": "masquerade random,fully-random"}
_NAT: Final = """
table ip nat {{
 chain post {{
  type nat hook postrouting priority 100;
  {hairpin}oifname "eth0" {masquerade}
 }}
 chain pre {{
  type nat hook prerouting priority -100;
 }}
}}
table inet wall {{
 chain inp {{
  type filter hook input priority 0;
  iifname "eth0" ct state established,related accept
  iifname "eth0" drop
 }}
 chain forw {{
  type filter hook forward priority 0;
  iifname "eth0" ct state established,related accept
  iifname "eth0" ct status dnat accept
  iifname "eth0" drop
 }}
}}
"""


class LabError(RuntimeError):
    """The lab could not be built, or something in it did not happen in time."""


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command; what it prints. Raises LabError."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass
class Places:
    """The namespaces of one lab, by short names. ``name`` keeps labs apart that run side by side."""

    name: str
    made: list[str] = field(default_factory=list)

    def prefix(self, place: str) -> tuple[str, ...]:
        """The words before a command that is to run in this place."""
        return ("ip", "netns", "exec", f"{self.name}-{place}")

    def inside(self, place: str, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a command in a place; what it prints. Raises LabError."""
        return run(*self.prefix(place), *command, stdin=stdin, check=check)

    def filter(self, place: str, ruleset: str) -> None:
        """Load nftables rules in a place."""
        self.inside(place, "nft", "-f", "-", stdin=ruleset)

    def add(self, place: str) -> None:
        """A namespace with loopback alone."""
        run("ip", "netns", "add", f"{self.name}-{place}")
        self.made.append(place)
        self.inside(place, "ip", "link", "set", "lo", "up")
        for scope in ("default", "all"):  # addresses work at once, without duplicate address detection
            self.inside(place, "sysctl", "-qw", f"net.ipv6.conf.{scope}.accept_dad=0")

    def switch(self, place: str = SWITCH) -> None:
        """A switch, in a namespace of its own."""
        self.add(place)
        self.inside(place, "ip", "link", "add", "br0", "type", "bridge")
        self.inside(place, "ip", "link", "set", "br0", "up")

    def plug(
        self, place: str, addresses: Sequence[str], *, to: str = SWITCH, bridge: str = "br0", device: str = "eth0"
    ) -> None:
        """Join a place, made if need be, to a switch or to a router's LAN (``bridge="lan"``)."""
        if place not in self.made:
            self.add(place)
        port = f"{place[:10]}{device[-1]}"
        end = ("type", "veth", "peer", "name", device, "netns", f"{self.name}-{place}")
        self.inside(to, "ip", "link", "add", port, *end)
        self.inside(to, "ip", "link", "set", port, "master", bridge, "up")
        for address in addresses:
            self.inside(place, "ip", "addr", "add", address, "dev", device)
        # A train of datagrams that the kernel has not cut yet would look like one long datagram to a filter.
        self.inside(place, "ip", "link", "set", device, "gso_max_segs", "1", "up")

    def route(self, place: str, gateway: str) -> None:
        """The default route of a place."""
        self.inside(place, "ip", "route", "add", "default", "via", gateway)

    def router(
        self,
        place: str,
        outside: str,
        lan: str,
        nat: Nat = "cone",
        *,
        to: str = SWITCH,
        bridge: str = "br0",
        gateway: str | None = None,
        forgets_after: int | None = None,
        hairpin: bool = False,
    ) -> None:
        """A NAT router with the address ``outside`` (with its prefix length) and a LAN such as ``192.168.50`` whose
        .1 it is. ``cone``: an inner port keeps its outer one, and what comes in passes from where something went;
        ``symmetric``: a new random port for each destination. ``forgets_after``: seconds that a binding for UDP lasts.
        ``hairpin``: who sends to the outer address from within is sent back in."""
        self.plug(place, [outside], to=to, bridge=bridge)
        if gateway is not None:
            self.route(place, gateway)
        self.inside(place, "ip", "link", "add", "lan", "type", "bridge")
        self.inside(place, "ip", "addr", "add", f"{lan}.1/24", "dev", "lan")
        self.inside(place, "ip", "link", "set", "lan", "up")
        self.inside(place, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        address = outside.partition("/")[0]
        turned = f'iifname "lan" oifname "lan" snat to {address}\n  ' if hairpin else ""
        self.filter(place, _NAT.format(masquerade=_MASQUERADE[nat], hairpin=turned))
        if forgets_after is not None:
            for key in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
                self.inside(place, "sysctl", "-qw", f"net.netfilter.{key}={forgets_after}")

    def forward_port(self, router: str, port: int, inner: str) -> None:
        """What comes to the router's ``port`` from anywhere goes to ``inner`` (as 192.168.50.12:9993)."""
        self.inside(router, "nft", "add", "rule", "ip", "nat", "pre", f"udp dport {port} dnat to {inner}")

    def forget_bindings(self, router: str) -> None:
        """The router's NAT forgets everything, and gives out other ports from now on: as after its restart."""
        self.inside(router, "nft", "flush", "chain", "ip", "nat", "post")
        rule = 'oifname "eth0" meta l4proto udp masquerade to :20000-30000 random,fully-random'
        self.inside(router, "nft", "add", "rule", "ip", "nat", "post", rule)
        self.inside(router, "conntrack", "-F")

    def cut(self, router: str) -> None:
        """What would pass a router is lost until ``mend(router, "cut")``."""
        self.filter(router, "table inet cut {\n chain f {\n  type filter hook forward priority -5;\n  drop\n }\n}\n")

    def cut_family(self, place: str, family: Literal["ipv4", "ipv6"]) -> None:
        """A place hears and sends nothing by this family until ``mend(place, family)``."""
        chains = "".join(
            f" chain {hook} {{\n  type filter hook {hook} priority -5;\n"
            f'  meta nfproto {family} {side}ifname != "lo" drop\n }}\n'
            for hook, side in (("input", "i"), ("output", "o"))
        )
        self.filter(place, f"table inet {family} {{\n{chains}}}\n")

    def mend(self, place: str, table: str, family: str = "inet") -> None:
        """Take away what was put in the way."""
        self.inside(place, "nft", "delete", "table", family, table)

    def drop_long(self, place: str, length: int, switch: str = SWITCH, device: str = "eth0") -> None:
        """A place neither gets nor sends UDP datagrams of more than ``length`` bytes of payload, and nobody is told.
        Undone by ``mend(switch, "long", family="bridge")``."""
        port = f'"{place[:10]}{device[-1]}"'
        long = f"meta protocol ip ip protocol udp udp length > {length + 8} drop"
        self.filter(
            switch,
            "table bridge long {\n chain f {\n  type filter hook forward priority 0;\n"
            f"  iifname {port} {long}\n  oifname {port} {long}\n }}\n}}\n",
        )

    def remove(self) -> None:
        """Remove every namespace."""
        for place in reversed(self.made):
            run("ip", "netns", "del", f"{self.name}-{place}", check=False)
        self.made.clear()


def unavailable() -> str | None:
    """Why there can be no lab here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for network namespaces"
    for program in ("ip", "nft", "conntrack"):
        if shutil.which(program) is None:
            return f"needs the program {program} (Debian: iproute2, nftables, conntrack)"
    try:
        with places("probe") as made:
            made.router("r", "203.0.113.31/24", "192.168.50")
    except LabError as error:
        return f"no namespaces with NAT: {error}"
    return None


@contextlib.contextmanager
def places(name: str) -> Iterator[Places]:
    """A switch, to which places are joined."""
    made = Places(f"zl{os.getpid() % 100000}{name[:6]}")
    try:
        made.switch()
        yield made
    finally:
        made.remove()
