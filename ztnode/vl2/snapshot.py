"""What there is to see of a joined network."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ztnode.wire.multicast import MulticastGroup
from ztnode.wire.network_config import Dns, IpInterface, ManagedRoute, SingleSignOn


class NetworkStatus(enum.Enum):
    """Where a membership stands. The values are those of ``ztnode.node.api.JoinState``."""

    REQUESTING = "requesting"
    WAITING_FOR_AUTHORIZATION = "waiting_for_authorization"
    NOT_FOUND = "not_found"
    AUTHENTICATION_REQUIRED = "authentication_required"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class NetworkFigures:
    """What was counted for one joined network since it was joined or the node started. Bytes are those of Ethernet
    frames, from members to the stack (received) and back. ``drops``: frames dropped, by reason."""

    nwid: int
    frames_received: int
    bytes_received: int
    frames_sent: int
    bytes_sent: int
    groups: int
    """Multicast groups that it is subscribed to."""
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class NetworkSnapshot:
    """One joined network at one moment. ``detail`` is one line that a person can act on."""

    nwid: int
    status: NetworkStatus
    detail: str
    name: str
    mac: int
    mtu: int
    addresses: tuple[IpInterface, ...]
    routes: tuple[ManagedRoute, ...]
    dns: Dns
    private: bool
    broadcast: bool
    multicast_limit: int
    """Members that one multicast frame reaches at most; 0: there is no multicast."""
    bridge: bool
    """True if the controller lets this node bridge other Ethernet hosts in."""
    revision: int
    sso: SingleSignOn
    """How a person logs in, as the controller said last."""
    from_cache: bool
    """True while the configuration is the one kept on disk, not yet confirmed by the controller."""
    groups: tuple[MulticastGroup, ...]
    members: int = field(compare=False)
    """Other members that this node has been in contact with."""
    counters: dict[str, int] = field(compare=False)
    issued_at: int = field(default=0, compare=False)
    """When the controller made the configuration, by its own clock, Unix milliseconds."""
    received_at: float | None = field(default=None, compare=False)
    """When that came, monotonic seconds; None: not since the start."""
