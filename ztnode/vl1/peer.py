"""A peer: who it is, how to reach it, and the gates that bound what it may ask of us."""

from __future__ import annotations

from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity


class Peer:
    """One other node. The owner and the layer above read it; only ``Vl1`` changes it."""

    __slots__ = ("address", "identity", "last_receive", "protocol", "trusted_until", "version")

    address: int
    identity: Identity
    protocol: int
    """Protocol version from its HELLO; 0 until known."""
    version: tuple[int, int, int]
    """Software version (major, minor, revision); (0, 0, 0) until known."""
    last_receive: float
    """When an authentic packet came last, direct or relayed; minus infinity until then."""

    @property
    def latency(self) -> float | None:
        """Round trip in seconds over the best path; None where unknown."""
        raise NotImplementedError

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint of the direct path in use, None while packets go through a root."""
        raise NotImplementedError
