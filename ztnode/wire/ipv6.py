"""IPv6 headers and extension headers (RFC 8200)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

HEADER_LENGTH: Final = 40
MINIMUM_MTU: Final = 1280
"""RFC 8200 section 5."""

NEXT_HOP_BY_HOP: Final = 0
NEXT_TCP: Final = 6
NEXT_UDP: Final = 17
NEXT_ROUTING: Final = 43
NEXT_FRAGMENT: Final = 44
NEXT_ICMPV6: Final = 58
NEXT_NONE: Final = 59
NEXT_DESTINATION: Final = 60

FIXED: Final = struct.Struct("!IHBB16s16s")
FRAGMENT: Final = struct.Struct("!BBHI")
FRAGMENT_LENGTH: Final = 8
MAX_EXTENSION_HEADERS: Final = 8
"""More than a sane packet has; a longer chain is refused so that parsing stays bounded (RFC 8504 section 5.3)."""

UNSPECIFIED: Final = bytes(16)
ALL_NODES: Final = bytes.fromhex("ff020000000000000000000000000001")
_SOLICITED_NODE: Final = bytes.fromhex("ff0200000000000000000001ff")
_LINK_LOCAL: Final = bytes.fromhex("fe80000000000000")


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed header. Addresses are 16 bytes. ``payload_length`` counts the extension headers too."""

    source: bytes
    destination: bytes
    next_header: int
    payload_length: int
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0


@dataclass(frozen=True, slots=True)
class Fragment:
    """The fragment header (RFC 8200 section 4.5). ``offset`` is in bytes."""

    next_header: int
    offset: int
    more: bool
    identification: int


@dataclass(frozen=True, slots=True)
class Extensions:
    """Where the chain of extension headers ends."""

    protocol: int
    """The upper layer's protocol, NEXT_NONE, or an unknown header's number."""
    protocol_field: int
    """Where in the packet the byte stands that said ``protocol`` (for ICMPv6 parameter problems)."""
    payload: memoryview
    fragment: Fragment | None = None
    """Set when the packet is a real fragment; ``payload`` then starts after the fragment header."""
    routing_segments_left: int = 0
    routing_field: int = 0


class UnrecognisedOption(WireError):
    """An option asks, by the top bits of its type, for the packet to be discarded (RFC 8200 section 4.2)."""

    def __init__(self, pointer: int, report: bool, report_multicast: bool) -> None:
        super().__init__("IPv6 option not recognised")
        self.pointer = pointer
        """Offset of the option type from the start of the IPv6 header."""
        self.report = report
        """An ICMPv6 parameter problem is wanted ..."""
        self.report_multicast = report_multicast
        """... even when the destination was a multicast address."""


def parse(packet: Buffer, *, quoted: bool = False) -> tuple[Header, memoryview]:
    """The fixed header and what follows it (a view, link padding cut off). ``quoted``: see ``ipv4.parse``.

    Raises WireError.
    """
    view = memoryview(packet)
    if len(view) < HEADER_LENGTH:
        raise WireError("IPv6 packet shorter than a header")
    first, payload_length, next_header, hop_limit, source, destination = FIXED.unpack_from(view)
    if first >> 28 != 6:
        raise WireError("IPv6 version wrong")
    end = HEADER_LENGTH + payload_length
    if end > len(view) and not quoted:
        raise WireError("IPv6 payload length out of bounds")
    header = Header(source, destination, next_header, payload_length, hop_limit, first >> 20 & 0xFF, first & 0xFFFFF)
    return header, view[HEADER_LENGTH:end]


def build(header: Header) -> bytes:
    """The 40 bytes."""
    return FIXED.pack(
        6 << 28 | header.traffic_class << 20 | header.flow_label,
        header.payload_length,
        header.next_header,
        header.hop_limit,
        header.source,
        header.destination,
    )


def parse_extensions(next_header: int, payload: memoryview, start: int = HEADER_LENGTH) -> Extensions:
    """Walk the extension headers after the fixed header. ``payload`` is what ``parse`` gave, or what was reassembled
    from fragments; that began at the offset ``start`` of the first fragment's packet.

    A fragment header with offset 0 and no more fragments is an atomic fragment and is stepped over (RFC 6946).
    Raises WireError when a header is cut off, stands where it must not, or there are too many; UnrecognisedOption
    for an option that demands it.
    """
    position = 0
    # Of the next-header byte, from the start of the packet: in the fixed header or the fragment header.
    field = 6 if start == HEADER_LENGTH else start - FRAGMENT_LENGTH
    segments_left = routing_field = 0
    for count in range(MAX_EXTENSION_HEADERS + 1):
        if next_header == NEXT_FRAGMENT:
            if len(payload) < position + FRAGMENT_LENGTH:
                raise WireError("IPv6 fragment header cut off")
            protocol, _, offset, identification = FRAGMENT.unpack_from(payload, position)
            if offset & 0xFFF9:
                fragment = Fragment(protocol, offset & 0xFFF8, bool(offset & 1), identification)
                return Extensions(
                    protocol,
                    start + position,
                    payload[position + FRAGMENT_LENGTH :],
                    fragment,
                    segments_left,
                    routing_field,
                )
            length = FRAGMENT_LENGTH
        elif next_header in (NEXT_HOP_BY_HOP, NEXT_DESTINATION, NEXT_ROUTING):
            if next_header == NEXT_HOP_BY_HOP and count:
                raise WireError("IPv6 hop-by-hop options not first")
            if len(payload) < position + 8:
                raise WireError("IPv6 extension header cut off")
            protocol = payload[position]
            length = (payload[position + 1] + 1) << 3
            if len(payload) < position + length:
                raise WireError("IPv6 extension header cut off")
            if next_header == NEXT_ROUTING:
                segments_left = payload[position + 3]
                routing_field = start + position + 2
            else:
                _check_options(payload[position : position + length], start + position)
        else:
            return Extensions(next_header, field, payload[position:], None, segments_left, routing_field)
        field = start + position
        next_header = protocol
        position += length
    raise WireError("IPv6 extension header chain too long")


def _check_options(header: memoryview, start: int) -> None:
    """Obey the two top bits of every option type (RFC 8200 section 4.2). ``start`` is the header's packet offset."""
    position, end = 2, len(header)
    while position < end:
        kind = header[position]
        if kind == 0:  # Pad1
            position += 1
            continue
        if position + 1 >= end or position + 2 + header[position + 1] > end:
            raise WireError("IPv6 option out of bounds")
        # PadN (1) and the router alert (5, of MLD) have 00 on top like every option that may be skipped.
        action = kind >> 6
        if action:
            raise UnrecognisedOption(start + position, action >= 2, action == 2)
        position += 2 + header[position + 1]


def build_fragment(fragment: Fragment) -> bytes:
    """The 8 bytes. Raises ValueError when the offset is not a multiple of eight."""
    if fragment.offset & 7 or not 0 <= fragment.offset <= 0xFFF8:
        raise ValueError("IPv6 fragment offset must be a multiple of 8 below 65536")
    return FRAGMENT.pack(fragment.next_header, 0, fragment.offset | fragment.more, fragment.identification)


def is_multicast(address: bytes) -> bool:
    """ff00::/8."""
    return address[0] == 0xFF


def is_link_local(address: bytes) -> bool:
    """fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def solicited_node(address: bytes) -> bytes:
    """The solicited-node multicast address (RFC 4291 section 2.7.1)."""
    return _SOLICITED_NODE + address[13:16]


def link_local(mac: bytes) -> bytes:
    """The link-local address with the modified EUI-64 of a MAC (RFC 4291 appendix A, RFC 2464 section 5)."""
    return _LINK_LOCAL + bytes((mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]))
