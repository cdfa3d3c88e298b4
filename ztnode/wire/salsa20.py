"""The Salsa20 key stream, over many blocks at once with numpy and over a few in plain Python.

D. J. Bernstein, "The Salsa20 family of stream ciphers". ZeroTier encrypts with 12 rounds and hashes identities
with 20. No library that is kept up offers 12 rounds, or streams of many keys at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

BLOCK: Final = 64
_CONSTANTS: Final = struct.unpack("<4I", b"expand 32-byte k")
_FEW: Final = 4
"""Blocks up to which plain Python beats numpy's overhead."""
_CHUNK: Final = 8192
"""Blocks worked on at a time: four rows of four words and their scratch then stay in a core's cache."""

_Words: TypeAlias = npt.NDArray[np.uint32]

# The 4x4 state is kept as its four diagonals, so that the four quarter-rounds of a round are one vector operation;
# between the column and the row round, diagonals move against one another by 1, 2 and 3 places.
_DIAGONALS: Final = (0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11)


def key_stream(key: bytes, nonce: bytes, blocks: int, rounds: int) -> npt.NDArray[np.uint8]:
    """``blocks`` blocks of one stream, as an array of shape (blocks, 64). 32-byte key, 8-byte nonce."""
    out = np.empty((blocks, BLOCK), np.uint8)
    start = np.array(_initial(key, nonce, 0), np.uint32)[:, None]
    for first in range(0, blocks, _CHUNK):
        state = np.repeat(start, min(_CHUNK, blocks - first), axis=1)
        state[8] += np.arange(first, first + state.shape[1], dtype=np.uint32)
        out[first : first + _CHUNK] = _core(state, rounds)
    return out


def key_streams(
    keys: Sequence[bytes], nonces: Sequence[bytes], blocks: Sequence[int], rounds: int, *, first: int = 0
) -> list[bytes]:
    """``blocks[i]`` blocks, from number ``first`` on, of the stream of ``keys[i]`` and ``nonces[i]``, for every i."""
    if sum(blocks) <= _FEW:
        return [
            b"".join(_block(_initial(key, nonce, first + counter), rounds) for counter in range(count))
            for key, nonce, count in zip(keys, nonces, blocks, strict=True)
        ]
    starts = np.array([_initial(key, nonce, 0) for key, nonce in zip(keys, nonces, strict=True)], np.uint32)
    counts = np.array(blocks)
    ends = counts.cumsum()
    state = np.repeat(starts.T, counts, axis=1)
    state[8] = np.arange(first, first + ends[-1]) - np.repeat(ends - counts, counts)
    stream = _core(state, rounds).tobytes()
    return [stream[BLOCK * (end - count) : BLOCK * end] for end, count in zip(ends.tolist(), blocks, strict=True)]


def short_key_stream(key: bytes, nonce: bytes, length: int, rounds: int) -> bytes:
    """The first ``length`` bytes of one stream in plain Python: quicker than numpy for a block or two."""
    blocks = -(-length // BLOCK)
    return b"".join(_block(_initial(key, nonce, counter), rounds) for counter in range(blocks))[:length]


def xor(data: bytes, stream: bytes) -> bytes:
    """The two, equally long, combined."""
    return (int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")).to_bytes(len(data), "little")


def _initial(key: bytes, nonce: bytes, counter: int) -> tuple[int, ...]:
    k, n = struct.unpack("<8I", key), struct.unpack("<2I", nonce)
    c = _CONSTANTS
    return (c[0], *k[:4], c[1], *n, counter & 0xFFFFFFFF, counter >> 32, c[2], *k[4:], c[3])


def _core(initial: _Words, rounds: int) -> npt.NDArray[np.uint8]:
    """The Salsa20 function over each column of a (16, n) array of state words, as (n, 64) bytes."""
    count = initial.shape[1]
    out = np.empty((count, 16), np.dtype("<u4"))
    for start in range(0, count, _CHUNK):
        part = initial[:, start : start + _CHUNK]
        out[start : start + _CHUNK] = (_permute(part, rounds) + part).T
    return out.view(np.uint8)


def _permute(state: _Words, rounds: int) -> _Words:
    diagonals = state[_DIAGONALS, :]
    a, b, c, d = diagonals[0:4], diagonals[4:8], diagonals[8:12], diagonals[12:16]
    b2, c2, d2 = np.empty_like(b), np.empty_like(c), np.empty_like(d)
    scratch, sums = np.empty_like(a), np.empty_like(a)
    for _ in range(rounds // 2):
        _quarter_rounds(a, b, c, d, scratch, sums)
        _rotate_rows(d, d2, 1)
        _rotate_rows(c, c2, 2)
        _rotate_rows(b, b2, 3)
        _quarter_rounds(a, d2, c2, b2, scratch, sums)
        _rotate_rows(b2, b, 1)
        _rotate_rows(c2, c, 2)
        _rotate_rows(d2, d, 3)
    result = np.empty_like(state)
    result[_DIAGONALS, :] = diagonals
    return result


def _rotate_rows(source: _Words, target: _Words, places: int) -> None:
    target[: 4 - places] = source[places:]
    target[4 - places :] = source[:places]


def _quarter_rounds(a: _Words, b: _Words, c: _Words, d: _Words, scratch: _Words, sums: _Words) -> None:
    _mix(b, a, d, 7, scratch, sums)
    _mix(c, b, a, 9, scratch, sums)
    _mix(d, c, b, 13, scratch, sums)
    _mix(a, d, c, 18, scratch, sums)


def _mix(target: Any, left: _Words, right: _Words, bits: int, scratch: _Words, sums: _Words) -> None:
    np.add(left, right, out=sums)
    np.left_shift(sums, bits, out=scratch)
    np.bitwise_xor(target, scratch, out=target)
    np.right_shift(sums, 32 - bits, out=scratch)
    np.bitwise_xor(target, scratch, out=target)


def _block(initial: tuple[int, ...], rounds: int) -> bytes:
    """One block. Written out, because a call or a loop per quarter-round would double its cost."""
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
