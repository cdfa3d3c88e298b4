"""The node process: event loop, sockets, timers, supervision. Glue alone.

Exported is what the control plane acts on, and nothing that makes a command slow to start: ``ztnode.node.node`` has the
node itself.
"""

from ztnode.node.api import DialError, Handoff, JoinState, NetworkInfo, NodeApi, NodeStatus, PeerInfo, WorkerInfo

__all__ = [
    "DialError",
    "Handoff",
    "JoinState",
    "NetworkInfo",
    "NodeApi",
    "NodeStatus",
    "PeerInfo",
    "WorkerInfo",
]
