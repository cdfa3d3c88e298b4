"""What every header of a connection carries, and the segments without text that stand alone: RST and challenge ACK."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ztnode.netstack.tcp.state import State
from ztnode.wire import tcp as wire

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection

_MASK = 0xFFFFFFFF
_PACK_TIMESTAMPS = struct.Struct("!III").pack


def tsval(connection: TcpConnection, now: float) -> int:
    """Our timestamp clock: milliseconds, from an offset of this pair of hosts (RFC 7323 section 5.4)."""
    return (int(now * 1000) + connection.timestamp_offset) & _MASK


def timestamps_option(connection: TcpConnection, now: float) -> bytes:
    """The options of a segment without SACK blocks: timestamps, or nothing."""
    if not connection.ts_ok:
        return b""
    return _PACK_TIMESTAMPS(wire.TIMESTAMPS_WORD, tsval(connection, now), connection.rcv.ts_recent)


def announced_window(connection: TcpConnection) -> int:
    """The window field; what it says is promised from here on."""
    rcv = connection.rcv
    return rcv.window.announce(rcv.nxt, rcv.queue.size, rcv.mss, rcv.scale)


def send_reset(connection: TcpConnection) -> None:
    """<SEQ=SND.NXT><CTL=RST> (RFC 9293 section 3.10.5), with the acknowledgement, as everybody sends it."""
    snd = connection.snd
    if connection.state >= State.SYN_RECEIVED:
        flags = wire.RST | wire.ACK
        connection.flow.send([snd.writer.control(snd.recovery.nxt, connection.rcv.nxt, flags, 0, b"")])
        connection.layer.count("resets_sent")


def challenge(connection: TcpConnection, now: float) -> None:
    """A challenge ACK (RFC 5961), rate-limited for the whole host (section 7)."""
    layer = connection.layer
    if layer.challenge_allowed(now):
        layer.count("challenge_acks")
        writer = connection.snd.writer
        options = timestamps_option(connection, now)
        nxt = connection.snd.recovery.nxt
        connection.flow.send([writer.control(nxt, connection.rcv.nxt, wire.ACK, announced_window(connection), options)])
