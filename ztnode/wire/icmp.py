"""ICMP for IPv4 (RFC 792, 1122, 1191)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.checksum import checksum, verify
from ztnode.wire.wire_error import WireError

HEADER_LENGTH: Final = 8

ECHO_REPLY: Final = 0
UNREACHABLE: Final = 3
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11
PARAMETER_PROBLEM: Final = 12
ERRORS: Final = frozenset({UNREACHABLE, 4, 5, TIME_EXCEEDED, PARAMETER_PROBLEM})
"""Types about which no ICMP error may ever be sent (RFC 1122 section 3.2.2); 4 and 5 are source quench and redirect."""

# Codes of UNREACHABLE (RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1).
NET_UNREACHABLE: Final = 0
HOST_UNREACHABLE: Final = 1
PROTOCOL_UNREACHABLE: Final = 2
PORT_UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4
PROHIBITED: Final = 13
# Codes of TIME_EXCEEDED.
REASSEMBLY_TIME_EXCEEDED: Final = 1

_HEADER: Final = struct.Struct("!BBHHH")


@dataclass(frozen=True, slots=True)
class Icmp:
    """A message. ``first`` and ``second`` are the two 16-bit words after the checksum: identifier and sequence
    number of an echo; (unused, next-hop MTU) of FRAGMENTATION_NEEDED."""

    kind: int
    code: int
    first: int
    second: int
    body: Buffer


def parse(message: Buffer) -> Icmp:
    """Raises WireError when the message is short or its checksum wrong."""
    if len(message) < HEADER_LENGTH:
        raise WireError("ICMP message too short")
    if not verify(message):
        raise WireError("ICMP checksum wrong")
    kind, code, _, first, second = _HEADER.unpack_from(message)
    return Icmp(kind, code, first, second, memoryview(message)[HEADER_LENGTH:])


def build(message: Icmp) -> bytes:
    """The message with its checksum."""
    plain = _HEADER.pack(message.kind, message.code, 0, message.first, message.second) + message.body
    return plain[:2] + checksum(plain).to_bytes(2, "big") + plain[4:]
