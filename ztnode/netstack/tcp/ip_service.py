"""What TCP asks of the IP layer below: the narrow waist between ``tcp/`` and the rest of the stack.

TCP builds whole Ethernet frames itself, because one ``struct.pack`` over a per-flow template is what makes bulk
output cheap. The IP layer owns the template (next hop, addresses, hop limit) and says by ``generation`` when it
changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ztnode.netstack.frame import Frame


class IpFlow(Protocol):
    """The way from one of our addresses to one remote address. Shared by every connection between the two."""

    @property
    def port_index(self) -> int:
        """The Ethernet port (network) that the flow leaves by."""

    @property
    def local(self) -> bytes:
        """Our address, 4 or 16 bytes."""

    @property
    def remote(self) -> bytes:
        """The remote address, 4 or 16 bytes."""

    @property
    def mtu(self) -> int:
        """Largest IP packet, in bytes, IP header included (the port's MTU, or what ICMP lowered it to)."""

    @property
    def takes(self) -> int:
        """Longest IP packet, in bytes, that gets through from the remote to us: what it sends must be no longer."""

    @property
    def header(self) -> bytes:
        """Ethernet and IP header template, 34 (IPv4, DF set, ID 0) or 54 bytes (IPv6), protocol TCP.

        Total/payload length and the IPv4 checksum are zero; TCP fills them. The destination MAC may still be zero.
        """

    @property
    def generation(self) -> int:
        """Changes whenever ``header`` or ``mtu`` changes."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Queue complete frames. Until the next hop is resolved a bounded number is kept, to fill in the MAC."""

    def confirm(self, now: float) -> None:
        """The remote answers: reachability confirmation for the neighbour cache (RFC 4861 section 7.3.1)."""


class FlowSource(Protocol):
    """What the layer asks the stack when a packet came from somebody that no connection knows."""

    def flow_to(self, port_index: int, local: bytes, remote: bytes) -> IpFlow | None:
        """The flow for answers from ``local`` to ``remote``; None when there is no route."""
