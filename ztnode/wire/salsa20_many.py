"""The Salsa20 key stream over many blocks at once: vector operations of numpy, one state word of all blocks a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ztnode.wire.salsa20_block import BLOCK, initial_state

_CHUNK: Final = 8192
"""Blocks worked on at a time: four rows of four words and their scratch then stay in a core's cache."""

_Words: TypeAlias = npt.NDArray[np.uint32]

# The 4x4 state is kept as its four diagonals, so that the four quarter-rounds of a round are one vector operation;
# between the column and the row round, diagonals move against one another by 1, 2 and 3 places.
_DIAGONALS: Final = (0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11)


def key_stream(key: bytes, nonce: bytes, blocks: int, rounds: int) -> npt.NDArray[np.uint8]:
    """``blocks`` blocks of one stream, as an array of shape (blocks, 64). 32-byte key, 8-byte nonce."""
    out = np.empty((blocks, BLOCK), np.uint8)
    start = np.array(initial_state(key, nonce, 0), np.uint32)[:, None]
    for first in range(0, blocks, _CHUNK):
        state = np.repeat(start, min(_CHUNK, blocks - first), axis=1)
        state[8] += np.arange(first, first + state.shape[1], dtype=np.uint32)
        out[first : first + _CHUNK] = _core(state, rounds)
    return out


def key_streams(
    keys: Sequence[bytes], nonces: Sequence[bytes], blocks: Sequence[int], rounds: int, first: int
) -> list[bytes]:
    """See ``salsa20.key_streams``."""
    starts = np.array([initial_state(key, nonce, 0) for key, nonce in zip(keys, nonces, strict=True)], np.uint32)
    counts = np.array(blocks)
    ends = counts.cumsum()
    state = np.repeat(starts.T, counts, axis=1)
    state[8] = np.arange(first, first + ends[-1]) - np.repeat(ends - counts, counts)
    stream = _core(state, rounds).tobytes()
    return [stream[BLOCK * (end - count) : BLOCK * end] for end, count in zip(ends.tolist(), blocks, strict=True)]


def xor(data: bytes, stream: bytes) -> bytes:
    """See ``salsa20.xor``."""
    combined = np.frombuffer(data, np.uint8) ^ np.frombuffer(stream, np.uint8)
    return combined.tobytes()


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
