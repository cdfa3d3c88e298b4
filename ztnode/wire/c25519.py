"""Curve25519 agreement and Ed25519 signatures in ZeroTier's arrangement (reference: C25519.cpp).

A public key is 64 bytes, 32 for agreement and 32 for signatures; so is a secret key. A signature has 96 bytes: an
Ed25519 signature over the first half of the message's SHA-512, followed by that half.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

PUBLIC_LENGTH: Final = 64
SECRET_LENGTH: Final = 64
SIGNATURE_LENGTH: Final = 96
AGREEMENT_LENGTH: Final = 48
_ED25519_LENGTH: Final = 64


def derive_public(secret: bytes) -> bytes:
    """The 64-byte public key of a 64-byte secret key."""
    return bindings.crypto_scalarmult_base(secret[:32]) + bindings.crypto_sign_seed_keypair(secret[32:])[0]


def agree(secret: bytes, public: bytes) -> bytes:
    """The 48-byte key that the owner of ``secret`` shares with the owner of ``public``. WireError if the other's
    key lies in a small subgroup and so would give a key that everybody knows."""
    try:
        raw = bindings.crypto_scalarmult(secret[:32], public[:32])
    except CryptoError:
        raise WireError("the peer's public key permits no agreement") from None
    return hashlib.sha512(raw).digest()[:AGREEMENT_LENGTH]


def sign(secret: bytes, public: bytes, message: Buffer) -> bytes:
    """Sign ``message``; 96 bytes."""
    digest = hashlib.sha512(message).digest()[:32]
    return bindings.crypto_sign(digest, secret[32:] + public[32:])


def verify(public: bytes, message: Buffer, signature: Buffer) -> bool:
    """Whether ``signature`` over ``message`` was made with the secret key of ``public``."""
    if len(signature) != SIGNATURE_LENGTH:
        return False
    digest = hashlib.sha512(message).digest()[:32]
    if not hmac.compare_digest(digest, signature[_ED25519_LENGTH:]):
        return False
    try:
        bindings.crypto_sign_open(bytes(signature), public[32:])
    except CryptoError:
        return False
    return True
