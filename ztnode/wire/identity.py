"""A node's identity: its key pair and the address that a memory-hard hash of the public key gives it
(reference: Identity.hpp, Identity.cpp).

Text form: ``address:0:public[:secret]`` in hex, as in ``identity.public`` and ``identity.secret``. Binary form: 5
bytes of address, the type 0, 64 bytes of public key, then the length of the secret key (0 or 64) and that key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ztnode.wire import c25519
from ztnode.wire.address import format_address, is_reserved
from ztnode.wire.buffer import Buffer
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

_TYPE_C25519: Final = 0
_HASHCASH_LIMIT: Final = 17
"""The first byte of the digest must be less (ZT_IDENTITY_GEN_HASHCASH_FIRST_BYTE_LESS_THAN): 1 key in 15 passes."""


_TEXT: Final = re.compile(r"([0-9a-fA-F]{10}):0:([0-9a-fA-F]{128})(?::([0-9a-fA-F]{128}))?")


@dataclass(frozen=True, slots=True)
class Identity:
    """An address with the public key it belongs to and, for one's own identity, the secret key."""

    address: int
    """40 bits."""
    public: bytes
    """64 bytes: the Curve25519 key, then the Ed25519 key."""
    secret: bytes | None = field(default=None, compare=False)
    """64 bytes in the same order, or None; never shown, and not part of what makes two identities equal."""

    def __repr__(self) -> str:
        return f"<Identity {format_address(self.address)}{'' if self.secret is None else ' with its secret'}>"

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = os.urandom) -> Identity:
        """Make a new identity in this thread: about 15 candidates, a few seconds. ``random`` gives n random bytes.

        ``ztnode.node.identity_pool`` does the same on all cores.
        """
        while True:
            if (identity := try_candidate(random(c25519.SECRET_LENGTH))) is not None:
                return identity

    @classmethod
    def parse_text(cls, text: str) -> Identity:
        """Parse the text form, surrounding white space allowed. WireError with one clear line."""
        fields = _TEXT.fullmatch(text.strip())
        if fields is None:
            raise WireError("not an identity: expected address:0:public key, and perhaps :secret key, in hexadecimal")
        address, public, secret = fields.groups()
        return cls._checked(int(address, 16), bytes.fromhex(public), bytes.fromhex(secret) if secret else None)

    @classmethod
    def parse_from(cls, reader: Reader) -> Identity:
        """Read the binary form. WireError if truncated or of another type."""
        address = reader.address()
        if (kind := reader.u8()) != _TYPE_C25519:
            raise WireError(f"unknown identity type {kind}")
        public = reader.take(c25519.PUBLIC_LENGTH)
        secret_length = reader.u8()
        if secret_length not in (0, c25519.SECRET_LENGTH):
            raise WireError(f"a secret key of {secret_length} bytes")
        return cls._checked(address, public, reader.take(secret_length) if secret_length else None)

    @classmethod
    def parse(cls, data: Buffer) -> Identity:
        """Parse the binary form; anything after it is refused. WireError."""
        reader = Reader(data)
        identity = cls.parse_from(reader)
        if reader.remaining:
            raise WireError(f"{reader.remaining} bytes follow the identity")
        return identity

    @classmethod
    def _checked(cls, address: int, public: bytes, secret: bytes | None) -> Identity:
        if is_reserved(address):
            raise WireError("not an identity: its address is reserved")
        return cls(address, public, secret)

    def build_text(self, *, include_secret: bool = False) -> str:
        """The text form. ValueError if the secret is wanted and this identity has none."""
        text = f"{format_address(self.address)}:{_TYPE_C25519}:{self.public.hex()}"
        return f"{text}:{self._own_secret().hex()}" if include_secret else text

    def build(self, *, include_secret: bool = False) -> bytes:
        """The binary form. ValueError if the secret is wanted and this identity has none."""
        secret = self._own_secret() if include_secret else b""
        return b"".join((self.address.to_bytes(5, "big"), b"\0", self.public, bytes((len(secret),)), secret))

    def validate(self) -> bool:
        """Whether the address belongs to the public key (and that to the secret key, if there is one).

        This is the expensive memory-hard hash, a twentieth of a second.
        """
        if self.secret is not None and c25519.derive_public(self.secret) != self.public:
            return False
        return _address_of(self.public) == self.address

    def without_secret(self) -> Identity:
        """The public half, as one may give to others."""
        return replace(self, secret=None)

    def agree(self, other: Identity) -> bytes:
        """The 48-byte key shared with ``other``, from which ``keys.PeerKeys`` is made. ValueError without a secret;
        WireError if ``other``'s key permits no agreement."""
        return c25519.agree(self._own_secret(), other.public)

    def sign(self, message: Buffer) -> bytes:
        """A 96-byte signature. ValueError without a secret."""
        return c25519.sign(self._own_secret(), self.public, message)

    def verify(self, message: Buffer, signature: Buffer) -> bool:
        """Whether ``signature`` over ``message`` was made by this identity."""
        return c25519.verify(self.public, message, signature)

    def _own_secret(self) -> bytes:
        if self.secret is None:
            raise ValueError("this identity has no secret key")
        return self.secret


def try_candidate(secret: bytes) -> Identity | None:
    """The identity of a 64-byte secret key, or None for the 14 keys in 15 that make none."""
    public = c25519.derive_public(secret)
    address = _address_of(public)
    return None if address is None else Identity(address, public, secret)


def _address_of(public: bytes) -> int | None:
    from ztnode.wire.identity_hash import memory_hard_hash  # with numpy, and a node rarely makes or checks an identity

    digest = memory_hard_hash(public)
    address = int.from_bytes(digest[-5:], "big")
    return None if digest[0] >= _HASHCASH_LIMIT or is_reserved(address) else address
