"""VL1, the peer-to-peer transport: keys, peers, paths, roots, relaying, fragments, verbs. Sans-IO."""

from ztnode.vl1.direct_way import Carried, DirectWay
from ztnode.vl1.path import Path
from ztnode.vl1.peer import Peer
from ztnode.vl1.traffic import Traffic
from ztnode.vl1.vl1 import Vl1
from ztnode.vl1.vl1_config import Vl1Config
from ztnode.vl1.vl1_core import Message
from ztnode.vl1.vl1_events import (
    Event,
    IdentityCollision,
    IdentityShared,
    MoonUpdated,
    Offline,
    Online,
    PathMtuFound,
    PathNotTrusted,
    PeerPathChanged,
    PeerReturned,
    PeerShared,
    PlanetUpdated,
    SurfaceAddress,
)

__all__ = [
    "Carried",
    "DirectWay",
    "Event",
    "IdentityCollision",
    "IdentityShared",
    "Message",
    "MoonUpdated",
    "Offline",
    "Online",
    "Path",
    "PathMtuFound",
    "PathNotTrusted",
    "Peer",
    "PeerPathChanged",
    "PeerReturned",
    "PeerShared",
    "PlanetUpdated",
    "SurfaceAddress",
    "Traffic",
    "Vl1",
    "Vl1Config",
]
