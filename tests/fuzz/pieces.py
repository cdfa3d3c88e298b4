"""An input as a list of pieces, so that a mutation of one leaves the others in place.

A piece is a selector (one byte), a length (two bytes, little-endian) and that many bytes; what is cut off is short.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_PIECES = 64
"""In one input: what is at fault shows in few."""


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The pieces: selector and content."""
    at = 0
    for _ in range(MAX_PIECES):
        if at >= len(data):
            return
        length = int.from_bytes(data[at + 1 : at + 3], "little")
        yield data[at], data[at + 3 : at + 3 + length]
        at += 3 + length


def join(*pieces: tuple[int, bytes]) -> bytes:
    """An input of these."""
    return b"".join(bytes((selector,)) + len(content).to_bytes(2, "little") + content for selector, content in pieces)
