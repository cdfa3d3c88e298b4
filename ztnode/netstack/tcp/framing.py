"""Builds whole frames for one connection on the template of its flow.

The variable part of a data segment is its length, sequence number and checksum; one ``struct.pack`` writes the frame's
head up to the options, and the options of a batch are the same bytes. The checksum of each payload comes from one
numpy call for the whole batch; the rest of the sum is integer addition (``ztnode.wire.checksum`` says why that works).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.ip_service import IpFlow
from ztnode.netstack.tcp.sequence import MASK
from ztnode.wire import tcp as wire
from ztnode.wire.buffer import Buffer
from ztnode.wire.checksum import MODULUS, NATIVE_FACTOR, batch_sums, pseudo_sum, region_sum
from ztnode.wire.ipv4 import PROTOCOL_TCP

_PADDING: Final = (b"", b"\0", b"\0\0", b"\0\0\0")

# Ethernet, IPv4 up to the total length | length | ID, flags, TTL, protocol | checksum | addresses, ports | TCP.
_HEAD_V4: Final = struct.Struct("!16sH6sH12sIIHHHH")
# Ethernet, IPv6 up to the payload length | length | next header, hop limit, addresses, ports | TCP.
_HEAD_V6: Final = struct.Struct("!18sH38sIIHHHH")

# The same, with the timestamps option and nothing else.
_HEAD_V4_TIMESTAMPS: Final = struct.Struct("!16sH6sH12sIIHHHHIII")
_HEAD_V6_TIMESTAMPS: Final = struct.Struct("!18sH38sIIHHHHIII")
# The same, with the options of a SYN.
_HEAD_V4_SYN: Final = struct.Struct("!16sH6sH12sIIHHHH5I")
_HEAD_V6_SYN: Final = struct.Struct("!18sH38sIIHHHH5I")
_SYN_LENGTH: Final = wire.HEADER_LENGTH + 20
_TIMESTAMPS_LENGTH: Final = wire.HEADER_LENGTH + 12
_TEXT_FLAGS: Final = _TIMESTAMPS_LENGTH << 10 | wire.ACK | wire.PSH
"""Data offset and flags of a segment that ends what there is to send, with timestamps."""
_TIMESTAMPS_WORD: Final = wire.TIMESTAMPS_WORD
_TEXT_SUM: Final = _TEXT_FLAGS + _TIMESTAMPS_WORD
_ONE_PART: Final = 1024


class HeaderFields(NamedTuple):
    """What the header of a segment says beside its place and flags. A tuple, because one is made for every flush."""

    ack: int
    """Acknowledgement number, unwrapped or as on the wire."""
    window: int = 0
    """As on the wire."""
    options: bytes = b""
    """Padded to whole words."""
    tsval: int = 0
    """Our timestamp among the options, if they have one."""


def payload_sums(payloads: Sequence[tuple[Buffer, ...]]) -> tuple[list[int], list[int]]:
    """(lengths in bytes, checksum sums in machine order) of payloads that are gather lists; none is empty."""
    if len(payloads) == 1:  # a request, an answer
        (parts,) = payloads
        length = sum(map(len, parts))
        return [length], batch_sums(b"".join((*parts, _PADDING[-length & 3])), (0,))
    pieces: list[Buffer] = []
    starts: list[int] = []
    lengths: list[int] = []
    position = 0
    for parts in payloads:
        starts.append(position >> 2)
        if len(parts) == 1:
            pieces.append(parts[0])
            length = len(parts[0])
        else:
            pieces.extend(parts)
            length = sum(map(len, parts))
        lengths.append(length)
        pad = -length & 3
        if pad:
            pieces.append(_PADDING[pad])
        position += length + pad
    return lengths, batch_sums(b"".join(pieces), starts)


class SegmentWriter:
    """Frames for the connection from (flow.local, local port) to (flow.remote, remote port)."""

    __slots__ = ("_after", "_before", "_generation", "_ip_sum", "_middle", "_sum", "_v4", "flow")

    def __init__(self, flow: IpFlow, local_port: int, remote_port: int) -> None:
        self.flow = flow
        self._v4 = len(flow.local) == 4
        ports = local_port.to_bytes(2, "big") + remote_port.to_bytes(2, "big")
        self._sum = (pseudo_sum(flow.local, flow.remote, PROTOCOL_TCP) + local_port + remote_port) % MODULUS
        self._after = flow.local + flow.remote + ports
        self._refresh()

    def _refresh(self) -> None:
        flow = self.flow
        self._generation = flow.generation
        header = flow.header
        if self._v4:
            self._before = header[:16]
            self._middle = header[18:24]
            self._ip_sum = region_sum(header[14:34])
        else:
            self._before = header[:18]
            self._middle = header[20:22] + self._after

    def text(self, text: Buffer, seq: int, ack: int, window: int, tsval: int, recent: int) -> Frame:
        """One segment with ACK, PSH and timestamps, and text, which is not empty: as ``data`` makes it, in one step."""
        if self.flow.generation != self._generation:
            self._refresh()
        length = _TIMESTAMPS_LENGTH + len(text)
        seq &= MASK
        ack &= MASK
        # 32-bit words add as well as 16-bit ones (``ztnode.wire.checksum``).
        total = self._sum + _TEXT_SUM + length + seq + ack + window + tsval + recent
        field = -(total + region_sum(text)) % MODULUS
        if self._v4:
            ip_length = length + 20
            head = _HEAD_V4_TIMESTAMPS.pack(
                self._before,
                ip_length,
                self._middle,
                -(self._ip_sum + ip_length) % MODULUS,
                self._after,
                seq,
                ack,
                _TEXT_FLAGS,
                window,
                field,
                0,
                _TIMESTAMPS_WORD,
                tsval,
                recent,
            )
        else:
            start = (self._before, length, self._middle, seq, ack, _TEXT_FLAGS, window, field, 0)
            head = _HEAD_V6_TIMESTAMPS.pack(*start, wire.TIMESTAMPS_WORD, tsval, recent)
        # One part costs whoever takes the frame less than two, up to some size.
        return (head + text,) if length < _ONE_PART else (head, text)

    def syn(self, seq: int, ack: int, flags: int, window: int, mss: int, scale: int, tsval: int, recent: int) -> Frame:
        """A SYN or SYN-ACK with all the options that there are: as ``control`` makes it, in one step."""
        if self.flow.generation != self._generation:
            self._refresh()
        ack &= MASK
        mss |= wire.MSS_WORD
        scale |= wire.SCALE_WORD
        offset_flags = _SYN_LENGTH << 10 | flags
        total = self._sum + _SYN_LENGTH + seq + ack + offset_flags + window + mss + tsval + recent + scale
        field = -(total + wire.SACK_TIMESTAMPS_WORD) % MODULUS
        rest = seq, ack, offset_flags, window, field, 0, mss, wire.SACK_TIMESTAMPS_WORD, tsval, recent, scale
        if not self._v4:
            return (_HEAD_V6_SYN.pack(self._before, _SYN_LENGTH, self._middle, *rest),)
        length = _SYN_LENGTH + 20
        ip_field = -(self._ip_sum + length) % MODULUS
        return (_HEAD_V4_SYN.pack(self._before, length, self._middle, ip_field, self._after, *rest),)

    def control(self, seq: int, flags: int, fields: HeaderFields) -> Frame:
        """A segment without payload."""
        if self.flow.generation != self._generation:
            self._refresh()
        ack, window, options, _ = fields
        seq &= MASK
        ack &= MASK
        length = 20 + len(options)
        offset_flags = length << 10 | flags
        field = -(self._sum + length + seq + ack + offset_flags + window + region_sum(options)) % MODULUS
        if not self._v4:
            head = _HEAD_V6.pack(self._before, length, self._middle, seq, ack, offset_flags, window, field, 0)
            return (head + options,)
        ip_field = -(self._ip_sum + length + 20) % MODULUS
        start = self._before, length + 20, self._middle, ip_field, self._after
        return (_HEAD_V4.pack(*start, seq, ack, offset_flags, window, field, 0) + options,)

    def data(
        self,
        payloads: Sequence[tuple[Buffer, ...]],
        seq: int,
        flags: int,
        last_flags: int,
        fields: HeaderFields,
    ) -> list[Frame]:
        """Consecutive segments from ``seq`` on; ``last_flags`` are the last one's (PSH, FIN)."""
        lengths, sums = payload_sums(payloads)
        return self.build(payloads, lengths, sums, seq, flags, last_flags, fields)

    def build(
        self,
        payloads: Sequence[tuple[Buffer, ...]],
        lengths: list[int],
        sums: list[int],
        seq: int,
        flags: int,
        last_flags: int,
        fields: HeaderFields,
    ) -> list[Frame]:
        """The frames for payloads whose lengths and sums (machine order) are known."""
        if self.flow.generation != self._generation:
            self._refresh()
        ack, window, options, _ = fields
        seq &= MASK
        ack &= MASK
        header_length = 20 + len(options)
        offset_flags = header_length << 10 | flags
        base = self._sum + ack + window + offset_flags + header_length + region_sum(options)
        frames: list[Frame] = []
        before, middle, after = self._before, self._middle, self._after
        last = len(payloads) - 1
        index = 0
        if self._v4:
            pack = _HEAD_V4.pack
            ip_sum = self._ip_sum
            for parts, length, total in zip(payloads, lengths, sums, strict=True):
                if index == last and last_flags != flags:
                    base += last_flags - flags
                    offset_flags += last_flags - flags
                index += 1
                ip_length = header_length + length + 20
                head = pack(
                    before,
                    ip_length,
                    middle,
                    -(ip_sum + ip_length) % MODULUS,
                    after,
                    seq,
                    ack,
                    offset_flags,
                    window,
                    -(base + seq + length + total * NATIVE_FACTOR) % MODULUS,
                    0,
                )
                frames.append((head + options, *parts))
                seq = (seq + length) & MASK
        else:
            pack6 = _HEAD_V6.pack
            for parts, length, total in zip(payloads, lengths, sums, strict=True):
                if index == last and last_flags != flags:
                    base += last_flags - flags
                    offset_flags += last_flags - flags
                index += 1
                head = pack6(
                    before,
                    header_length + length,
                    middle,
                    seq,
                    ack,
                    offset_flags,
                    window,
                    -(base + seq + length + total * NATIVE_FACTOR) % MODULUS,
                    0,
                )
                frames.append((head + options, *parts))
                seq = (seq + length) & MASK
        return frames


def reset_for(flow: IpFlow, local_port: int, remote_port: int, seq: int, ack: int, flags: int) -> Frame:
    """A RST outside of any connection (RFC 9293 section 3.10.7.1)."""
    return SegmentWriter(flow, local_port, remote_port).control(seq, flags | wire.RST, HeaderFields(ack))
