"""AES-GMAC-SIV, ZeroTier's current authenticated encryption (reference: AES.hpp, GMACSIVEncryptor and -Decryptor).

::

    mac    = GMAC(k0, nonce = packet id || 0^32, associated data || zeros to 16 bytes || plaintext)
    tag    = AES(k1, packet id || first half of mac XOR second half)
    cipher = AES-CTR(k1, counter = tag with bit 31 cleared, plaintext)

The tag travels as the packet id (first half) and the MAC field (second half), so sealing changes the packet id. The
associated data are destination, source and flags, 11 bytes: one AES block with its padding.

The contexts are made once per peer: setting one up costs more than a packet. ECB keeps no state between blocks, CTR
is given its counter anew for each packet, and GMAC is AES-GCM with associated data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ztnode.wire.buffer import Buffer

AAD_PADDING: Final = b"\0\0\0\0\0"
NONCE_PADDING: Final = b"\0\0\0\0"
_COUNTER_MASK: Final = ~(1 << 31)
"""The top bit of the 32-bit counter starts clear, so that it cannot carry into the nonce."""
_TOP_BIT: Final = 0x80
"""Of the counter's byte 12. It is clear half the time."""
_HALF: Final = (1 << 64) - 1
_PADDED_FLAGS: Final = [bytes((flags & 0xF8,)) + AAD_PADDING for flags in range(256)]
"""By the flags as they came: without the hops, which are not authenticated."""


class AesGmacSiv:
    """Seals and opens packets with one pair of 32-byte AES keys. Not for use by two threads at once."""

    __slots__ = ("_counter_stream", "_set_counter", "decrypt_blocks", "encrypt_blocks", "gmac")

    def __init__(self, k0: bytes, k1: bytes) -> None:
        # The ECB mode carries exactly one block, the tag: the construction above asks for a bare AES call.
        block = Cipher(algorithms.AES(k1), modes.ECB())
        counter = Cipher(algorithms.AES(k1), modes.CTR(bytes(16))).encryptor()
        self.gmac = AESGCM(k0).encrypt
        self.encrypt_blocks = block.encryptor().update
        self.decrypt_blocks = block.decryptor().update
        self._set_counter = counter.reset_nonce
        self._counter_stream = counter.update

    def seal(self, packet_id: bytes, associated: bytes, parts: Sequence[Buffer]) -> bytes:
        """A whole packet. ``packet_id`` 8 random bytes; ``associated`` destination, source and flags, 11 bytes;
        ``parts`` the plaintext, verb byte first."""
        padded = b"".join((associated, AAD_PADDING, *parts))
        mac = int.from_bytes(self.gmac(packet_id + NONCE_PADDING, b"", padded), "big")
        tag = self.encrypt_blocks(packet_id + ((mac ^ mac >> 64) & _HALF).to_bytes(8, "big"))
        self._set_counter(tag if tag[12] < _TOP_BIT else _without_top_bit(tag))
        return b"".join((tag[:8], associated, tag[8:], self._counter_stream(padded[16:])))

    def open(self, packet: bytes) -> bytes | None:
        """The plaintext of a packet of at least 28 bytes, or None if it was not sealed with these keys."""
        tag = packet[:8] + packet[19:27]
        mixed = self.decrypt_blocks(tag)
        self._set_counter(tag if tag[12] < _TOP_BIT else _without_top_bit(tag))
        plaintext = self._counter_stream(packet[27:])
        padded = b"".join((packet[8:18], _PADDED_FLAGS[packet[18]], plaintext))
        mac = int.from_bytes(self.gmac(mixed[:8] + NONCE_PADDING, b"", padded), "big")
        # What integers take does not depend on where they differ, so it tells a forger nothing.
        if (mac ^ mac >> 64 ^ int.from_bytes(mixed, "big")) & _HALF:
            return None
        return plaintext


def _without_top_bit(counter: bytes) -> bytes:
    return (int.from_bytes(counter, "big") & _COUNTER_MASK).to_bytes(16, "big")
