"""VL2, virtual Ethernet: network configuration, membership, credentials, multicast, rules. Sans-IO."""

from ztnode.vl2.forwarding import PlainFlow
from ztnode.vl2.snapshot import NetworkFigures, NetworkSnapshot, NetworkStatus
from ztnode.vl2.vl2 import Vl2
from ztnode.vl2.vl2_events import ConfigStored, Event, NetworkChanged

__all__ = [
    "ConfigStored",
    "Event",
    "NetworkChanged",
    "NetworkFigures",
    "NetworkSnapshot",
    "NetworkStatus",
    "PlainFlow",
    "Vl2",
]
