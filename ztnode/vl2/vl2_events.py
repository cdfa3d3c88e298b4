"""What VL2 tells its owner: rare events, taken with ``Vl2.events()``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Something that ``Vl2.network(nwid)`` shows is different now; None there: the network was left."""

    nwid: int


@dataclass(frozen=True, slots=True)
class ConfigStored:
    """``data`` belongs into ``networks.d/<nwid as 16 hex digits>.conf``; None: delete that file.

    It is the dictionary that the reference keeps there, or a single line feed for a network that was joined but has no
    configuration (yet).
    """

    nwid: int
    data: bytes | None


Event: TypeAlias = NetworkChanged | ConfigStored
