"""The memory-hard hash that ties a ZeroTier address to a public key (reference: Identity.cpp,
_computeMemoryHardHash).

As specified: the SHA-512 of the public key is the digest and the key and nonce of a Salsa20 stream. Two MiB of
memory are filled with the stream, each 64-byte block chained to the one before by XOR. Then 131,072 times: two
64-bit words of memory, taken in order, choose one word of the digest and one of memory; these change places, and
the next block of the stream is XORed into the digest.

How it is made fast here: the stream depends on the key alone, so all 10 MiB of it are made at once. The chaining is
a running XOR. XORing a whole block into the digest in each step is saved by keeping the digest *without* the stream:
if X is the XOR of all blocks so far, the digest word k is E[k] ^ X[k], and only the one word that moves is ever
computed.

The steps depend on each other through memory alone: hardly ever within a few hundred of them, since there are 262,144
words. So as many as do not are one pass of numpy (``_independent`` finds out). Within a pass, what a step puts into
memory is what the step before it that chose the same digest word has taken from there: the steps are sorted by that
word, and moved on by one. A pass of 330 steps on average takes the time of 75 steps one by one.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from nacl import _sodium

from ztnode.wire.salsa20_block import BLOCK
from ztnode.wire.salsa20_many import key_stream

_MEMORY: Final = 2 << 20
_WORDS: Final = _MEMORY // 8
_FILL_BLOCKS: Final = _MEMORY // BLOCK
_STEPS: Final = _WORDS // 2
_ROUNDS: Final = 20
_PASS: Final = 512
"""Steps that are looked at for one pass; on average 330 of them do not depend on each other."""
_NUMBERS: Final = np.arange(_PASS, dtype=np.int32)
_ROWS: Final = np.arange(0, 8 * _PASS, 8)
_PLACE: Final = np.uint64(_WORDS - 1)
_CHOICE: Final = np.uint64(7)
_BOUNDS: Final = np.arange(9, dtype=np.uint8)


def memory_hard_hash(public: bytes) -> bytes:
    """The 64-byte digest of a 64-byte public key; its last five bytes are the address."""
    digest = hashlib.sha512(public).digest()
    # Words are read as big-endian throughout: the protocol indexes by the big-endian value, and to XOR it is all one.
    stream = _stream(digest[:32], digest[32:40]).view(">u8").astype(np.uint64)
    memory = np.bitwise_xor.accumulate(stream[:_FILL_BLOCKS], axis=0).reshape(-1)
    running = np.zeros((_STEPS + 1, 8), np.uint64)
    np.bitwise_xor.accumulate(stream[_FILL_BLOCKS:], axis=0, out=running[1:])
    bare = np.frombuffer(digest, ">u8").astype(np.uint64)
    taken = np.empty(_WORDS, np.int32)
    step = 0
    while step < _STEPS:
        pairs = memory[2 * step : 2 * min(step + _PASS, _STEPS)]
        places = (pairs[1::2] & _PLACE).astype(np.intp)
        count = _independent(places, step, taken)
        places = places[:count]
        chosen = (pairs[0 : 2 * count : 2] & _CHOICE).astype(np.uint8)
        x = running[step : step + count].ravel().take(_ROWS[:count] + chosen)
        # By the digest word, the steps of each in their order.
        order = chosen.argsort(kind="stable")
        places, x = places.take(order), x.take(order)
        bounds = chosen.take(order).searchsorted(_BOUNDS)
        words = (bounds[1:] > bounds[:-1]).nonzero()[0]
        after = memory.take(places) ^ x
        before = np.empty(count, np.uint64)
        before[1:] = after[:-1]
        before[bounds[words]] = bare[words]
        bare[words] = after[bounds[words + 1] - 1]
        memory[places] = before ^ x
        step += count
    final: bytes = (bare ^ running[_STEPS]).astype(">u8").tobytes()
    return final


def _independent(places: npt.NDArray[np.intp], step: int, taken: npt.NDArray[np.int32]) -> int:
    """How many steps from ``step`` on, which change these places of memory, neither read nor change what one of them
    has changed: at least one. ``taken``: room for a number for each place, whatever is in it."""
    count = len(places)
    near = (places - 2 * step).view(np.uintp)  # what lies before is far beyond
    for number in (near < 2 * count).nonzero()[0].tolist():
        reader = int(near[number]) >> 1
        if number < reader < count:
            count = reader
    places, numbers = places[:count], _NUMBERS[:count]
    # Of those that change one place the first remains, as it is written last.
    taken[places[::-1]] = numbers[::-1]
    again = taken.take(places) != numbers
    first = int(again.argmax())
    return first if again[first] else count


def _stream(key: bytes, nonce: bytes) -> npt.NDArray[np.uint8]:
    blocks = _FILL_BLOCKS + _STEPS
    if _SODIUM is None:
        return key_stream(key, nonce, blocks, _ROUNDS)
    out = np.empty((blocks, BLOCK), np.uint8)
    _SODIUM(out.ctypes.data, out.nbytes, nonce, key)
    return out


def _sodium_stream() -> Callable[[int, int, bytes, bytes], int] | None:
    """``crypto_stream_salsa20(out, length, nonce, key)``, which PyNaCl does not offer and the library within it has: a
    tenth of the time that numpy takes. None where the library does not show it."""
    try:
        function = ctypes.CDLL(_sodium.__file__).crypto_stream_salsa20
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_ulonglong, ctypes.c_char_p, ctypes.c_char_p)
    return function


_SODIUM: Final = _sodium_stream()
