"""ICMP for IPv4 (RFC 792, 1122, 1191)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ztnode.wire import checksum
from ztnode.wire.errors import WireError

HEADER_LENGTH = 8

ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12
ERRORS = frozenset({UNREACHABLE, 4, 5, TIME_EXCEEDED, PARAMETER_PROBLEM})
"""Types about which no ICMP error may ever be sent (RFC 1122 section 3.2.2); 4 and 5 are source quench and redirect."""

# Codes of UNREACHABLE (RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1).
NET_UNREACHABLE = 0
HOST_UNREACHABLE = 1
PROTOCOL_UNREACHABLE = 2
PORT_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
# Codes of TIME_EXCEEDED.
REASSEMBLY_TIME_EXCEEDED = 1

_HEADER = struct.Struct("!BBHHH")


@dataclass(frozen=True, slots=True)
class Icmp:
    """A message. ``first`` and ``second`` are the two 16-bit words after the checksum: identifier and sequence
    number of an echo; (unused, next-hop MTU) of FRAGMENTATION_NEEDED."""

    kind: int
    code: int
    first: int
    second: int
    body: bytes | memoryview


def parse(message: bytes | memoryview) -> Icmp:
    """Raises WireError when the message is short or its checksum wrong."""
    if len(message) < HEADER_LENGTH:
        raise WireError("ICMP message too short")
    if not checksum.verify(message):
        raise WireError("ICMP checksum wrong")
    kind, code, _, first, second = _HEADER.unpack_from(message)
    return Icmp(kind, code, first, second, memoryview(message)[HEADER_LENGTH:])


def build(message: Icmp) -> bytes:
    """The message with its checksum."""
    plain = _HEADER.pack(message.kind, message.code, 0, message.first, message.second) + message.body
    return plain[:2] + checksum.checksum(plain).to_bytes(2, "big") + plain[4:]
