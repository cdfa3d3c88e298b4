"""TCP segments: the header of RFC 9293 section 3.1 and the options that a host of today speaks.

The hot path of the stack does not build ``Header`` objects: it uses the ``struct`` layouts named here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

HEADER_LENGTH: Final = 20
"""Bytes of a header without options."""
MAX_OPTIONS_LENGTH: Final = 40
"""The data offset has four bits: 15 words of four bytes, less the fixed header."""

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80

FIXED: Final = struct.Struct("!HHIIHHHH")
"""Source port, destination port, sequence number, acknowledgement, data offset (top 4 bits) with flags (low 8),
window, checksum, urgent pointer."""

FIXED_TIMESTAMPS: Final = struct.Struct("!4xIIHH4xIII")
"""The layout of almost every segment on an established connection (RFC 7323 appendix A), without what is not asked for
there: sequence number, acknowledgement, data offset with flags, window, ``TIMESTAMPS_WORD``, TSval and TSecr."""

TIMESTAMPS_WORD: Final = 0x0101080A
"""NOP, NOP, kind 8, length 10, as one big-endian word (RFC 7323 appendix A)."""

# Option kinds: RFC 9293 section 3.2, RFC 7323, RFC 2018.
OPTION_END: Final = 0
OPTION_NOP: Final = 1
OPTION_MSS: Final = 2
OPTION_WINDOW_SCALE: Final = 3
OPTION_SACK_PERMITTED: Final = 4
OPTION_SACK: Final = 5
OPTION_TIMESTAMPS: Final = 8

MAX_WINDOW_SCALE: Final = 14
"""A larger shift count must be read as 14 (RFC 7323 section 2.3)."""

MSS_WORD: Final = OPTION_MSS << 24 | 4 << 16
"""The options that a SYN of today has, in whole words, as we send them and the Linux kernel does: the MSS in the low
half, ..."""
SACK_TIMESTAMPS_WORD: Final = OPTION_SACK_PERMITTED << 24 | 2 << 16 | OPTION_TIMESTAMPS << 8 | 10
"""... this before TSval and TSecr, ..."""
SCALE_WORD: Final = OPTION_NOP << 24 | OPTION_WINDOW_SCALE << 16 | 3 << 8
"""... and the shift count in the low byte."""
_SYN_OPTIONS: Final = struct.Struct("!5I")

_SACK_BLOCK: Final = struct.Struct("!II")
_U16: Final = struct.Struct("!H")
_TIMESTAMPS: Final = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class Options:
    """What the options of one segment say; a field is None (or empty) where the option is absent."""

    mss: int | None = None
    """Maximum segment size in bytes, as sent (RFC 9293 section 3.7.1)."""
    window_scale: int | None = None
    """Shift count, at most 14 (RFC 7323 section 2)."""
    sack_permitted: bool = False
    """RFC 2018 section 2."""
    sack: tuple[tuple[int, int], ...] = ()
    """(left edge, right edge) of each block in the order sent (RFC 2018 section 3)."""
    timestamps: tuple[int, int] | None = None
    """(TSval, TSecr) (RFC 7323 section 3)."""


NO_OPTIONS: Final = Options()


@dataclass(frozen=True, slots=True)
class Header:
    """A whole TCP header."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    flags: int
    window: int
    """As on the wire: not yet scaled."""
    checksum: int = 0
    urgent: int = 0
    options: Options = NO_OPTIONS


def parse_options(buffer: Buffer) -> Options:
    """Read the options part of a header.

    Unknown kinds are skipped by their length, as RFC 9293 section 3.1 (MUST-6) asks; a known kind with a wrong
    length is skipped too, so that a peer's quirk does not cost the connection.

    Raises WireError when a length runs past the end or is below two.
    """
    if len(buffer) == _SYN_OPTIONS.size:  # mostly a SYN's, which need not be taken apart
        first, second, tsval, tsecr, last = _SYN_OPTIONS.unpack(buffer)
        if second == SACK_TIMESTAMPS_WORD and first & ~0xFFFF == MSS_WORD and last & ~0xFF == SCALE_WORD:
            return Options(first & 0xFFFF, min(last & 0xFF, MAX_WINDOW_SCALE), True, (), (tsval, tsecr))
    mss = window_scale = timestamps = None
    sack_permitted = False
    sack: tuple[tuple[int, int], ...] = ()
    position, end = 0, len(buffer)
    while position < end:
        kind = buffer[position]
        if kind == OPTION_NOP:
            position += 1
            continue
        if kind == OPTION_END:
            break
        if position + 1 >= end:
            raise WireError("TCP option without its length")
        length = buffer[position + 1]
        following = position + length
        if length < 2 or following > end:
            raise WireError("TCP option length out of bounds")
        body = position + 2
        if kind == OPTION_MSS and length == 4:
            mss = _U16.unpack_from(buffer, body)[0]
        elif kind == OPTION_WINDOW_SCALE and length == 3:
            window_scale = min(buffer[body], MAX_WINDOW_SCALE)
        elif kind == OPTION_SACK_PERMITTED and length == 2:
            sack_permitted = True
        elif kind == OPTION_SACK and length > 2 and (length - 2) % 8 == 0:
            sack = tuple(_SACK_BLOCK.iter_unpack(buffer[body:following]))
        elif kind == OPTION_TIMESTAMPS and length == 10:
            timestamps = _TIMESTAMPS.unpack_from(buffer, body)
        position = following
    return Options(mss, window_scale, sack_permitted, sack, timestamps)


def build_options(options: Options) -> bytes:
    """The options part of a header, padded to a multiple of four bytes.

    Raises ValueError when they do not fit into 40 bytes; cut the SACK blocks first (RFC 7323 section 3.2 leaves
    room for three of them beside the timestamps).
    """
    parts: list[bytes] = []
    if options.mss is not None:
        parts.append(struct.pack("!BBH", OPTION_MSS, 4, options.mss))
    if options.sack_permitted and options.timestamps is not None:
        # The two fill whole words together: the common layout of a SYN.
        parts.append(struct.pack("!BBBBII", OPTION_SACK_PERMITTED, 2, OPTION_TIMESTAMPS, 10, *options.timestamps))
    elif options.sack_permitted:
        parts.append(struct.pack("!BBBB", OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2))
    elif options.timestamps is not None:
        parts.append(struct.pack("!III", TIMESTAMPS_WORD, *options.timestamps))
    if options.window_scale is not None:
        parts.append(struct.pack("!BBBB", OPTION_NOP, OPTION_WINDOW_SCALE, 3, options.window_scale))
    if options.sack:
        parts.append(struct.pack("!BBBB", OPTION_NOP, OPTION_NOP, OPTION_SACK, 2 + 8 * len(options.sack)))
        parts.extend(_SACK_BLOCK.pack(left, right) for left, right in options.sack)
    encoded = b"".join(parts)
    if len(encoded) > MAX_OPTIONS_LENGTH:
        raise ValueError(f"TCP options take {len(encoded)} bytes, {MAX_OPTIONS_LENGTH} fit")
    return encoded


def parse(segment: Buffer) -> tuple[Header, memoryview]:
    """The header and the payload (a view) of a segment. The checksum is reported, not verified.

    Raises WireError when the segment is shorter than its header says, or an option is malformed.
    """
    view = memoryview(segment)
    if len(view) < HEADER_LENGTH:
        raise WireError("TCP segment shorter than a header")
    source, destination, sequence, acknowledgement, offset_flags, window, checksum, urgent = FIXED.unpack_from(view)
    length = offset_flags >> 12 << 2
    if length < HEADER_LENGTH or length > len(view):
        raise WireError("TCP data offset out of bounds")
    options = parse_options(view[HEADER_LENGTH:length]) if length > HEADER_LENGTH else NO_OPTIONS
    header = Header(
        source, destination, sequence, acknowledgement, offset_flags & 0xFF, window, checksum, urgent, options
    )
    return header, view[length:]


def build(header: Header) -> bytes:
    """The header's bytes, with the checksum field exactly as given (fill it in with ``wire.checksum``).

    Raises ValueError when the options do not fit, struct.error when a field is out of range.
    """
    options = build_options(header.options) if header.options is not NO_OPTIONS else b""
    offset_flags = (HEADER_LENGTH + len(options)) >> 2 << 12 | header.flags
    return (
        FIXED.pack(
            header.source_port,
            header.destination_port,
            header.sequence,
            header.acknowledgement,
            offset_flags,
            header.window,
            header.checksum,
            header.urgent,
        )
        + options
    )
