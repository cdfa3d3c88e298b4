"""Whom to dial, and how."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from ztclient.forms import format_host_port

if TYPE_CHECKING:
    from ztclient.v1 import node_pb2 as pb


class Destination(NamedTuple):
    """What a connection is asked for with. Not the protocol's message: a stack worker is asked without one, and making
    it takes longer than asking."""

    ip: str
    """A numeric address, or a name of the overlay."""
    port: int
    timeout: float = 0.0
    """Seconds until it stands; 0: as many as whoever is asked allows."""
    network_id: str = ""
    """16 hexadecimal digits; empty: whichever network has a route."""
    delay: bool = False
    """Small writes may wait (Nagle)."""
    congestion: str = ""
    """The name of its congestion control; empty: the node's."""

    def message(self, waited: float = 0.0) -> pb.DialRequest:
        """For the node, when so many seconds are over already. Raises ValueError, and TimeoutError when all are."""
        if 0 < self.timeout <= waited:
            target = format_host_port(self.ip, self.port)
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from {target} within {self.timeout:g} s")
        from ztclient.times import duration
        from ztclient.v1 import node_pb2 as pb

        request = pb.DialRequest(
            ip=self.ip,
            port=self.port,
            network_id=self.network_id,
            delay=self.delay,
            congestion=self.congestion,
        )
        if self.timeout:
            request.timeout.CopyFrom(duration(self.timeout - waited))
        return request
