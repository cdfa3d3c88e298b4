"""The Salsa20 key stream, and Poly1305 with a key from it: by a libsodium of the host, where it has one
(``salsa20_sodium``); else a few blocks in plain Python, and many at once by numpy (``salsa20_many``), and the MAC by
``cryptography``.

D. J. Bernstein, "The Salsa20 family of stream ciphers". ZeroTier encrypts with 12 rounds and hashes identities
with 20. No library that Python packages bring offers 12 rounds, or streams of many keys at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.poly1305 import Poly1305

from ztnode.wire import salsa20_sodium
from ztnode.wire.salsa20_block import BLOCK, block, initial_state

__all__ = ["BLOCK", "combine_many", "key_streams", "poly1305", "short_key_stream", "xor"]

_FEW: Final = 4
"""Blocks up to which plain Python beats numpy's overhead."""
_LONG: Final = 512
"""Bytes from which numpy combines faster than integers do: 2.0 µs for 2,811 bytes, which took 6.8."""


def key_streams(
    keys: Sequence[bytes], nonces: Sequence[bytes], blocks: Sequence[int], rounds: int, *, first: int = 0
) -> list[bytes]:
    """``blocks[i]`` blocks, from number ``first`` on, of the stream of ``keys[i]`` and ``nonces[i]``, for every i."""
    if rounds == salsa20_sodium.ROUNDS and (sodium := _sodium()) is not None:
        skipped = first * BLOCK
        return [
            sodium.stream(key, nonce, skipped + count * BLOCK)[skipped:]
            for key, nonce, count in zip(keys, nonces, blocks, strict=True)
        ]
    if sum(blocks) <= _FEW:
        return [
            b"".join(block(initial_state(key, nonce, first + counter), rounds) for counter in range(count))
            for key, nonce, count in zip(keys, nonces, blocks, strict=True)
        ]
    # Only old peers are spoken to in Salsa20: a node that meets none does without numpy's 25 MB and tenth of a second.
    from ztnode.wire import salsa20_many

    return salsa20_many.key_streams(keys, nonces, blocks, rounds, first)


def short_key_stream(key: bytes, nonce: bytes, length: int, rounds: int) -> bytes:
    """The first ``length`` bytes of one stream: without libsodium in plain Python, quicker than numpy for a block or
    two."""
    if rounds == salsa20_sodium.ROUNDS and (sodium := _sodium()) is not None:
        return sodium.stream(key, nonce, length)
    blocks = -(-length // BLOCK)
    return b"".join(block(initial_state(key, nonce, counter), rounds) for counter in range(blocks))[:length]


def combine_many(keys: Sequence[bytes], nonces: Sequence[bytes], texts: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """For each text the first 32 bytes of the stream of its key and nonce (12 rounds), and the text XORed with the
    stream from its second block on: the key of the MAC, and what the packet says."""
    if (sodium := _sodium()) is not None:
        return sodium.combine_many(keys, nonces, texts)
    blocks = [1 - -len(text) // BLOCK for text in texts]
    streams = key_streams(keys, nonces, blocks, salsa20_sodium.ROUNDS)
    return [
        (stream[:32], xor(text, stream[BLOCK : BLOCK + len(text)])) for text, stream in zip(texts, streams, strict=True)
    ]


def poly1305(key: bytes, data: bytes) -> bytes:
    """The 16 bytes of the MAC. ValueError unless the key has 32."""
    sodium = _sodium()
    return Poly1305.generate_tag(key, data) if sodium is None else sodium.tag(key, data)


_sodium = functools.cache(salsa20_sodium.find)
"""Looked for when the first old peer, or a packet that says it is of one, comes."""


def xor(data: bytes, stream: bytes) -> bytes:
    """The two, equally long, combined."""
    if len(data) > _LONG:
        from ztnode.wire import salsa20_many

        return salsa20_many.xor(data, stream)
    return (int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")).to_bytes(len(data), "little")
