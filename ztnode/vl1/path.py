"""A path: one endpoint at which a peer has proved that it can be reached."""

from __future__ import annotations

from typing import Final

from ztnode.vl1.path_mtu import PathMtu
from ztnode.vl1.scope import Scope, is_ipv6, scope_of
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.packet import DEFAULT_PHYSICAL_MTU

HEARTBEAT_PERIOD: Final = 14.0
"""Seconds after which an idle path gets a heartbeat, which also keeps NAT bindings open (ZT_PATH_HEARTBEAT_PERIOD)."""
EXPIRATION: Final = 243.0
"""Seconds of silence after which a path is forgotten (ZT_PEER_PATH_EXPIRATION)."""
PROBE_AFTER: Final = 2.0
"""Seconds without an answer to what we send after which a path is suspect and probed, once per second."""
QUICK_AFTER: Final = 0.4
QUICK_INTERVAL: Final = 0.25
"""The same where there is another path to change to and a connection that waits: seconds of silence (two round trips
at the least), and from the first probe to the second, on which the other path is taken."""
PROBE_INTERVAL: Final = 1.0
SURE_FOR: Final = 0.25
"""Seconds after a packet in which a path is not doubted because another one is found. Where a peer has several, they
are found one right after the other; one that has moved, or started again at another port, is silent for longer."""
PROBES: Final = 3
"""Probes without an answer after which a path counts as dead. The reference has nothing of the kind and sends into a
dead path until it expires; here packets go through a root meanwhile."""
UNANSWERED_AFTER: Final = 5.0
"""Seconds without an answer, in which a path that is used for frames was asked and heard, after which it is asked each
second: perhaps it leads here and not there."""
UNANSWERED: Final = 12
"""Such questions without an answer after which it counts as dead. With 30 % of all packets lost, each way, an answer
comes to one of two: that is a bad path, and no dead one."""
DOUBTED_AFTER: Final = 2
"""Probes after which any other path is preferred: the first of them has had a second to be answered."""

_UNKNOWN_LATENCY: Final = 1.0
_DOUBT: Final = 1000.0
"""Seconds added to the latency of a path that does not answer."""
_LATENCY_FLOOR: Final = 0.005
"""Seconds added to every latency before two are compared, so that noise on a LAN decides nothing."""


class Path:
    """One endpoint of one peer, learnt from an OK that came straight from it."""

    __slots__ = (
        "dead",
        "deaf_probes",
        "endpoint",
        "is_ipv6",
        "last_answer",
        "last_hello",
        "last_receive",
        "last_send",
        "latency",
        "mtu",
        "mtu_search",
        "next_echo_answer",
        "next_probe",
        "probes",
        "scope",
    )

    def __init__(self, endpoint: Endpoint, now: float, mtu: int = DEFAULT_PHYSICAL_MTU) -> None:
        self.endpoint = endpoint
        self.scope: Scope = scope_of(endpoint[0])
        self.is_ipv6 = is_ipv6(endpoint)
        self.last_receive = now
        """When an authentic packet last came straight from here."""
        self.last_answer = now
        """When it was last proved that packets get there, and back."""
        self.last_send = now
        self.last_hello = now
        """When a stalled connection was last the reason for a HELLO."""
        self.latency: float | None = None
        """Round trip in seconds, smoothed; None until measured."""
        self.mtu = mtu
        """The longest datagram to send this way, bytes of UDP payload; no more than ``mtu_search`` has found."""
        self.mtu_search = PathMtu(mtu)
        self.next_probe = now
        """Before this no further probe is sent."""
        self.probes = 0
        """Probes sent since the last packet came."""
        self.deaf_probes = 0
        """Questions since then whose reason was that nothing was answered although something was heard."""
        self.dead = False
        """It stopped answering, or our own address changed: not used until something comes from it again."""
        self.next_echo_answer = float("-inf")
        """Before this an ECHO that came this way is not answered (Path::rateGateEchoRequest)."""

    def measured(self, round_trip: float) -> None:
        """Take a new measurement into the latency (Path::updateLatency)."""
        self.latency = round_trip if self.latency is None else (self.latency + round_trip) / 2

    @property
    def cost(self) -> float:
        """What a packet pays for taking this path; less is better. Paths that answer first, then near scopes, as
        Path::quality has it, and IPv6 where all else is equal."""
        latency = _UNKNOWN_LATENCY if self.latency is None else self.latency
        if self.probes >= DOUBTED_AFTER:
            latency += _DOUBT
        return (latency + _LATENCY_FLOOR) * (Scope.PRIVATE - self.scope + 1) * (0.99 if self.is_ipv6 else 1.0)

    def answered(self, now: float) -> None:
        """The peer has answered straight by this path what we asked."""
        self.dead = False
        self.probes = self.deaf_probes = 0
        self.last_receive = self.last_answer = now

    def is_unanswered(self, now: float) -> bool:
        """Whether we have been sending for long without an answer, whatever else is heard."""
        return self.last_send > self.last_answer and now - self.last_answer >= UNANSWERED_AFTER

    def wants_probe(self, now: float, *, quick: bool = False) -> bool:
        """Whether we have been sending for a while without hearing anything; ``quick``: not for long."""
        silent = max(QUICK_AFTER, 2 * (self.latency or 0.0)) if quick else PROBE_AFTER
        return self.last_send > self.last_receive and now - self.last_receive >= silent
