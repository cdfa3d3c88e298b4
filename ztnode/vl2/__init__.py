"""VL2, virtual Ethernet: network configuration, membership, credentials, multicast, rules. Sans-IO."""

from ztnode.vl2.snapshot import NetworkSnapshot, NetworkStatus
from ztnode.vl2.vl2 import Vl2
from ztnode.vl2.vl2_events import ConfigStored, Event, NetworkChanged

__all__ = ["ConfigStored", "Event", "NetworkChanged", "NetworkSnapshot", "NetworkStatus", "Vl2"]
