"""Revocation: a controller's word that credentials of a member no longer hold. Source: reference Revocation.hpp."""

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

FLAG_FAST_PROPAGATE: Final = 0x1
_HEAD: Final = struct.Struct(">4xIQ4xIQQ")


@dataclass(frozen=True, slots=True)
class Revocation:
    """Credentials of ``credential_type`` issued to ``target`` at or before ``threshold`` (milliseconds of the
    controller's clock) are void. ``credential_id`` is 0 for a COM, which has none."""

    network_id: int
    id: int
    credential_id: int
    threshold: int
    flags: int
    target: int
    credential_type: int
    signed_by: int = 0
    signature: bytes = b""

    @classmethod
    def parse_from(cls, reader: Reader) -> Revocation:
        """Parse at the reader's position. Raises WireError."""
        id_, network_id, credential_id, threshold, flags = _HEAD.unpack(reader.take(_HEAD.size))
        target = reader.address()
        signed_by = reader.address()
        credential_type = reader.u8()
        signature = parse_signature_from(reader)
        skip_additional_fields(reader)
        return cls(network_id, id_, credential_id, threshold, flags, target, credential_type, signed_by, signature)

    @property
    def fast_propagate(self) -> bool:
        """True if members pass this on to each other."""
        return bool(self.flags & FLAG_FAST_PROPAGATE)

    def _fields(self) -> bytes:
        return (
            _HEAD.pack(self.id, self.network_id, self.credential_id, self.threshold, self.flags)
            + self.target.to_bytes(5, "big")
            + self.signed_by.to_bytes(5, "big")
            + bytes((self.credential_type,))
        )

    def build(self) -> bytes:
        """The wire form."""
        return self._fields() + build_signature(self.signature) + b"\x00\x00"

    def _signed_part(self) -> bytes:
        return SIGNING_MARK + self._fields() + b"\x00\x00" + SIGNING_MARK

    def sign(self, controller: SigningIdentity) -> Revocation:
        """A copy signed by ``controller``."""
        unsigned = replace(self, signed_by=controller.address)
        return replace(unsigned, signature=controller.sign(unsigned._signed_part()))

    def verify(self, controller: PublicIdentity) -> bool:
        """True if the network's own ``controller`` signed this."""
        return issued_by_controller(self.network_id, self.signed_by, controller) and controller.verify(
            self._signed_part(), self.signature
        )
