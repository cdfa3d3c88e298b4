"""The memory-hard hash that ties a ZeroTier address to a public key (reference: Identity.cpp,
_computeMemoryHardHash).

As specified: the SHA-512 of the public key is the digest and the key and nonce of a Salsa20 stream. Two MiB of
memory are filled with the stream, each 64-byte block chained to the one before by XOR. Then 131,072 times: two
64-bit words of memory, taken in order, choose one word of the digest and one of memory; these change places, and
the next block of the stream is XORed into the digest.

How it is made fast here: the stream depends on the key alone, so all 10 MiB of it are made at once. The chaining is
a running XOR. XORing a whole block into the digest in each step is saved by keeping the digest *without* the stream:
if X is the XOR of all blocks so far, the digest word k is E[k] ^ X[k], and only the one word that moves is ever
computed. The sequential part is then two look-ups and two XORs a step, on plain integers in flat arrays: a list of
them would be 10 MB of objects all over the memory, and each look-up a miss of the processor's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
from array import array
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


def memory_hard_hash(public: bytes) -> bytes:
    """The 64-byte digest of a 64-byte public key; its last five bytes are the address."""
    digest = hashlib.sha512(public).digest()
    # Words are read as big-endian throughout: the protocol indexes by the big-endian value, and to XOR it is all one.
    stream = _stream(digest[:32], digest[32:40]).view(">u8").astype(np.uint64)
    memory = array("Q", np.bitwise_xor.accumulate(stream[:_FILL_BLOCKS], axis=0).tobytes())
    running = np.zeros((_STEPS + 1, 8), np.uint64)
    np.bitwise_xor.accumulate(stream[_FILL_BLOCKS:], axis=0, out=running[1:])
    running_words = array("Q", running.tobytes())
    bare: list[int] = np.frombuffer(digest, ">u8").tolist()
    in_order = iter(memory)
    # ``in_order`` reads what the swaps have left there.
    for first, second, row in zip(in_order, in_order, range(0, 8 * _STEPS, 8), strict=True):
        place = second & (_WORDS - 1)
        x = running_words[row | (k := first & 7)]
        word = memory[place]
        memory[place] = bare[k] ^ x
        bare[k] = word ^ x
    final: bytes = (np.array(bare, np.uint64) ^ running[_STEPS]).astype(">u8").tobytes()
    return final


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
