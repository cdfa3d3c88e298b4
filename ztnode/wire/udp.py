"""UDP datagrams (RFC 768, RFC 8200 section 8.1)."""

from __future__ import annotations

import struct
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.checksum import finish, region_sum, verify
from ztnode.wire.wire_error import WireError

HEADER_LENGTH: Final = 8
HEADER: Final = struct.Struct("!HHHH")
"""Source port, destination port, length, checksum."""


def parse(datagram: Buffer, pseudo: int, *, checksum_required: bool) -> tuple[int, int, memoryview]:
    """(source port, destination port, payload view).

    ``pseudo`` is ``checksum.pseudo_sum(source, destination, 17)``; the length is added here. Over IPv4 a checksum
    field of zero means that there is none; over IPv6 (``checksum_required``) it is an error.
    Bytes beyond the datagram's own length are cut off. Raises WireError.
    """
    view = memoryview(datagram)
    if len(view) < HEADER_LENGTH:
        raise WireError("UDP datagram shorter than a header")
    source, destination, length, field = HEADER.unpack_from(view)
    if length < HEADER_LENGTH or length > len(view):
        raise WireError("UDP length out of bounds")
    if field:
        if not verify(view[:length], pseudo + length):
            raise WireError("UDP checksum wrong")
    elif checksum_required:
        raise WireError("UDP checksum missing")
    return source, destination, view[HEADER_LENGTH:length]


def build(source: int, destination: int, payload: Buffer, pseudo: int) -> bytes:
    """The 8-byte header for ``payload``; ``pseudo`` as for ``parse``.

    Raises ValueError when the payload is too long.
    """
    length = HEADER_LENGTH + len(payload)
    if length > 0xFFFF:
        raise ValueError("UDP payload too long")
    return HEADER.pack(source, destination, length, checksum_field(source, destination, payload, pseudo))


def checksum_field(source: int, destination: int, payload: Buffer, pseudo: int) -> int:
    """The checksum of a datagram; the arguments are those of ``build``."""
    # The length counts twice, in the pseudo-header too.
    total = pseudo + source + destination + 2 * (HEADER_LENGTH + len(payload)) + region_sum(payload)
    # A computed checksum of zero is sent as all ones (RFC 768).
    return finish(total) or 0xFFFF
