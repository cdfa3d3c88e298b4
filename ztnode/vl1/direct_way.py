"""What somebody beside VL1 needs to seal and open the frames of one peer, and what it tells of having done so.

Whoever has it speaks for this node: packets sealed with these keys are authentic, and what was opened with them is the
peer's. Everything else about the peer, its paths above all, stays with VL1, which hears in ``Carried`` what happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ztnode.wire.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class DirectWay:
    """The path that packets to a peer take now."""

    endpoint: Endpoint
    mtu: int
    """The longest datagram, bytes of UDP payload."""
    keys: tuple[bytes, bytes] = field(repr=False)
    """Those of AES-GMAC-SIV."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Packets of the verb FRAME that somebody else sealed for a peer, or opened, since it was last told. Times are
    monotonic seconds."""

    sent: int
    received: int
    invalid: int
    """Packets in the peer's name that were not authentic."""
    duplicates: int
    last_sent: float
    """Of no meaning where none were sent; so is ``last_received`` where none came."""
    last_received: float
