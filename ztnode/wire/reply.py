"""OK and ERROR, the two ways of answering (reference: Packet.hpp, VERB_OK and VERB_ERROR).

Both name the verb and the packet id that they answer; what follows depends on that verb.
"""

from __future__ import annotations

from dataclasses import dataclass

from ztnode.wire.buffer import Buffer
from ztnode.wire.packet import VERB_ERROR, VERB_MASK, VERB_OK
from ztnode.wire.reader import Reader


@dataclass(frozen=True, slots=True)
class OkReply:
    """A success response."""

    in_re_verb: int
    in_re_packet_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error response."""

    in_re_verb: int
    in_re_packet_id: int
    code: int
    """One of ``packet.ERROR_…``."""
    payload: bytes


def build_ok(in_re_verb: int, in_re_packet_id: int, payload: Buffer = b"") -> bytes:
    """The plaintext of an OK, verb byte first."""
    return b"".join((bytes((VERB_OK, in_re_verb)), in_re_packet_id.to_bytes(8, "big"), payload))


def parse_ok(payload: Buffer) -> OkReply:
    """Parse an OK's payload (without the verb byte OK). WireError if truncated."""
    reader = Reader(payload)
    return OkReply(reader.u8() & VERB_MASK, reader.u64(), reader.rest())


def build_error(in_re_verb: int, in_re_packet_id: int, code: int, payload: Buffer = b"") -> bytes:
    """The plaintext of an ERROR, verb byte first."""
    return b"".join((bytes((VERB_ERROR, in_re_verb)), in_re_packet_id.to_bytes(8, "big"), bytes((code,)), payload))


def parse_error(payload: Buffer) -> ErrorReply:
    """Parse an ERROR's payload (without the verb byte ERROR). WireError if truncated."""
    reader = Reader(payload)
    return ErrorReply(reader.u8() & VERB_MASK, reader.u64(), reader.u8(), reader.rest())
