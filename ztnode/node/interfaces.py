"""The host's own addresses, to be offered to peers as direct paths."""

from __future__ import annotations

import ipaddress
from typing import Final

import ifaddr

OVERLAY_PREFIXES: Final = ("zt", "feth")
"""Devices of a ZeroTier service on this host: a path through another overlay would only add to it."""


def addresses(avoided: tuple[str, ...] = ()) -> list[str]:
    """Unicast addresses of all interfaces that others could reach: no loopback, no link-local, no overlay device, and
    none whose name begins as one of ``avoided``.
    Empty where a sandbox forbids to ask; peers then learn of us by the addresses that they see."""
    found: list[str] = []
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError:
        return found
    for adapter in adapters:
        if adapter.name.startswith((*OVERLAY_PREFIXES, *avoided)):
            continue
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(text)
            if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
                found.append(text)
    return found
