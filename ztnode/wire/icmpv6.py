"""ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.checksum import finish, region_sum, verify
from ztnode.wire.wire_error import WireError

PROTOCOL: Final = 58
HEADER_LENGTH: Final = 8

UNREACHABLE: Final = 1
PACKET_TOO_BIG: Final = 2
TIME_EXCEEDED: Final = 3
PARAMETER_PROBLEM: Final = 4
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOUR_SOLICITATION: Final = 135
NEIGHBOUR_ADVERTISEMENT: Final = 136
REDIRECT: Final = 137
INFORMATIONAL: Final = 128
"""Types from here on are no errors (RFC 4443 section 2.1)."""

# Codes of UNREACHABLE (RFC 4443 section 3.1).
NO_ROUTE: Final = 0
PROHIBITED: Final = 1
BEYOND_SCOPE: Final = 2
ADDRESS_UNREACHABLE: Final = 3
PORT_UNREACHABLE: Final = 4
POLICY_FAILED: Final = 5
ROUTE_REJECTED: Final = 6
# Codes of TIME_EXCEEDED.
REASSEMBLY_TIME_EXCEEDED: Final = 1
# Codes of PARAMETER_PROBLEM.
ERRONEOUS_FIELD: Final = 0
UNRECOGNISED_NEXT_HEADER: Final = 1
UNRECOGNISED_OPTION: Final = 2

# Neighbour discovery options (RFC 4861 section 4.6).
OPTION_SOURCE_MAC: Final = 1
OPTION_TARGET_MAC: Final = 2

ROUTER: Final = 0x80000000
SOLICITED: Final = 0x40000000
OVERRIDE: Final = 0x20000000
"""Flags of a neighbour advertisement (RFC 4861 section 4.4), in its 32-bit word."""

_HEADER: Final = struct.Struct("!BBHI")


@dataclass(frozen=True, slots=True)
class Icmpv6:
    """A message. ``word`` is the 32 bits after the checksum: identifier and sequence number of an echo, MTU of
    PACKET_TOO_BIG, pointer of PARAMETER_PROBLEM, flags of a neighbour advertisement."""

    kind: int
    code: int
    word: int
    body: Buffer


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour solicitation or advertisement. ``mac`` is the source (solicitation) or target (advertisement)
    link-layer address, where given; ``flags`` are an advertisement's."""

    kind: int
    target: bytes
    mac: bytes | None = None
    flags: int = 0


def parse(message: Buffer, pseudo: int) -> Icmpv6:
    """``pseudo`` is ``checksum.pseudo_sum(source, destination, 58)``; the length is added here.

    Raises WireError when the message is short or its checksum wrong.
    """
    if len(message) < HEADER_LENGTH:
        raise WireError("ICMPv6 message too short")
    if not verify(message, pseudo + len(message)):
        raise WireError("ICMPv6 checksum wrong")
    kind, code, _, word = _HEADER.unpack_from(message)
    return Icmpv6(kind, code, word, memoryview(message)[HEADER_LENGTH:])


def build(message: Icmpv6, pseudo: int) -> bytes:
    """The message with its checksum; ``pseudo`` as for ``parse``."""
    plain = _HEADER.pack(message.kind, message.code, 0, message.word) + message.body
    field = finish(region_sum(plain) + pseudo + len(plain))
    return plain[:2] + field.to_bytes(2, "big") + plain[4:]


def parse_options(options: Buffer) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each neighbour discovery option.

    Raises WireError for an option of length zero or one that runs past the end: RFC 4861 section 4.6 has the whole
    packet discarded.
    """
    position, end = 0, len(options)
    while position < end:
        if position + 2 > end:
            raise WireError("neighbour discovery option cut off")
        length = options[position + 1] << 3
        if not length or position + length > end:
            raise WireError("neighbour discovery option length wrong")
        yield options[position], bytes(options[position + 2 : position + length])
        position += length


def parse_neighbour(message: Icmpv6) -> Neighbour:
    """Read a NEIGHBOUR_SOLICITATION or NEIGHBOUR_ADVERTISEMENT.

    The checks of RFC 4861 section 7.1 that need the IP header (hop limit 255, multicast destination) are the caller's.
    Raises WireError.
    """
    if len(message.body) < 16 or message.code:
        raise WireError("neighbour discovery message malformed")
    target = bytes(message.body[:16])
    if target[0] == 0xFF:
        raise WireError("neighbour discovery target is multicast")
    wanted = OPTION_SOURCE_MAC if message.kind == NEIGHBOUR_SOLICITATION else OPTION_TARGET_MAC
    mac = None
    for kind, body in parse_options(message.body[16:]):
        if kind == wanted and len(body) == 6:
            mac = body
    return Neighbour(message.kind, target, mac, message.word if message.kind == NEIGHBOUR_ADVERTISEMENT else 0)


def build_neighbour(neighbour: Neighbour, pseudo: int) -> bytes:
    """The whole ICMPv6 message."""
    body = neighbour.target
    if neighbour.mac is not None:
        kind = OPTION_SOURCE_MAC if neighbour.kind == NEIGHBOUR_SOLICITATION else OPTION_TARGET_MAC
        body += bytes((kind, 1)) + neighbour.mac
    return build(Icmpv6(neighbour.kind, 0, neighbour.flags, body), pseudo)
