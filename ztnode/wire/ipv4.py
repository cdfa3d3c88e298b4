"""IPv4 headers (RFC 791, 6864)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.checksum import checksum, verify
from ztnode.wire.wire_error import WireError

HEADER_LENGTH: Final = 20
MAX_LENGTH: Final = 65535
PROTOCOL_ICMP: Final = 1
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17

DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET_MASK: Final = 0x1FFF
"""Fragment offset in units of eight bytes."""

FIXED: Final = struct.Struct("!BBHHHBBH4s4s")

BROADCAST: Final = b"\xff\xff\xff\xff"
UNSPECIFIED: Final = b"\0\0\0\0"


@dataclass(frozen=True, slots=True)
class Header:
    """An IPv4 header. Addresses are 4 bytes; ``fragment`` is the flags-and-offset field as on the wire."""

    source: bytes
    destination: bytes
    protocol: int
    payload_length: int
    ttl: int = 64
    identification: int = 0
    fragment: int = 0
    tos: int = 0
    options: bytes = b""

    @property
    def more_fragments(self) -> bool:
        return bool(self.fragment & MORE_FRAGMENTS)

    @property
    def fragment_offset(self) -> int:
        """In bytes."""
        return (self.fragment & OFFSET_MASK) << 3

    @property
    def is_fragment(self) -> bool:
        return bool(self.fragment & (MORE_FRAGMENTS | OFFSET_MASK))


def parse(packet: Buffer, *, quoted: bool = False) -> tuple[Header, memoryview]:
    """The header and the payload (a view, link padding cut off).

    ``quoted``: the packet stands inside an ICMP error, which may cut its end and whose checksum a router may have
    left stale (RFC 1812 section 4.3.2.3); the payload is then what there is of it.

    Raises WireError for anything that does not hold together, the header checksum included.
    """
    view = memoryview(packet)
    if len(view) < HEADER_LENGTH:
        raise WireError("IPv4 packet shorter than a header")
    version_length, tos, total, identification, fragment, ttl, protocol, _, source, destination = FIXED.unpack_from(
        view
    )
    length = (version_length & 0x0F) << 2
    if version_length >> 4 != 4 or length < HEADER_LENGTH or length > len(view):
        raise WireError("IPv4 version or header length wrong")
    if total < length or (total > len(view) and not quoted):
        raise WireError("IPv4 total length out of bounds")
    if not quoted and not verify(view[:length]):
        raise WireError("IPv4 header checksum wrong")
    header = Header(
        source,
        destination,
        protocol,
        total - length,
        ttl,
        identification,
        fragment,
        tos,
        bytes(view[HEADER_LENGTH:length]),
    )
    return header, view[length:total]


def build(header: Header) -> bytes:
    """The header's bytes with its checksum. Raises ValueError when options are not a multiple of four bytes up to 40,
    or the packet would exceed 65,535 bytes."""
    length = HEADER_LENGTH + len(header.options)
    total = length + header.payload_length
    if length & 3 or length > 60:
        raise ValueError("IPv4 options must be a multiple of four bytes, at most 40")
    if total > MAX_LENGTH:
        raise ValueError("IPv4 packet too long")
    plain = (
        FIXED.pack(
            0x40 | length >> 2,
            header.tos,
            total,
            header.identification,
            header.fragment,
            header.ttl,
            header.protocol,
            0,
            header.source,
            header.destination,
        )
        + header.options
    )
    return plain[:10] + checksum(plain).to_bytes(2, "big") + plain[12:]


def is_multicast(address: bytes) -> bool:
    """224.0.0.0/4 (RFC 1112)."""
    return address[0] & 0xF0 == 0xE0
