"""TIME-WAIT (RFC 9293 section 3.6.1): small records instead of connections, bounded, oldest first."""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Final

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.connection_key import ConnectionKey
from ztnode.netstack.tcp.framing import HeaderFields, SegmentWriter
from ztnode.netstack.tcp.ip_service import IpFlow
from ztnode.netstack.tcp.sequence import MASK, is_before
from ztnode.wire import tcp as wire

TIME_WAIT: Final = 60.0
"""2 MSL in seconds, as in the kernel (RFC 9293 section 3.4.2 has an MSL of two minutes)."""


class Verdict(enum.Enum):
    """What becomes of a segment for a connection in TIME-WAIT."""

    IGNORE = enum.auto()
    ANSWER = enum.auto()
    """The peer did not hear our last acknowledgement."""
    REOPEN = enum.auto()
    """A new incarnation begins: as if the entry had never been."""


class TimeWaitEntry:
    """What is needed to answer for a connection that is over. Sequence numbers as on the wire."""

    __slots__ = ("expires", "flow", "local_port", "rcv_nxt", "remote_port", "snd_nxt", "ts_offset", "ts_recent")

    def __init__(
        self,
        flow: IpFlow,
        local_port: int,
        remote_port: int,
        snd_nxt: int,
        rcv_nxt: int,
        ts_recent: int | None,
        ts_offset: int,
        expires: float,
    ) -> None:
        self.flow = flow
        self.local_port = local_port
        self.remote_port = remote_port
        self.snd_nxt = snd_nxt & MASK
        self.rcv_nxt = rcv_nxt & MASK
        self.ts_recent = ts_recent
        """The peer's last timestamp; None without timestamps."""
        self.ts_offset = ts_offset
        self.expires = expires

    def accepts_syn(self, seq: int, tsval: int | None) -> bool:
        """Whether a SYN may open a new incarnation now.

        RFC 6191 section 2: the timestamp is greater; or, without help from timestamps, RFC 1122 section 4.2.2.13: the
        sequence number is beyond what the old incarnation used.
        """
        if self.ts_recent is not None and tsval is not None and tsval != self.ts_recent:
            return not is_before(tsval, self.ts_recent)
        return not is_before(seq, self.rcv_nxt)

    def acknowledgement(self, now: float) -> Frame:
        """Where the connection ended, for a peer that says something again."""
        options = b""
        if self.ts_recent is not None:
            mine = (int(now * 1000) + self.ts_offset) & MASK
            options = wire.build_options(wire.Options(timestamps=(mine, self.ts_recent)))
        writer = SegmentWriter(self.flow, self.local_port, self.remote_port)
        return writer.control(self.snd_nxt, wire.ACK, HeaderFields(self.rcv_nxt, 0, options))


class TimeWaitTable:
    """Entries of one network in the order of their expiry (2 MSL is the same for all)."""

    __slots__ = ("_maximum", "entries")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.entries: OrderedDict[tuple[int, ConnectionKey], TimeWaitEntry] = OrderedDict()
        """In order of their expiry; empty: there is no timer."""

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: tuple[int, ConnectionKey]) -> bool:
        return key in self.entries

    def get(self, key: tuple[int, ConnectionKey]) -> TimeWaitEntry | None:
        """The entry of (port index, connection key), if any."""
        return self.entries.get(key)

    def add(self, key: tuple[int, ConnectionKey], entry: TimeWaitEntry) -> None:
        """Begin TIME-WAIT; the oldest entry makes room when the table is full."""
        self.entries[key] = entry
        self.entries.move_to_end(key)
        if len(self.entries) > self._maximum:
            self.entries.popitem(last=False)

    def arrived(self, key: tuple[int, ConnectionKey], header: wire.Header, payload: memoryview, now: float) -> Verdict:
        """A segment for the entry of ``key`` (section 3.10.7.4)."""
        entry, flags = self.entries[key], header.flags
        if flags & wire.RST:
            return Verdict.IGNORE  # RFC 1337: TIME-WAIT is not assassinated
        timestamps = header.options.timestamps
        tsval = timestamps[0] if timestamps is not None else None
        if flags & (wire.SYN | wire.ACK) == wire.SYN and entry.accepts_syn(header.sequence, tsval):
            self.remove(key)
            return Verdict.REOPEN
        if flags & wire.FIN:
            self.restart(key, now)
        if flags & (wire.FIN | wire.SYN) or payload or header.sequence != entry.rcv_nxt:
            return Verdict.ANSWER
        return Verdict.IGNORE

    def restart(self, key: tuple[int, ConnectionKey], now: float) -> None:
        """The peer repeated its FIN: 2 MSL begins again."""
        self.entries[key].expires = now + TIME_WAIT
        self.entries.move_to_end(key)

    def remove(self, key: tuple[int, ConnectionKey]) -> None:
        """A new incarnation takes over."""
        self.entries.pop(key, None)

    def remove_port(self, port_index: int) -> None:
        """The network is gone."""
        for key in [key for key in self.entries if key[0] == port_index]:
            del self.entries[key]

    def expire(self, now: float) -> None:
        """Drop what is over."""
        entries = self.entries
        while entries:
            key = next(iter(entries))
            if entries[key].expires > now:
                break
            del entries[key]

    def next_expiry(self) -> float | None:
        """When the oldest entry ends."""
        return self.entries[next(iter(self.entries))].expires if self.entries else None
