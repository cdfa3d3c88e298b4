"""What a user lets a network do here: ``networks.d/<nwid>.local.conf``, as the reference keeps it (OneService.cpp,
``OneService::getNetworkSettings`` and ``setNetworkSettings``: lines of ``key=value``, 1 for true).

The reference's ``allowGlobal`` and ``allowDNS`` protect the host that it changes, and are off until they are set. A
node of ours changes nothing of its host, and what it leads to is for those alone who ask for it: here they are on.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Final

NAMES: Final = {
    "allow_managed": "allowManaged",
    "allow_global": "allowGlobal",
    "allow_default": "allowDefault",
    "allow_dns": "allowDNS",
}
_TRUE: Final = (b"1", b"t", b"T", b"y", b"Y")
_MANAGED: Final = NAMES["allow_managed"].encode()
_LONGEST_WORD: Final = 5
"""Bytes of "false": what is longer is a list of networks."""
MAX_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """``allow_managed``: have the network's addresses and routes at all; ``allow_global``: those of the public internet
    too; ``allow_default``: default routes too; ``allow_dns``: ask its name servers."""

    allow_managed: bool = True
    allow_global: bool = True
    allow_default: bool = False
    allow_dns: bool = True
    managed_within: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks beyond which ``allow_managed`` lets nothing in; without any there is no such bound."""

    def allows_address(self, address: str) -> bool:
        """Whether an address (CIDR) may be ours."""
        interface = ip_interface(address)
        return (
            self.allow_managed
            and (self.allow_global or not interface.ip.is_global)
            and self._is_within(interface.network)
        )

    def allows_route(self, target: str) -> bool:
        """Whether a route to ``target`` (CIDR) may be taken; a default route is ``allow_default``'s alone."""
        network = ip_network(target, strict=False)
        return self.allow_managed and (
            (self.allow_global or not network.prefixlen or not network.network_address.is_global)
            and self._is_within(network)
        )

    def _is_within(self, network: IPv4Network | IPv6Network) -> bool:
        return not self.managed_within or any(
            network.version == each.version and network.subnet_of(each)  # type: ignore[arg-type] # of one version
            for each in self.managed_within
        )


DEFAULTS: Final = NetworkSettings()


def parse(data: bytes) -> NetworkSettings:
    """From the file; what is not understood is left out."""
    lines = dict(line.partition(b"=")[::2] for line in data[:MAX_BYTES].splitlines())
    given = {name: lines[key.encode()].startswith(_TRUE) for name, key in NAMES.items() if lines.get(key.encode())}
    within: list[IPv4Network | IPv6Network] = []
    if len(managed := lines.get(_MANAGED, b"")) > _LONGEST_WORD:
        # Networks with commas between them (OneService.cpp). One that is none must not mean that all may come.
        given["allow_managed"] = True
        for text in managed.split(b","):
            with contextlib.suppress(ValueError):
                within.append(ip_network(text.decode(errors="replace").strip(), strict=False))
        if not within:
            given["allow_managed"] = False
    return NetworkSettings(**given, managed_within=tuple(within))


def unused(data: bytes) -> tuple[str, ...]:
    """Keys of the file that nothing here acts on."""
    keys = (line.partition(b"=")[0].decode(errors="replace") for line in data[:MAX_BYTES].splitlines())
    return tuple(key for key in dict.fromkeys(keys) if key and key not in NAMES.values())


def build(settings: NetworkSettings, before: bytes) -> bytes:
    """The file, with the lines of ``before`` that say something else."""
    keys = {key.encode() for key in NAMES.values()}
    others = [line for line in before[:MAX_BYTES].splitlines() if line.partition(b"=")[0] not in keys]
    ours = [b"%s=%d" % (key.encode(), getattr(settings, name)) for name, key in NAMES.items()]
    if settings.allow_managed and settings.managed_within:
        ours[0] = _MANAGED + b"=" + ",".join(map(str, settings.managed_within)).encode()
    return b"\n".join([*ours, *others]) + b"\n"
