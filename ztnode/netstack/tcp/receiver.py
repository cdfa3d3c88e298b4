"""The receiving half of a connection: sequence space, reassembly, window, and when to acknowledge."""

from __future__ import annotations

import struct

from ztnode.netstack.tcp.receive import Reassembly, ReceiveQueue, ReceiveWindow
from ztnode.wire import tcp as wire

_QUICK_ACKS = 16
"""Segments of a new connection (or after a loss) that are acknowledged at once: the peer is in slow start."""
_SACK_BLOCKS = 3
"""As many as fit beside timestamps (RFC 7323 appendix A)."""
_MAX_DUPLICATE_ACKS = 16
_MASK = 0xFFFFFFFF
_PACK_BLOCK = struct.Struct("!II").pack


class Receiver:
    """What arrived. Sequence numbers are unwrapped; `irs` is the peer's initial one."""

    __slots__ = (
        "ack_now",
        "arrived_at",
        "delayed_at",
        "dsack",
        "duplicates",
        "fin",
        "fresh_ranges",
        "irs",
        "mss",
        "nxt",
        "out_of_order",
        "queue",
        "quick",
        "reassembly",
        "scale",
        "ts_recent",
        "ts_recent_at",
        "unacked",
        "window",
    )

    def __init__(self, irs: int, limit: int, maximum: int) -> None:
        self.irs = irs
        self.nxt = irs + 1
        self.queue = ReceiveQueue()
        self.reassembly = Reassembly()
        self.window = ReceiveWindow(self.nxt, limit, maximum)
        self.scale = 0
        """Shift of the windows that we announce."""
        self.mss = 536
        """Estimate of the peer's segment size, for the every-second-segment rule: the largest payload seen."""
        self.fin: int | None = None
        """Sequence number of the peer's FIN, once it is known (perhaps out of order)."""
        self.ts_recent = 0
        self.ts_recent_at = 0.0
        self.unacked = 0
        """Bytes arrived in order since the last acknowledgement."""
        self.ack_now = False
        self.arrived_at = 0.0
        """When text last arrived in order, for keep-alive."""
        self.delayed_at: float | None = None
        self.quick = _QUICK_ACKS
        self.duplicates = 0
        """Out-of-order or repeated segments since the last acknowledgement: a peer without SACK counts our ACKs."""
        self.fresh_ranges = 0
        self.out_of_order = 0
        self.dsack: tuple[int, int] | None = None

    def text(self, start: int, payload: memoryview) -> bool:
        """Take the text of an acceptable segment that begins at `start`; True when bytes became readable."""
        end = start + len(payload)
        nxt = self.nxt
        edge = self.window.edge
        if end <= nxt:
            self._repeated(start, end)
            return False
        if start < nxt:
            payload = payload[nxt - start :]
            start = nxt
        if end > edge:
            self.ack_now = True  # more than we offered: tell what we do offer
            if start >= edge:
                return False
            payload = payload[: edge - start]
            end = edge
        if self.fin is not None and end > self.fin:
            payload = payload[: max(self.fin - start, 0)]
            end = start + len(payload)
            if not payload:
                return False
        if start == nxt:
            self.queue.push(payload)
            self.nxt = end
            self.unacked += end - start
            if end - start > self.mss:
                self.mss = end - start
            if self.reassembly:
                self.nxt, pieces = self.reassembly.pop(end)
                for piece in pieces:
                    self.queue.push_owned(bytes(piece) if type(piece) is bytearray else piece)  # type: ignore[arg-type]
                self.ack_now = True  # RFC 5681 section 4.2: a hole was filled
            return True
        self.out_of_order += 1
        self.duplicates += 1
        self.ack_now = True
        self.quick = _QUICK_ACKS
        ranges = len(self.reassembly)
        _, duplicate = self.reassembly.insert(start, payload, self.window.limit * 2)
        if len(self.reassembly) > ranges:
            self.fresh_ranges += 1
        if duplicate is not None:
            self.dsack = duplicate
        return False

    def _repeated(self, start: int, end: int) -> None:
        self.dsack = (start, end)
        self.duplicates += 1
        self.ack_now = True
        self.quick = _QUICK_ACKS

    def decide(self, delay: float, now: float, small: bool) -> None:
        """After a batch: acknowledge at once, or wait for more.

        At once for every second full-size segment (RFC 5681 section 4.2; a batch counts as one, as with the kernel's
        GRO), while the peer is in slow start, and when the last segment was `small`, not a full one: then the peer has
        nothing more to say, or Nagle's algorithm keeps the rest of it back until we acknowledge (RFC 896). To wait for
        an answer of our owner that could carry the acknowledgement would save a frame where the owner is quick, and
        cost the whole delay wherever a server writes head and body apart; the two cannot be told apart beforehand.
        """
        self.arrived_at = now
        if self.ack_now or not self.unacked:
            return
        if small or self.unacked > self.mss:
            self.ack_now = True
        elif self.quick > 0:
            self.quick -= 1
            self.ack_now = True
        elif self.delayed_at is None:
            self.delayed_at = now + delay

    def sent_with_data(self) -> None:
        """Data of ours went out and carried our acknowledgement."""
        self.unacked = 0
        self.delayed_at = None
        if not (self.reassembly or self.dsack or self.duplicates):
            self.ack_now = False

    def on_delayed_ack(self) -> None:
        """Nothing more came."""
        self.delayed_at = None
        self.ack_now = True

    def acknowledgements(self, sack_ok: bool) -> list[bytes]:
        """The SACK options (padded; empty for none) of the pure acknowledgements that are due, one entry for each.

        One for every segment that came out of order (RFC 5681 section 3.2), even when SACK would say it all in one:
        there are stacks that negotiate SACK and count duplicates all the same (lwIP).
        """
        count = min(max(self.duplicates, 1), _MAX_DUPLICATE_ACKS)
        blocks: list[tuple[int, int]] = []
        if sack_ok and self.dsack is not None:
            blocks.append(self.dsack)
        if sack_ok and self.reassembly:
            wanted = max(self.fresh_ranges, _SACK_BLOCKS)
            blocks.extend(self.reassembly.sack_blocks(min(wanted, 8 * _SACK_BLOCKS)))
        if sack_ok and self.fin is not None and self.nxt <= self.fin:
            blocks = _with_fin(blocks, self.fin)
        self._done()
        starts = range(0, min(len(blocks), 8 * _SACK_BLOCKS), _SACK_BLOCKS)
        options = [sack_option(blocks[start : start + _SACK_BLOCKS]) for start in starts] or [b""]
        return options + options[:1] * (count - len(options))

    def _done(self) -> None:
        self.unacked = 0
        self.delayed_at = None
        self.ack_now = False
        self.duplicates = 0
        self.fresh_ranges = 0
        self.dsack = None


def _with_fin(blocks: list[tuple[int, int]], fin: int) -> list[tuple[int, int]]:
    """The FIN takes a sequence number and is reported like text: else it is repeated until the last hole is filled, and
    its arrival never tells the peer that what it repeated before that was lost (RFC 8985)."""
    for index, (start, end) in enumerate(blocks):
        if end == fin:
            return [*blocks[:index], (start, fin + 1), *blocks[index + 1 :]]
    return [*blocks, (fin, fin + 1)]


def sack_option(blocks: list[tuple[int, int]]) -> bytes:
    """A SACK option (RFC 2018 section 3) with the two NOPs that align it."""
    head = bytes((wire.OPTION_NOP, wire.OPTION_NOP, wire.OPTION_SACK, 2 + 8 * len(blocks)))
    return head + b"".join([_PACK_BLOCK(left & _MASK, right & _MASK) for left, right in blocks])
