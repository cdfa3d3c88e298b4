"""What a user can set about VL1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from ztnode.vl1.trusted_paths import TrustedNetwork
from ztnode.wire.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Vl1Config:
    """Settings of one ``Vl1``; the defaults are those of an ordinary leaf node."""

    relay: bool = False
    """Relay packets for others, introduce peers to each other (RENDEZVOUS) and answer every WHOIS: a root's work."""

    mtu: int = 1432
    """Largest UDP payload that is sent, in bytes; longer packets go out in fragments. A path that turns out to carry
    less gets less."""

    physical_mtus: tuple[tuple[IPv4Network | IPv6Network, int], ...] = ()
    """Other such sizes for endpoints in these networks (``physical`` in the reference's local.conf); the most specific
    network counts."""

    trusted_paths: tuple[TrustedNetwork, ...] = ()
    """Physical networks on which packets are neither encrypted nor authenticated, each with its number."""

    hints: Mapping[int, tuple[Endpoint, ...]] = field(default_factory=dict, hash=False)
    """Endpoints at which peers may be, by ZeroTier address (``virtual`` in the reference's local.conf, ``try``): asked
    while there is traffic and no path."""

    avoided_of: Mapping[int, tuple[IPv4Network | IPv6Network, ...]] = field(default_factory=dict, hash=False)
    """Networks in which there are no paths to a peer, by its address."""

    version: tuple[int, int, int] = (1, 14, 1)
    """The software version (major, minor, revision) that HELLO claims. Peers compare it with what features need."""

    protocol: int = 12
    """The protocol version that HELLO claims. Peers use AES-GMAC-SIV with us from 12 on, Salsa20/12 below."""

    allow_loopback: bool = False
    """Take 127.0.0.0/8 and ::1 for paths. Always so when a root of the planet has such an endpoint."""

    defer_identity_checks: bool = False
    """Hand identities that need the memory-hard hash to the owner (``Vl1.identity_checks``) instead of computing it
    in ``receive``, where it stops everything else for a tenth of a second. For roots."""

    hashes_per_second: float = 3.0
    """Identities of strangers that a root validates by the hash, in the long run: by configuration, or because a world
    names it. For owners that have cores to do it on. Others do one in five seconds."""

    max_peers: int = 16384
    """Peers kept in memory; the one unheard for longest makes room."""

    max_peers_of_root: int | None = None
    """The same while a world names us as a root; None: no other number."""

    def mtu_to(self, ip: str) -> int:
        """The largest UDP payload to send to this address."""
        if not self.physical_mtus:
            return self.mtu
        address = ip_address(ip)
        fitting = [(network.prefixlen, mtu) for network, mtu in self.physical_mtus if address in network]
        return max(fitting)[1] if fitting else self.mtu
