"""The acknowledgement part of segments (RFC 9293 section 3.10.7.4, fifth step; RFC 2018, RFC 2883, RFC 7323)."""

from __future__ import annotations

from typing import TypeAlias

from ztnode.netstack.tcp.ending import fin_acknowledged
from ztnode.netstack.tcp.sequence import distance, unwrap
from ztnode.netstack.tcp.tcb import ControlBlock

Blocks: TypeAlias = tuple[tuple[int, int], ...]


def process_ack(tcb: ControlBlock, ack: int, sack: Blocks, echo: int | None, duplicate: bool, now: float) -> None:
    """The acknowledgement part of a segment, or of several in a row.

    ``ack`` is unwrapped, ``sack`` as on the wire; ``echo`` is the timestamp that came back, None without the option.
    ``duplicate``: it counts as a duplicate ACK (RFC 5681 section 2).
    """
    snd = tcb.snd
    recovery = snd.recovery
    una = recovery.una
    blocks: Blocks = ()
    dsack = 0
    if sack and recovery.sack_ok:
        blocks, dsack = _sack_blocks(sack, max(ack, una), recovery.nxt)
    if not tcb.timestamps.on:
        echo = None
    acked = recovery.acknowledged(
        max(ack, una),
        blocks,
        now,
        dup_acks=1 if duplicate else 0,
        echo=echo,
        echo_rtt=tcb.timestamps.elapsed(echo, now) if echo is not None else 0.0,
        dsack=dsack,
    )
    if acked:
        snd.acknowledged(recovery.una, now)
        tcb.link.flow.confirm(now)
        tcb.notify()
        if snd.fin_queued and recovery.una > snd.buffer.end:
            fin_acknowledged(tcb)
            if tcb.closed:
                return
    elif blocks:
        tcb.notify()  # there may be more room to write
    tcb.layer.want_flush(tcb)


def all_arrived(tcb: ControlBlock, ack: int, now: float) -> bool:
    """``process_ack`` for the usual end of an exchange, in a fraction of its steps: the peer has all that was sent, and
    nothing but figures follows from that. False: more may follow, and nothing was done."""
    snd = tcb.snd
    recovery = snd.recovery
    if ack != recovery.nxt or not tcb.brief or snd.persist_at is not None or not recovery.all_arrived(now):
        return False
    snd.last_progress = now
    buffer = snd.buffer
    buffer.acknowledge(ack)
    tcb.link.flow.confirm(now)
    if not tcb.noticed:
        tcb.layer.notify(tcb)
    if buffer.end > ack:
        tcb.layer.want_flush(tcb)
    else:
        recovery.output_una = ack  # what the flush would do, which there is no other reason for
    return True


def _sack_blocks(sack: Blocks, ack: int, nxt: int) -> tuple[Blocks, int]:
    """Unwrap SACK blocks; (those inside what is in flight, bytes that a DSACK block reports)."""
    blocks: list[tuple[int, int]] = []
    dsack = 0
    for position, (left32, right32) in enumerate(sack):
        left = unwrap(left32, ack)
        right = left + distance(right32, left32)
        if left >= right or right > nxt:
            continue
        if position == 0 and (right <= ack or (len(sack) > 1 and _inside(sack[1], left, right, ack))):
            dsack = right - left  # RFC 2883 section 4
        elif left >= ack:
            blocks.append((left, right))
    return tuple(blocks), dsack


def _inside(block: tuple[int, int], left: int, right: int, ack: int) -> bool:
    return unwrap(block[0], ack) <= left and right <= unwrap(block[1], ack)
