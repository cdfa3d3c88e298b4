"""LZ4 compression of a packet's payload (reference: Packet.cpp, compress and uncompress).

The payload is one bare LZ4 block without a length; a flag in the verb byte, which itself is never compressed, says
that it is there.
"""

from __future__ import annotations

from typing import Final

import lz4.block  # type: ignore[import-untyped]

from ztnode.wire.packet import MAX_PACKET_LENGTH, OFFSET_PAYLOAD, VERB_FLAG_COMPRESSED
from ztnode.wire.wire_error import WireError

_SMALLEST: Final = 64
"""Payloads up to this are not worth compressing."""
_LARGEST: Final = MAX_PACKET_LENGTH - OFFSET_PAYLOAD


def compress(plaintext: bytes) -> bytes:
    """``plaintext`` (verb byte first) with its payload compressed, or as it was if that saves nothing."""
    if len(plaintext) - 1 <= _SMALLEST:
        return plaintext
    packed: bytes = lz4.block.compress(memoryview(plaintext)[1:], store_size=False)
    if len(packed) >= len(plaintext) - 1:
        return plaintext
    return bytes((plaintext[0] | VERB_FLAG_COMPRESSED,)) + packed


def decompress(plaintext: bytes) -> bytes:
    """``plaintext`` (verb byte first) with its payload as it was before compression; the flag is cleared.

    At most ``MAX_PACKET_LENGTH`` bytes are ever unpacked. WireError if the block is malformed or longer than that.
    """
    if not plaintext:
        raise WireError("a packet without a verb")
    if not plaintext[0] & VERB_FLAG_COMPRESSED:
        return plaintext
    verb = bytes((plaintext[0] & ~VERB_FLAG_COMPRESSED,))
    if len(plaintext) == 1:
        return verb
    try:
        unpacked: bytes = lz4.block.decompress(memoryview(plaintext)[1:], uncompressed_size=_LARGEST)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError):
        raise WireError("a malformed LZ4 block") from None
    if not unpacked:
        raise WireError("an empty LZ4 block")
    return verb + unpacked
