"""VL2, virtual Ethernet: network configuration, membership, credentials, multicast, rules. Sans-IO."""

from ztnode.vl2.snapshot import NetworkSnapshot
from ztnode.vl2.vl2 import Vl2

__all__ = ["NetworkSnapshot", "Vl2"]
