"""The figures of a connection, and of all, for display and for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypedDict

from ztnode.netstack.tcp.scoreboard import LOST, SACKED
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcb import ControlBlock


class ConnectionInfo(TypedDict):
    """Figures as ``ss -i`` shows them; times in seconds, sizes in bytes."""

    state: str
    congestion: str
    phase: str
    """Of recovery: OPEN, RECOVERY or LOSS."""
    rtt: float
    rttvar: float
    min_rtt: float
    rto: float
    mss: int
    cwnd: int
    ssthresh: int
    pacing_rate: float
    """Bytes per second; 0.0: the window alone decides."""
    send_window: int
    unsent: int
    """Written and not yet sent."""
    unacked: int
    """Sent and not cumulatively acknowledged."""
    pipe: int
    """Deemed to be in the network (RFC 6675)."""
    sacked: int
    lost: int
    spans: int
    """Ranges of what is unacknowledged that have one history; likewise ``holes`` and ``sacked_ranges``."""
    holes: int
    sacked_ranges: int
    retransmits: int
    """Events, as the rest of this group."""
    timeouts: int
    fast_recoveries: int
    tail_probes: int
    spurious: int
    receive_window: int
    receive_buffer: int
    out_of_order: int
    """Segments that came out of order."""
    timestamps: bool
    sack: bool
    send_scale: int
    receive_scale: int


def describe(tcb: ControlBlock) -> ConnectionInfo:
    """A snapshot."""
    snd, rcv = tcb.snd, tcb.rcv
    recovery = snd.recovery
    cc, board = recovery.cc, recovery.full_board()
    fates = [state for _, _, state in board.spans()]
    return {
        "state": tcb.state.name,
        "congestion": cc.name,
        "phase": recovery.phase.name,
        "rtt": snd.rtt.srtt or 0.0,
        "rttvar": snd.rtt.rttvar,
        "min_rtt": 0.0 if snd.rtt.min_rtt == float("inf") else snd.rtt.min_rtt,
        "rto": snd.rtt.rto,
        "mss": cc.mss,
        "cwnd": cc.cwnd,
        "ssthresh": min(cc.ssthresh, 1 << 31),
        "pacing_rate": cc.pacing_rate or 0.0,
        "send_window": max(0, snd.edge - recovery.una),
        "unsent": snd.buffer.end - min(recovery.nxt, snd.buffer.end),
        "unacked": recovery.flight,
        "pipe": recovery.pipe,
        "sacked": board.sacked,
        "lost": board.lost,
        "spans": len(fates),
        "holes": fates.count(LOST),
        "sacked_ranges": fates.count(SACKED),
        "retransmits": recovery.retransmits,
        "timeouts": recovery.timeouts,
        "fast_recoveries": recovery.fast_recoveries,
        "tail_probes": recovery.tail_probes,
        "spurious": recovery.spurious,
        "receive_window": rcv.window.edge - rcv.nxt,
        "receive_buffer": rcv.window.limit,
        "out_of_order": rcv.out_of_order,
        "timestamps": tcb.timestamps.on,
        "sack": recovery.sack_ok,
        "send_scale": snd.scale,
        "receive_scale": rcv.scale,
    }


class TcpFigures(NamedTuple):
    """All TCP of one stack at one moment."""

    states: dict[State, int]
    """Connections by state."""
    retransmits: int
    """Segments sent again, by closed connections too."""
    round_trips: tuple[float, ...]
    """Smoothed round trip of each open connection that has measured one, seconds."""


def summarize(connections: Iterable[ControlBlock], time_wait: int, retransmits: int) -> TcpFigures:
    """What connections come to, with ``time_wait`` more in TIME-WAIT; ``retransmits``: those of closed ones."""
    states = dict.fromkeys(State, 0)
    states[State.TIME_WAIT] = time_wait
    round_trips: list[float] = []
    for tcb in connections:
        states[tcb.state] += 1
        retransmits += tcb.snd.recovery.retransmits
        if tcb.snd.rtt.srtt is not None:
            round_trips.append(tcb.snd.rtt.srtt)
    return TcpFigures(states, retransmits, tuple(round_trips))
