"""One block of the Salsa20 key stream in plain Python."""

from __future__ import annotations

import struct
from typing import Final

BLOCK: Final = 64
"""Bytes."""
_CONSTANTS: Final = struct.unpack("<4I", b"expand 32-byte k")


def initial_state(key: bytes, nonce: bytes, counter: int) -> tuple[int, ...]:
    """The 16 words that a block with this number is made of. 32-byte key, 8-byte nonce."""
    k, n = struct.unpack("<8I", key), struct.unpack("<2I", nonce)
    c = _CONSTANTS
    return (c[0], *k[:4], c[1], *n, counter & 0xFFFFFFFF, counter >> 32, c[2], *k[4:], c[3])


def block(initial: tuple[int, ...], rounds: int) -> bytes:
    """The Salsa20 function of a state. Written out: a call or a loop per quarter-round would double its cost."""
    mask = 0xFFFFFFFF
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15 = initial
    for _ in range(rounds // 2):
        t = (x0 + x12) & mask
        x4 ^= (t << 7 | t >> 25) & mask
        t = (x4 + x0) & mask
        x8 ^= (t << 9 | t >> 23) & mask
        t = (x8 + x4) & mask
        x12 ^= (t << 13 | t >> 19) & mask
        t = (x12 + x8) & mask
        x0 ^= (t << 18 | t >> 14) & mask
        t = (x5 + x1) & mask
        x9 ^= (t << 7 | t >> 25) & mask
        t = (x9 + x5) & mask
        x13 ^= (t << 9 | t >> 23) & mask
        t = (x13 + x9) & mask
        x1 ^= (t << 13 | t >> 19) & mask
        t = (x1 + x13) & mask
        x5 ^= (t << 18 | t >> 14) & mask
        t = (x10 + x6) & mask
        x14 ^= (t << 7 | t >> 25) & mask
        t = (x14 + x10) & mask
        x2 ^= (t << 9 | t >> 23) & mask
        t = (x2 + x14) & mask
        x6 ^= (t << 13 | t >> 19) & mask
        t = (x6 + x2) & mask
        x10 ^= (t << 18 | t >> 14) & mask
        t = (x15 + x11) & mask
        x3 ^= (t << 7 | t >> 25) & mask
        t = (x3 + x15) & mask
        x7 ^= (t << 9 | t >> 23) & mask
        t = (x7 + x3) & mask
        x11 ^= (t << 13 | t >> 19) & mask
        t = (x11 + x7) & mask
        x15 ^= (t << 18 | t >> 14) & mask
        t = (x0 + x3) & mask
        x1 ^= (t << 7 | t >> 25) & mask
        t = (x1 + x0) & mask
        x2 ^= (t << 9 | t >> 23) & mask
        t = (x2 + x1) & mask
        x3 ^= (t << 13 | t >> 19) & mask
        t = (x3 + x2) & mask
        x0 ^= (t << 18 | t >> 14) & mask
        t = (x5 + x4) & mask
        x6 ^= (t << 7 | t >> 25) & mask
        t = (x6 + x5) & mask
        x7 ^= (t << 9 | t >> 23) & mask
        t = (x7 + x6) & mask
        x4 ^= (t << 13 | t >> 19) & mask
        t = (x4 + x7) & mask
        x5 ^= (t << 18 | t >> 14) & mask
        t = (x10 + x9) & mask
        x11 ^= (t << 7 | t >> 25) & mask
        t = (x11 + x10) & mask
        x8 ^= (t << 9 | t >> 23) & mask
        t = (x8 + x11) & mask
        x9 ^= (t << 13 | t >> 19) & mask
        t = (x9 + x8) & mask
        x10 ^= (t << 18 | t >> 14) & mask
        t = (x15 + x14) & mask
        x12 ^= (t << 7 | t >> 25) & mask
        t = (x12 + x15) & mask
        x13 ^= (t << 9 | t >> 23) & mask
        t = (x13 + x12) & mask
        x14 ^= (t << 13 | t >> 19) & mask
        t = (x14 + x13) & mask
        x15 ^= (t << 18 | t >> 14) & mask
    words = (x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15)
    return struct.pack("<16I", *[(word + start) & mask for word, start in zip(words, initial, strict=True)])
