"""What VL1 tells its owner: rare events, taken with ``Vl1.events()``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ztnode.wire.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Online:
    """A root answered for the first time, or again after ``Offline``."""

    root: int


@dataclass(frozen=True, slots=True)
class Offline:
    """No root has been heard for so long that relaying and WHOIS must be assumed not to work."""


@dataclass(frozen=True, slots=True)
class PeerPathChanged:
    """The path that packets to ``address`` take is now ``endpoint``; None: they go through a root."""

    address: int
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class PathMtuFound:
    """Datagrams of ``mtu`` bytes are what reaches ``address`` and comes from it; None: those of full length do. Told
    again each time that less than full length was asked about."""

    address: int
    mtu: int | None


@dataclass(frozen=True, slots=True)
class PeerReturned:
    """``address`` is heard again, after seconds in which frames were sent to it and nothing came."""

    address: int


@dataclass(frozen=True, slots=True)
class SurfaceAddress:
    """``reporter`` says that our packets reach it from ``endpoint``, which is news."""

    endpoint: Endpoint
    reporter: int


@dataclass(frozen=True, slots=True)
class PlanetUpdated:
    """A newer planet, signed as the present one demands, has arrived; ``data`` is for the file ``planet``."""

    data: bytes


@dataclass(frozen=True, slots=True)
class MoonUpdated:
    """A moon that we orbit was learnt or updated; ``data`` is for ``moons.d/<id as 16 hex digits>.moon``."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class IdentityCollision:
    """A root says that another identity holds our address: this node needs a new identity."""

    root: int


@dataclass(frozen=True, slots=True)
class IdentityShared:
    """Another host uses our identity (``twins``): packets to us arrive there."""


@dataclass(frozen=True, slots=True)
class PeerShared:
    """The traffic of this peer comes from two places in turn: two hosts may have its identity."""

    address: int
    one: Endpoint
    other: Endpoint


@dataclass(frozen=True, slots=True)
class PathNotTrusted:
    """Somebody at ``endpoint`` sends in the name of ``address`` as on a trusted path, which is not configured here.
    Comes once: ``drop_path_not_trusted`` has the count."""

    address: int
    endpoint: Endpoint
    path_id: int


Event: TypeAlias = (
    Online
    | Offline
    | PeerPathChanged
    | PathMtuFound
    | PeerReturned
    | SurfaceAddress
    | PlanetUpdated
    | MoonUpdated
    | IdentityCollision
    | IdentityShared
    | PeerShared
    | PathNotTrusted
)
