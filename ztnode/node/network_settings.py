"""What a user lets a network do here: ``networks.d/<nwid>.local.conf``, as the reference keeps it (OneService.cpp,
``OneService::getNetworkSettings`` and ``setNetworkSettings``: lines of ``key=value``, 1 for true).

The reference's ``allowGlobal`` and ``allowDNS`` protect the host that it changes, and are off until they are set. A
node of ours changes nothing of its host, and what it leads to is for those alone who ask for it: here they are on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from ipaddress import ip_interface, ip_network
from typing import Final

NAMES: Final = {
    "allow_managed": "allowManaged",
    "allow_global": "allowGlobal",
    "allow_default": "allowDefault",
    "allow_dns": "allowDNS",
}
_TRUE: Final = (b"1", b"t", b"T", b"y", b"Y")
MAX_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """``allow_managed``: have the network's addresses and routes at all; ``allow_global``: those of the public internet
    too; ``allow_default``: default routes too; ``allow_dns``: ask its name servers."""

    allow_managed: bool = True
    allow_global: bool = True
    allow_default: bool = False
    allow_dns: bool = True

    def allows_address(self, address: str) -> bool:
        """Whether an address (CIDR) may be ours."""
        return self.allow_managed and (self.allow_global or not ip_interface(address).ip.is_global)

    def allows_route(self, target: str) -> bool:
        """Whether a route to ``target`` (CIDR) may be taken; a default route is ``allow_default``'s alone."""
        network = ip_network(target, strict=False)
        return self.allow_managed and (
            self.allow_global or not network.prefixlen or not network.network_address.is_global
        )


DEFAULTS: Final = NetworkSettings()


def parse(data: bytes) -> NetworkSettings:
    """From the file; what is not understood is left out."""
    lines = dict(line.partition(b"=")[::2] for line in data[:MAX_BYTES].splitlines())
    given = {name: lines[key.encode()].startswith(_TRUE) for name, key in NAMES.items() if lines.get(key.encode())}
    return NetworkSettings(**given)


def build(settings: NetworkSettings, before: bytes) -> bytes:
    """The file, with the lines of ``before`` that say something else."""
    keys = {key.encode() for key in NAMES.values()}
    others = [line for line in before[:MAX_BYTES].splitlines() if line.partition(b"=")[0] not in keys]
    ours = [b"%s=%d" % (NAMES[each.name].encode(), getattr(settings, each.name)) for each in fields(settings)]
    return b"\n".join([*ours, *others]) + b"\n"
