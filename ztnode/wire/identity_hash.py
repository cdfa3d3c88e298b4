"""The memory-hard hash that ties a ZeroTier address to a public key (reference: Identity.cpp,
_computeMemoryHardHash).

As specified: the SHA-512 of the public key is the digest and the key and nonce of a Salsa20 stream. Two MiB of
memory are filled with the stream, each 64-byte block chained to the one before by XOR. Then 131,072 times: two
64-bit words of memory, taken in order, choose one word of the digest and one of memory; these change places, and
the next block of the stream is XORed into the digest.

How it is made fast here: the stream depends on the key alone, so all 10 MiB of it are made at once. The chaining is
a running XOR. XORing a whole block into the digest in each step is saved by keeping the digest *without* the stream:
if X is the XOR of all blocks so far, the digest word k is E[k] ^ X[k], and only the one word that moves is ever
computed. The sequential part is then two look-ups and two XORs a step, on plain integers.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from ztnode.wire.salsa20 import BLOCK, key_stream

_MEMORY: Final = 2 << 20
_WORDS: Final = _MEMORY // 8
_FILL_BLOCKS: Final = _MEMORY // BLOCK
_STEPS: Final = _WORDS // 2
_ROUNDS: Final = 20


def memory_hard_hash(public: bytes) -> bytes:
    """The 64-byte digest of a 64-byte public key; its last five bytes are the address."""
    digest = hashlib.sha512(public).digest()
    # Words are read as big-endian throughout: the protocol indexes by the big-endian value, and to XOR it is all one.
    stream = key_stream(digest[:32], digest[32:40], _FILL_BLOCKS + _STEPS, _ROUNDS).view(">u8").astype(np.uint64)
    memory: list[int] = np.bitwise_xor.accumulate(stream[:_FILL_BLOCKS], axis=0).ravel().tolist()
    running = np.zeros((_STEPS + 1, 8), np.uint64)
    np.bitwise_xor.accumulate(stream[_FILL_BLOCKS:], axis=0, out=running[1:])
    running_words = running.ravel().data  # a memoryview makes an integer of a word only when it is asked for
    bare: list[int] = np.frombuffer(digest, ">u8").tolist()
    in_order = iter(memory)
    row = 0
    for first, second in zip(in_order, in_order, strict=True):  # reads what the swaps below have left there
        k = first & 7
        place = second & (_WORDS - 1)
        x = running_words[row | k]
        memory[place], bare[k] = bare[k] ^ x, memory[place] ^ x
        row += 8
    final: bytes = (np.array(bare, np.uint64) ^ running[_STEPS]).astype(">u8").tobytes()
    return final
