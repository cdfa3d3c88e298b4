"""The receiving half of a connection: sequence space, reassembly, window, and what acknowledgements say."""

from __future__ import annotations

import struct
from typing import Final

from ztnode.netstack.tcp.delayed_ack import DelayedAck
from ztnode.netstack.tcp.receive_buffer import Reassembly, ReceiveQueue, ReceiveWindow
from ztnode.netstack.tcp.segment_size import DEFAULT_PEER_MSS
from ztnode.netstack.tcp.sequence import MASK
from ztnode.wire import tcp as wire

_SACK_BLOCKS: Final = 3
"""As many as fit beside timestamps (RFC 7323 appendix A)."""
_MAX_DUPLICATE_ACKS: Final = 16
_PACK_BLOCK: Final = struct.Struct("!II").pack


class Receiver:
    """What arrived. Sequence numbers are unwrapped; ``irs`` is the peer's initial one."""

    __slots__ = (
        "acks",
        "arrived_at",
        "aside",
        "fin",
        "irs",
        "mss",
        "nxt",
        "out_of_order",
        "progressed_at",
        "queue",
        "reassembly",
        "scale",
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
        self.mss = DEFAULT_PEER_MSS
        """Estimate of the peer's segment size, for the every-second-segment rule: the largest payload seen."""
        self.fin: int | None = None
        """Sequence number of the peer's FIN, once it is known (perhaps out of order)."""
        self.acks = DelayedAck()
        self.arrived_at = 0.0
        """When text last arrived in order, for keep-alive."""
        self.out_of_order = 0
        self.aside = 0
        """Bytes that the owner has read and still holds, because its reader takes no more."""
        self.progressed_at = float("-inf")
        """When that reader last took some of them: it is slow, but it lives."""

    @property
    def unread(self) -> int:
        """Bytes in order that nobody has taken."""
        return self.queue.size + self.aside

    @property
    def held(self) -> int:
        """Bytes of memory that what arrived takes."""
        return self.queue.size + self.aside + self.reassembly.cost

    def text(self, start: int, payload: memoryview) -> bool:
        """Take the text of an acceptable segment that begins at ``start``; True when bytes became readable."""
        end = start + len(payload)
        nxt = self.nxt
        edge = self.window.edge
        if end <= nxt:
            self.acks.dsack = (start, end)
            self.acks.irregular()
            return False
        if start < nxt:
            payload = payload[nxt - start :]
            start = nxt
        if end > edge:
            self.acks.due = True  # more than we offered: tell what we do offer
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
            self.acks.unacked += end - start
            if end - start > self.mss:
                self.mss = end - start
            if self.reassembly:
                self.nxt, pieces = self.reassembly.pop(end)
                for piece in pieces:
                    self.queue.push_owned(bytes(piece) if type(piece) is bytearray else piece)  # type: ignore[arg-type]
                self.acks.due = True  # RFC 5681 section 4.2: a hole was filled
            return True
        self.out_of_order += 1
        self.acks.irregular()
        ranges = len(self.reassembly)
        _, duplicate = self.reassembly.insert(start, payload, self.window.limit * 2)
        if len(self.reassembly) > ranges:
            self.acks.fresh_ranges += 1
        if duplicate is not None:
            self.acks.dsack = duplicate
        return False

    def sent_with_data(self, now: float) -> None:
        """Data of ours went out and carried our acknowledgement."""
        self.acks.carried(now, owes_more=bool(self.reassembly))

    def acknowledgements(self, sack_ok: bool) -> list[bytes]:
        """The SACK options (padded; empty for none) of the pure acknowledgements that are due, one entry for each.

        One for every segment that came out of order (RFC 5681 section 3.2), even when SACK would say it all in one:
        there are stacks that negotiate SACK and count duplicates all the same (lwIP).
        """
        acks = self.acks
        in_order = self.fin is None or self.nxt > self.fin
        if in_order and not acks.duplicates and acks.dsack is None and not self.reassembly.cost:
            acks.sent()
            return [b""]
        count = min(max(acks.duplicates, 1), _MAX_DUPLICATE_ACKS)
        blocks: list[tuple[int, int]] = []
        if sack_ok and acks.dsack is not None:
            blocks.append(acks.dsack)
        if sack_ok and self.reassembly:
            wanted = max(acks.fresh_ranges, _SACK_BLOCKS)
            blocks.extend(self.reassembly.sack_blocks(min(wanted, 8 * _SACK_BLOCKS)))
        if sack_ok and self.fin is not None and not in_order:
            blocks = _with_fin(blocks, self.fin)
        acks.sent()
        starts = range(0, min(len(blocks), 8 * _SACK_BLOCKS), _SACK_BLOCKS)
        options = [sack_option(blocks[start : start + _SACK_BLOCKS]) for start in starts] or [b""]
        return options + options[:1] * (count - len(options))


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
    return head + b"".join([_PACK_BLOCK(left & MASK, right & MASK) for left, right in blocks])
