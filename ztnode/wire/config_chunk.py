"""Network configurations travel in signed chunks, in OK(NETWORK_CONFIG_REQUEST) and in NETWORK_CONFIG alike.

Each chunk is signed by itself, so that nobody but the controller can make a member hold memory for an update. Source:
reference Packet.hpp (VERB_NETWORK_CONFIG_REQUEST, VERB_NETWORK_CONFIG), Node::ncSendConfig, Network::handleConfigChunk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.credential import SIGNATURE_LENGTH, PublicIdentity, SigningIdentity, build_signature
from ztnode.wire.dictionary import MAX_DICTIONARY_SIZE
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

FLAG_FAST_PROPAGATE: Final = 0x01
"""Members pass the chunk on to each other."""

CHUNK_SIZE: Final = 4096
"""Bytes of dictionary per chunk sent: three fragments at the usual MTU, so that a lost datagram costs little."""

_HEAD: Final = struct.Struct(">QH")
_TAIL: Final = struct.Struct(">BQII")


@dataclass(frozen=True, slots=True)
class ConfigChunk:
    """``data`` is the part from byte ``index`` of a dictionary of ``total_length`` bytes.

    ``update_id`` tells the updates apart. It is 0, and ``signature`` empty, in the single unsigned chunk of controllers
    older than 1.2, which only the controller itself may send.
    """

    network_id: int
    data: bytes
    update_id: int = 0
    total_length: int = 0
    index: int = 0
    flags: int = 0
    signature: bytes = b""

    @classmethod
    def parse(cls, payload: Buffer) -> ConfigChunk:
        """Parse what follows the in-re fields of OK, or the whole payload of NETWORK_CONFIG. Raises WireError."""
        reader = Reader(payload)
        network_id, length = _HEAD.unpack(reader.take(_HEAD.size))
        data = reader.take(length)
        if not reader.remaining:
            return cls(network_id, data, total_length=length)
        flags, update_id, total_length, index = _TAIL.unpack(reader.take(_TAIL.size))
        if total_length > MAX_DICTIONARY_SIZE or index + length > total_length:
            raise WireError(f"chunk {index}+{length} of a configuration of {total_length} bytes")
        if reader.u8() != 1 or reader.u16() != SIGNATURE_LENGTH:
            raise WireError("configuration chunk with an unknown kind of signature")
        return cls(network_id, data, update_id, total_length, index, flags, reader.take(SIGNATURE_LENGTH))

    def _signed_part(self) -> bytes:
        return (
            _HEAD.pack(self.network_id, len(self.data))
            + self.data
            + _TAIL.pack(self.flags, self.update_id, self.total_length, self.index)
        )

    def build(self) -> bytes:
        """The payload."""
        return self._signed_part() + build_signature(self.signature)

    def sign(self, controller: SigningIdentity) -> ConfigChunk:
        """A copy signed by ``controller``."""
        return replace(self, signature=controller.sign(self._signed_part()))

    def verify(self, controller: PublicIdentity) -> bool:
        """True if ``controller`` signed this chunk."""
        return bool(self.signature) and controller.verify(self._signed_part(), self.signature)


def split_config(
    network_id: int,
    dictionary: bytes,
    update_id: int,
    controller: SigningIdentity,
    *,
    flags: int = 0,
    chunk_size: int = CHUNK_SIZE,
) -> Iterator[ConfigChunk]:
    """Signed chunks of an encoded configuration. ``update_id`` is a random number other than 0."""
    for index in range(0, len(dictionary), chunk_size):
        part = dictionary[index : index + chunk_size]
        yield ConfigChunk(network_id, part, update_id, len(dictionary), index, flags).sign(controller)


def build_accepted(network_id: int, update_id: int) -> bytes:
    """What follows the in-re fields of the OK by which a member confirms a pushed configuration."""
    return network_id.to_bytes(8, "big") + update_id.to_bytes(8, "big")


def parse_accepted(payload: Buffer) -> tuple[int, int]:
    """The network id and update id of ``build_accepted``. Raises WireError."""
    reader = Reader(payload)
    return reader.u64(), reader.u64()
