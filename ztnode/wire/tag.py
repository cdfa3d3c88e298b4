"""Tag: a signed number that a controller pins to a member, for rules to compare. Source: reference Tag.hpp."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from ztnode.wire.credential import (
    SIGNING_MARK,
    PublicIdentity,
    SigningIdentity,
    build_signature,
    issued_by_controller,
    parse_signature_from,
    skip_additional_fields,
)
from ztnode.wire.reader import Reader

_HEAD: Final = struct.Struct(">QQII")


@dataclass(frozen=True, slots=True)
class Tag:
    """``timestamp`` in milliseconds of the controller's clock; ``id`` and ``value`` unsigned 32-bit."""

    network_id: int
    timestamp: int
    issued_to: int
    id: int
    value: int
    signed_by: int = 0
    signature: bytes = b""

    @classmethod
    def parse_from(cls, reader: Reader) -> Tag:
        """Parse at the reader's position. Raises WireError."""
        network_id, timestamp, id_, value = _HEAD.unpack(reader.take(_HEAD.size))
        issued_to = reader.address()
        signed_by = reader.address()
        signature = parse_signature_from(reader)
        skip_additional_fields(reader)
        return cls(network_id, timestamp, issued_to, id_, value, signed_by, signature)

    def _fields(self) -> bytes:
        return (
            _HEAD.pack(self.network_id, self.timestamp, self.id, self.value)
            + self.issued_to.to_bytes(5, "big")
            + self.signed_by.to_bytes(5, "big")
        )

    def build(self) -> bytes:
        """The wire form."""
        return self._fields() + build_signature(self.signature) + b"\x00\x00"

    def _signed_part(self) -> bytes:
        return SIGNING_MARK + self._fields() + b"\x00\x00" + SIGNING_MARK

    def sign(self, controller: SigningIdentity) -> Tag:
        """A copy signed by ``controller``."""
        unsigned = replace(self, signed_by=controller.address)
        return replace(unsigned, signature=controller.sign(unsigned._signed_part()))

    def verify(self, controller: PublicIdentity) -> bool:
        """True if the network's own ``controller`` signed this."""
        return issued_by_controller(self.network_id, self.signed_by, controller) and controller.verify(
            self._signed_part(), self.signature
        )
