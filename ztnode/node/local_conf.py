"""The part of ``local.conf`` that concerns physical paths, as the reference reads it (OneService.cpp,
``OneService::readLocalSettings`` and ``applyLocalConfig``). Everything else in the file is left to the reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

MIN_MTU: Final = 548
"""Bytes of UDP payload that any IPv4 host takes. (The reference takes none below 1400, ZT_MIN_PHYSMTU.)"""
MAX_MTU: Final = 10100
"""ZT_MAX_PHYSPAYLOAD."""
_MAX_ENTRIES: Final = 256


@dataclass(frozen=True, slots=True)
class LocalConf:
    """What it says of physical networks."""

    mtus: tuple[tuple[IPv4Network | IPv6Network, int], ...] = ()
    """The longest UDP payload, bytes, for endpoints in a network."""
    avoided: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks in which there are no paths (``blacklist``)."""
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks with a ``trustedPathId``, whose packets the reference neither encrypts nor authenticates. Not offered
    here: what comes that way is dropped."""


def parse(data: bytes) -> LocalConf:
    """Raises ValueError, with one line that says what is wrong."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    physical = document.get("physical", {}) if isinstance(document, dict) else None
    if not isinstance(physical, dict) or len(physical) > _MAX_ENTRIES:
        raise ValueError('"physical" is no object of at most 256 networks')
    mtus, avoided, trusted = [], [], []
    for text, entry in physical.items():
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"physical: {text!r} is no network such as 10.0.0.0/8") from None
        if not isinstance(entry, dict):
            raise ValueError(f"physical: {text}: not an object")
        mtu = entry.get("mtu", 0)
        if mtu:
            if type(mtu) is not int or not MIN_MTU <= mtu <= MAX_MTU:
                raise ValueError(f"physical: {text}: mtu is a number from {MIN_MTU} to {MAX_MTU}")
            mtus.append((network, mtu))
        if entry.get("blacklist") is True:
            avoided.append(network)
        if entry.get("trustedPathId"):
            trusted.append(network)
    return LocalConf(tuple(mtus), tuple(avoided), tuple(trusted))
