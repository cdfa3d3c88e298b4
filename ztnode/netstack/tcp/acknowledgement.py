"""The acknowledgement part of segments (RFC 9293 section 3.10.7.4, fifth step; RFC 2018, RFC 2883, RFC 7323)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztnode.netstack.tcp.control_segments import tsval
from ztnode.netstack.tcp.ending import fin_acknowledged

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

_MASK = 0xFFFFFFFF
_HALF = 0x80000000


def process(
    connection: TcpConnection,
    ack: int,
    sack: tuple[tuple[int, int], ...],
    echo: int | None,
    duplicate: bool,
    now: float,
) -> None:
    """The acknowledgement part of a segment, or of several in a row."""
    snd = connection.snd
    recovery = snd.recovery
    una = recovery.una
    blocks: tuple[tuple[int, int], ...] = ()
    dsack = 0
    if sack and snd.sack_ok:
        blocks, dsack = _sack_blocks(connection, sack, max(ack, una))
    echo_rtt = 0.0
    if echo is not None and connection.ts_ok:
        elapsed = (tsval(connection, now) - echo) & _MASK
        if elapsed < _HALF:
            echo_rtt = elapsed / 1000 or 0.0005
    acked = recovery.acknowledged(
        max(ack, una),
        blocks,
        now,
        dup_acks=1 if duplicate else 0,
        echo=echo if connection.ts_ok else None,
        echo_rtt=echo_rtt,
        dsack=dsack,
    )
    if acked:
        snd.acknowledged(recovery.una, now)
        connection.flow.confirm(now)
        connection.notify()
        if snd.fin_queued and recovery.una > snd.buffer.end:
            fin_acknowledged(connection)
            if connection.closed:
                return
    elif blocks:
        connection.notify()  # there may be more room to write
    connection.layer.want_flush(connection)


def _sack_blocks(
    connection: TcpConnection, sack: tuple[tuple[int, int], ...], ack: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Unwrap SACK blocks; (those inside what is in flight, bytes that a DSACK block reports)."""
    nxt = connection.snd.recovery.nxt
    blocks: list[tuple[int, int]] = []
    dsack = 0
    for position, (left32, right32) in enumerate(sack):
        left = ack + ((left32 - ack + _HALF) & _MASK) - _HALF
        right = left + ((right32 - left32) & _MASK)
        if left >= right or right > nxt:
            continue
        if position == 0 and (right <= ack or (len(sack) > 1 and _inside(sack[1], left, right, ack))):
            dsack = right - left  # RFC 2883 section 4
        elif left >= ack:
            blocks.append((left, right))
    return tuple(blocks), dsack


def _inside(block: tuple[int, int], left: int, right: int, ack: int) -> bool:
    low = ack + ((block[0] - ack + _HALF) & _MASK) - _HALF
    high = ack + ((block[1] - ack + _HALF) & _MASK) - _HALF
    return low <= left and right <= high
