"""What every credential of a network has in common: an issuer, a signature and the way both are written."""

from __future__ import annotations

import enum
import hashlib
from typing import Final, Protocol

from ztnode.wire.address import controller_of
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

SIGNATURE_LENGTH: Final = 96
"""An Ed25519 signature (64 bytes) and the 32 bytes of SHA-512 that it signs (reference ZT_C25519_SIGNATURE_LEN)."""

SIGNATURE_TYPE_ED25519: Final = 1
SIGNING_MARK: Final = b"\x7f" * 8
"""Stands before and after the serialised fields while they are signed."""


class CredentialType(enum.IntEnum):
    """Type codes as used in revocations (reference Credential.hpp)."""

    NULL = 0
    COM = 1
    CAPABILITY = 2
    TAG = 3
    OWNERSHIP = 4
    REVOCATION = 6


class PublicIdentity(Protocol):
    """The part of an identity that checks signatures; ``ztnode.wire.identity.Identity`` is one."""

    @property
    def address(self) -> int: ...

    @property
    def public(self) -> bytes: ...

    def verify(self, message: bytes, signature: bytes) -> bool: ...


class SigningIdentity(PublicIdentity, Protocol):
    """An identity with its secret key."""

    def sign(self, message: bytes) -> bytes: ...


def public_key_hash(identity: PublicIdentity) -> bytes:
    """SHA-384 of the address and both public keys, 48 bytes (reference Identity::publicKeyHash)."""
    return hashlib.sha384(identity.address.to_bytes(5, "big") + identity.public).digest()


def build_signature(signature: bytes) -> bytes:
    """Type, length and signature, as every credential but the COM writes them."""
    return bytes((SIGNATURE_TYPE_ED25519,)) + len(signature).to_bytes(2, "big") + signature


def parse_signature_from(reader: Reader) -> bytes:
    """The signature; empty (and so never valid) if it is of a type not known here. Raises WireError."""
    kind = reader.u8()
    length = reader.u16()
    if kind != SIGNATURE_TYPE_ED25519:
        reader.skip(length)
        return b""
    if length != SIGNATURE_LENGTH:
        raise WireError(f"Ed25519 signature of {length} bytes")
    return reader.take(length)


def skip_additional_fields(reader: Reader) -> None:
    """Pass over the length-prefixed room for future fields that ends every credential but the COM."""
    reader.skip(reader.u16())


def issued_by_controller(network_id: int, signed_by: int, controller: PublicIdentity) -> bool:
    """True if ``controller`` is who signed and is the one who may sign for this network."""
    return signed_by != 0 and signed_by == controller_of(network_id) == controller.address
