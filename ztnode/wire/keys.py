"""What two peers share: the keys of all cipher suites, and sealing and opening whole packets with them
(reference: Packet.cpp, armor, dearmor and cryptField; Peer.cpp, the constructor; SHA512.cpp, KBKDFHMACSHA384).

Sealing takes the path's MTU, because the flag that says "this is the head of fragments" is authenticated.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import Final

from ztnode.wire import salsa20
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.wire.buffer import Buffer
from ztnode.wire.c25519 import AGREEMENT_LENGTH
from ztnode.wire.packet import (
    CIPHER_AES_GMAC_SIV,
    CIPHER_POLY1305_NONE,
    CIPHER_POLY1305_SALSA2012,
    DEFAULT_PHYSICAL_MTU,
    FLAG_ENCRYPTED_LEGACY,
    FLAG_FRAGMENTED,
    FLAGS_AUTHENTICATED_MASK,
    MAX_PACKET_LENGTH,
    MIN_PACKET_LENGTH,
    OFFSET_FLAGS,
    OFFSET_MAC,
    OFFSET_VERB,
)

_ROUNDS: Final = 12
_MAC_LENGTH: Final = 8
_LONGEST: Final = MAX_PACKET_LENGTH - OFFSET_VERB
"""The longest plaintext, verb byte included."""
_SUITE: Final = 0x38
_SALSA: Final = CIPHER_POLY1305_SALSA2012 << 3
_QUIET: Final = 8
"""Batches after which a session counts as undisturbed."""
_FLAGS: Final = {
    CIPHER_POLY1305_NONE: CIPHER_POLY1305_NONE << 3,
    CIPHER_POLY1305_SALSA2012: CIPHER_POLY1305_SALSA2012 << 3 | FLAG_ENCRYPTED_LEGACY,
    CIPHER_AES_GMAC_SIV: CIPHER_AES_GMAC_SIV << 3,
}


class PeerKeys:
    """Made from the 48 bytes of ``Identity.agree``. Holds long-lived cipher contexts: keep one per peer."""

    __slots__ = ("_aes", "_agreement", "_fields", "_heads", "_salsa_key", "_salsa_number", "_undisturbed")

    def __init__(self, agreement: bytes) -> None:
        if len(agreement) != AGREEMENT_LENGTH:
            raise ValueError(f"an agreement has {AGREEMENT_LENGTH} bytes")
        self._agreement = agreement
        self._salsa_key = agreement[:32]
        self._salsa_number = int.from_bytes(self._salsa_key, "little")
        self._undisturbed = 0
        """Batches in a row in which Salsa20/12 had sealed something, and all was authentic."""
        self._aes = AesGmacSiv(*self.aes_keys())
        self._fields = 0
        """Destination, source and flags of the last batch that was sealed, which are those of nearly all."""
        self._heads = b"", b""
        """The same as 11 bytes, of a packet in one datagram and of one in several."""

    def aes_keys(self) -> tuple[bytes, bytes]:
        """The two keys of AES-GMAC-SIV, 32 bytes each. Secret."""
        return _derive(self._agreement, b"0"), _derive(self._agreement, b"1")

    def seal(
        self,
        packet_id: int,
        destination: int,
        source: int,
        parts: Sequence[Buffer],
        cipher: int = CIPHER_AES_GMAC_SIV,
        mtu: int = DEFAULT_PHYSICAL_MTU,
    ) -> bytes:
        """Seal one packet whose plaintext (verb byte first) is ``parts`` in a row.

        The id that answers will refer to is in the packet's first 8 bytes (``packet.packet_id``): AES-GMAC-SIV
        changes the one given. ValueError if it would be too long, or for a cipher that is none of the three.
        """
        identifier = packet_id.to_bytes(8, "big")
        length = sum(map(len, parts))
        if cipher == CIPHER_AES_GMAC_SIV and 0 < length <= _LONGEST:  # the common case, without the batch's overhead
            flags = _FLAGS[cipher] | (FLAG_FRAGMENTED if length > mtu - OFFSET_VERB else 0)
            associated = (destination << 48 | source << 8 | flags).to_bytes(11, "big")
            return self._aes.seal(identifier, associated, parts)
        return self.seal_many(identifier, destination, source, (parts,), cipher, mtu)[0]

    def seal_many(
        self,
        packet_ids: bytes,
        destination: int,
        source: int,
        messages: Sequence[Sequence[Buffer]],
        cipher: int = CIPHER_AES_GMAC_SIV,
        mtu: int = DEFAULT_PHYSICAL_MTU,
    ) -> list[bytes]:
        """Seal many packets to one peer; ``packet_ids`` holds 8 random bytes for each. Otherwise as ``seal``."""
        if cipher not in _FLAGS:
            raise ValueError(f"cannot seal with cipher suite {cipher}")
        fields = destination << 48 | source << 8 | _FLAGS[cipher]
        if fields != self._fields:
            self._heads = fields.to_bytes(11, "big"), (fields | FLAG_FRAGMENTED).to_bytes(11, "big")
            self._fields = fields
        whole, head_of_many = self._heads
        room = mtu - OFFSET_VERB
        ids: Sequence[bytes] = struct.unpack("8s" * len(messages), packet_ids)
        associated: list[bytes] = []
        for parts in messages:
            length = sum(map(len, parts))
            if not 0 < length <= _LONGEST:
                raise ValueError(f"a plaintext of {length} bytes does not fit a packet")
            associated.append(whole if length <= room else head_of_many)
        if cipher == CIPHER_AES_GMAC_SIV:
            return list(map(self._aes.seal, ids, associated, messages))
        return self._seal_poly1305(ids, associated, [b"".join(parts) for parts in messages], cipher)

    def open(self, packet: Buffer) -> bytes | None:
        """The plaintext (verb byte first) of a whole packet, by whatever cipher suite its header says; None if it is
        forged, of the wrong length, or of a suite that protects nothing."""
        return self.open_many((packet,))[0]

    def open_many(self, packets: Sequence[Buffer]) -> list[bytes | None]:
        """Open many packets from one peer; the result has their order."""
        opened: list[bytes | None] = []
        poly1305: list[int] = []
        open_aes = self._aes.open
        for index, packet in enumerate(packets):
            plaintext = None
            if MIN_PACKET_LENGTH <= len(packet) <= MAX_PACKET_LENGTH:
                cipher = packet[OFFSET_FLAGS] >> 3 & 7
                if cipher == CIPHER_AES_GMAC_SIV:
                    plaintext = open_aes(packet if type(packet) is bytes else bytes(packet))
                elif cipher in (CIPHER_POLY1305_NONE, CIPHER_POLY1305_SALSA2012):
                    poly1305.append(index)
            opened.append(plaintext)
        if poly1305:
            plaintexts = self._open_poly1305([bytes(packets[index]) for index in poly1305])
            for index, plaintext in zip(poly1305, plaintexts, strict=True):
                opened[index] = plaintext
        return opened

    def mask_field(self, packet_id: int, field: bytes) -> bytes:
        """Encrypt or decrypt the last part of a HELLO, which is otherwise in the clear (Packet::cryptField)."""
        nonce = (packet_id & ~7).to_bytes(8, "big")
        blocks = -(-len(field) // salsa20.BLOCK)
        (stream,) = salsa20.key_streams([self._salsa_key], [nonce], [blocks], _ROUNDS)
        return salsa20.xor(field, stream[: len(field)])

    def _seal_poly1305(
        self, ids: Sequence[bytes], associated: list[bytes], plaintexts: list[bytes], cipher: int
    ) -> list[bytes]:
        headers = [packet_id + fields for packet_id, fields in zip(ids, associated, strict=True)]
        lengths = [OFFSET_VERB + len(plaintext) for plaintext in plaintexts]
        if cipher == CIPHER_POLY1305_NONE:
            return [
                b"".join((header, self._mac(self._first_block(header, length), plaintext), plaintext))
                for header, length, plaintext in zip(headers, lengths, plaintexts, strict=True)
            ]
        keys = list(map(self._mangled_key, headers, lengths))
        return [
            b"".join((header, salsa20.poly1305(key, ciphertext)[:_MAC_LENGTH], ciphertext))
            for header, (key, ciphertext) in zip(headers, salsa20.combine_many(keys, ids, plaintexts), strict=True)
        ]

    def _open_poly1305(self, packets: list[bytes]) -> list[bytes | None]:
        """The first block of a packet's key stream, half of which is the MAC's key, is all that a forged one costs. In
        a session that nobody disturbs, it is made together with the others, which saves a pass."""
        if self._undisturbed >= _QUIET and all(packet[OFFSET_FLAGS] & _SUITE == _SALSA for packet in packets):
            return self._open_in_one_pass(packets)
        keys = [self._mangled_key(packet, len(packet)) for packet in packets]
        nonces = [packet[:8] for packet in packets]
        plaintexts: list[bytes | None] = [None] * len(packets)
        sealed: list[int] = []
        for index, block in enumerate(salsa20.key_streams(keys, nonces, [1] * len(packets), _ROUNDS)):
            packet = packets[index]
            body = packet[OFFSET_VERB:]
            if hmac.compare_digest(self._mac(block, body), packet[OFFSET_MAC:OFFSET_VERB]):
                plaintexts[index] = body
                if packet[OFFSET_FLAGS] & _SUITE == _SALSA:
                    sealed.append(index)
        if sealed:
            blocks = [_blocks_of(len(packets[index])) for index in sealed]
            streams = salsa20.key_streams(
                [keys[index] for index in sealed], [nonces[index] for index in sealed], blocks, _ROUNDS, first=1
            )
            for index, stream in zip(sealed, streams, strict=True):
                body = packets[index][OFFSET_VERB:]
                plaintexts[index] = salsa20.xor(body, stream[: len(body)])
        self._undisturbed = 0 if None in plaintexts else self._undisturbed + bool(sealed)
        return plaintexts

    def _open_in_one_pass(self, packets: list[bytes]) -> list[bytes | None]:
        keys = [self._mangled_key(packet, len(packet)) for packet in packets]
        bodies = [packet[OFFSET_VERB:] for packet in packets]
        plaintexts: list[bytes | None] = []
        opened = salsa20.combine_many(keys, [packet[:8] for packet in packets], bodies)
        for packet, body, (key, plaintext) in zip(packets, bodies, opened, strict=True):
            if hmac.compare_digest(salsa20.poly1305(key, body)[:_MAC_LENGTH], packet[OFFSET_MAC:OFFSET_VERB]):
                plaintexts.append(plaintext)
            else:
                self._undisturbed = 0
                plaintexts.append(None)
        return plaintexts

    @staticmethod
    def _mac(key: bytes, body: bytes) -> bytes:
        return salsa20.poly1305(key[:32], body)[:_MAC_LENGTH]

    def _mangled_key(self, header: bytes, length: int) -> bytes:
        """The packet's own key: the shared key XOR id, addresses, flags without hops, and length (little endian)."""
        fields = b"%b%c%b" % (
            header[:OFFSET_FLAGS],
            header[OFFSET_FLAGS] & FLAGS_AUTHENTICATED_MASK,
            length.to_bytes(2, "little"),
        )
        return (self._salsa_number ^ int.from_bytes(fields, "little")).to_bytes(32, "little")

    def _first_block(self, header: bytes, length: int) -> bytes:
        return salsa20.short_key_stream(self._mangled_key(header, length), header[:8], salsa20.BLOCK, _ROUNDS)


def _blocks_of(length: int) -> int:
    """Blocks of key stream for the plaintext of a packet of ``length`` bytes."""
    return -((OFFSET_VERB - length) // salsa20.BLOCK)


def _derive(agreement: bytes, label: bytes) -> bytes:
    """KBKDF with HMAC-SHA-384 in counter mode, iteration 0, context 0, 384 bits; AES takes the first 256."""
    message = b"\0\0\0\0ZT" + label + b"\0\0" + (384).to_bytes(4, "big")
    return hmac.digest(agreement, message, "sha384")[:32]
