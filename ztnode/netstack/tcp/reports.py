"""What the network reports about a connection: ICMP, or a next hop that does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztnode.netstack.tcp.ending import error_of, finish
from ztnode.netstack.tcp.segment_size import renew
from ztnode.netstack.tcp.state import State

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

_MASK = 0xFFFFFFFF


def unreachable(connection: TcpConnection, seq32: int, code: int, hard: bool) -> None:
    """ICMP unreachable, or the next hop does not answer.

    In SYN-SENT the attempt fails with the reason (RFC 5461 section 4); later it is only a hint, because anybody
    could have sent it and the network may heal (RFC 1122 section 4.2.3.9, RFC 5927 section 5.2).
    """
    if connection.state is State.SYN_SENT or (connection.state is State.SYN_RECEIVED and connection.listener is None):
        if (seq32 - connection.snd.iss) & _MASK <= 1:
            finish(connection, error_of(code))
    else:
        connection.layer.count("icmp_soft")


def in_flight(connection: TcpConnection, seq32: int) -> bool:
    """Whether a segment that began with `seq32` is on its way."""
    if connection.state < State.ESTABLISHED:
        return seq32 == connection.snd.iss & _MASK
    recovery = connection.snd.recovery
    return (seq32 - recovery.una) & _MASK < max(recovery.flight, 1)


def path_mtu_changed(connection: TcpConnection, seq32: int, now: float) -> None:
    """The flow's MTU was lowered because of a segment of ours (RFC 1191, RFC 8201; the flow has the new value)."""
    recovery = connection.snd.recovery
    if connection.state < State.ESTABLISHED:
        renew(connection)
        return
    if (seq32 - recovery.una) & _MASK >= max(recovery.flight, 1):
        return  # RFC 5927 section 7.2: not about anything in flight
    if renew(connection):
        recovery.resend_all(now)
        connection.layer.want_flush(connection)
