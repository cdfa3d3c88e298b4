"""Certificate of membership (COM): a controller's word that a node belongs to a network at a certain time.

A COM is a list of qualifiers (id, value, permitted difference). Two members may talk if their COMs agree on all of
them. Source: reference CertificateOfMembership.hpp and .cpp.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.credential import (
    SIGNATURE_LENGTH,
    PublicIdentity,
    SigningIdentity,
    issued_by_controller,
    public_key_hash,
)
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

QUALIFIER_TIMESTAMP: Final = 0
QUALIFIER_NETWORK_ID: Final = 1
QUALIFIER_ISSUED_TO: Final = 2
QUALIFIER_IDENTITY_HASH: Final = range(3, 7)
"""Ids of the four qualifiers that hold the first 32 bytes of the identity's hash."""

MAX_QUALIFIERS: Final = 8
_ANY: Final = (1 << 64) - 1
_QUALIFIER: Final = struct.Struct(">QQQ")


@dataclass(frozen=True, slots=True, order=True)
class Qualifier:
    """One condition; all three are unsigned 64-bit."""

    id: int
    value: int
    max_delta: int


def _identity_hash(identity: PublicIdentity) -> tuple[int, ...]:
    return struct.unpack(">4Q", public_key_hash(identity)[:32])


@dataclass(frozen=True, slots=True)
class CertificateOfMembership:
    """``signed_by`` is a ZeroTier address, 0 while unsigned; ``signature`` has 96 bytes once signed."""

    qualifiers: tuple[Qualifier, ...]
    signed_by: int = 0
    signature: bytes = b""

    @classmethod
    def issue(
        cls, network_id: int, timestamp: int, max_delta: int, issued_to: PublicIdentity
    ) -> CertificateOfMembership:
        """An unsigned COM; ``timestamp`` (the controller's clock) and ``max_delta`` in milliseconds."""
        hashes = zip(QUALIFIER_IDENTITY_HASH, _identity_hash(issued_to), strict=True)
        return cls(
            (
                Qualifier(QUALIFIER_TIMESTAMP, timestamp, max_delta),
                Qualifier(QUALIFIER_NETWORK_ID, network_id, 0),
                Qualifier(QUALIFIER_ISSUED_TO, issued_to.address, _ANY),
                *(Qualifier(id_, value, _ANY) for id_, value in hashes),
            )
        )

    @classmethod
    def parse_from(cls, reader: Reader) -> CertificateOfMembership:
        """Parse at the reader's position. Raises WireError."""
        if reader.u8() != 1:
            raise WireError("unknown certificate of membership format")
        count = reader.u16()
        if count > MAX_QUALIFIERS:
            raise WireError(f"certificate of membership with {count} qualifiers")
        qualifiers = tuple(Qualifier(*_QUALIFIER.unpack(reader.take(_QUALIFIER.size))) for _ in range(count))
        if any(a.id > b.id for a, b in pairwise(qualifiers)):
            raise WireError("qualifiers out of order")
        signed_by = reader.address()
        return cls(qualifiers, signed_by, reader.take(SIGNATURE_LENGTH) if signed_by else b"")

    @classmethod
    def parse(cls, data: Buffer) -> CertificateOfMembership:
        """Parse ``data``; bytes after the certificate are ignored. Raises WireError."""
        return cls.parse_from(Reader(data))

    def build(self) -> bytes:
        """The wire form."""
        return (
            b"\x01"
            + len(self.qualifiers).to_bytes(2, "big")
            + self._signed_part()
            + self.signed_by.to_bytes(5, "big")
            + (self.signature if self.signed_by else b"")
        )

    def _signed_part(self) -> bytes:
        return b"".join(
            _QUALIFIER.pack(qualifier.id, qualifier.value, qualifier.max_delta) for qualifier in self.qualifiers
        )

    def _value(self, qualifier_id: int) -> int:
        return next((q.value for q in self.qualifiers if q.id == qualifier_id), 0)

    @property
    def timestamp(self) -> int:
        """Milliseconds on the controller's clock; 0 if absent."""
        return self._value(QUALIFIER_TIMESTAMP)

    @property
    def network_id(self) -> int:
        return self._value(QUALIFIER_NETWORK_ID)

    @property
    def issued_to(self) -> int:
        """The member's ZeroTier address; 0 if absent."""
        return self._value(QUALIFIER_ISSUED_TO) & 0xFFFFFFFFFF

    def agrees_with(self, other: CertificateOfMembership, other_identity: PublicIdentity) -> bool:
        """True if the node ``other_identity`` that presents ``other`` may talk to the holder of this certificate.

        Every qualifier here must be there too and differ by no more than permitted here. If this one carries an
        identity hash, the other's must be that of ``other_identity``.
        """
        if not self.qualifiers or not other.qualifiers:
            return False
        theirs = {qualifier.id: qualifier.value for qualifier in other.qualifiers}
        for qualifier in self.qualifiers:
            value = theirs.get(qualifier.id)
            if value is None or abs(qualifier.value - value) > qualifier.max_delta:
                return False
        if any(qualifier.id in QUALIFIER_IDENTITY_HASH for qualifier in self.qualifiers):
            presented = tuple(theirs.get(id_) for id_ in QUALIFIER_IDENTITY_HASH)
            return presented == _identity_hash(other_identity)
        return True

    def sign(self, controller: SigningIdentity) -> CertificateOfMembership:
        """A copy signed by ``controller``."""
        return replace(self, signed_by=controller.address, signature=controller.sign(self._signed_part()))

    def verify(self, controller: PublicIdentity) -> bool:
        """True if the network's own ``controller`` signed this."""
        return issued_by_controller(self.network_id, self.signed_by, controller) and controller.verify(
            self._signed_part(), self.signature
        )
