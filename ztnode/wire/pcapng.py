"""Writing pcapng captures of Ethernet frames (draft-ietf-opsawg-pcapng), little-endian, for Wireshark."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

LINKTYPE_ETHERNET: Final = 1

_SECTION_HEADER: Final = 0x0A0D0D0A
_INTERFACE_DESCRIPTION: Final = 1
_INTERFACE_STATISTICS: Final = 5
_ENHANCED_PACKET: Final = 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D

# Options: general, section header, interface description, enhanced packet, interface statistics.
_OPTION_END: Final = 0
_SHB_USER_APPLICATION: Final = 4
_IF_NAME: Final = 2
_IF_TIMESTAMP_RESOLUTION: Final = 9
_EPB_FLAGS: Final = 2
_ISB_RECEIVED: Final = 4
_ISB_DROPPED: Final = 5

INBOUND: Final = 1
OUTBOUND: Final = 2

_PACKET: Final = struct.Struct("<IIIIIII")


def _padding(length: int) -> bytes:
    return bytes(-length & 3)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + _padding(len(value))


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def section_header(application: str) -> bytes:
    """Begins a file. The section length is left open (-1)."""
    options = _option(_SHB_USER_APPLICATION, application.encode()) + _option(_OPTION_END, b"")
    return _block(_SECTION_HEADER, struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1) + options)


def interface_description(name: str, snap_length: int = 0) -> bytes:
    """Describes the next interface; they count from 0. Time stamps are nanoseconds. ``snap_length`` 0: no limit."""
    options = _option(_IF_NAME, name.encode()) + _option(_IF_TIMESTAMP_RESOLUTION, b"\x09") + _option(_OPTION_END, b"")
    return _block(_INTERFACE_DESCRIPTION, struct.pack("<HHI", LINKTYPE_ETHERNET, 0, snap_length) + options)


def enhanced_packet(
    interface: int,
    wall_ns: int,
    parts: Sequence[bytes | memoryview],
    *,
    direction: int = 0,
    original_length: int | None = None,
) -> bytes:
    """One frame, given as a gather list. ``wall_ns``: Unix time in nanoseconds; ``direction``: INBOUND, OUTBOUND, or 0
    for unknown; ``original_length``: bytes on the wire where ``parts`` is only the beginning."""
    length = sum(map(len, parts))
    padding = _padding(length)
    options = _option(_EPB_FLAGS, struct.pack("<I", direction)) + _option(_OPTION_END, b"") if direction else b""
    total = _PACKET.size + length + len(padding) + len(options) + 4
    head = _PACKET.pack(
        _ENHANCED_PACKET,
        total,
        interface,
        wall_ns >> 32 & 0xFFFFFFFF,
        wall_ns & 0xFFFFFFFF,
        length,
        length if original_length is None else original_length,
    )
    return b"".join((head, *parts, padding, options, struct.pack("<I", total)))


def interface_statistics(interface: int, wall_ns: int, *, received: int, dropped: int) -> bytes:
    """How many frames an interface saw and how many of them the capture lost, up to ``wall_ns``."""
    options = (
        _option(_ISB_RECEIVED, struct.pack("<Q", received))
        + _option(_ISB_DROPPED, struct.pack("<Q", dropped))
        + _option(_OPTION_END, b"")
    )
    return _block(
        _INTERFACE_STATISTICS,
        struct.pack("<III", interface, wall_ns >> 32 & 0xFFFFFFFF, wall_ns & 0xFFFFFFFF) + options,
    )


def file_start(application: str, interfaces: Iterable[str]) -> bytes:
    """Section header and interface descriptions together."""
    return section_header(application) + b"".join(map(interface_description, interfaces))
