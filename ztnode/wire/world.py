"""Worlds: the signed lists of root servers, of which a planet is the one that a node lives in and moons are additions
(reference: World.hpp).

The same bytes are the ``planet`` file, a ``moons.d/*.moon`` file and an update inside OK(HELLO).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ztnode.wire import c25519
from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import Endpoint, build_endpoint, parse_endpoint_from
from ztnode.wire.identity import Identity
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

MAX_ROOTS: Final = 4
MAX_STABLE_ENDPOINTS: Final = 32
"""Per root."""
PLANET_ID_EARTH: Final = 149604618
"""The id of ZeroTier's own planet (ZT_WORLD_ID_EARTH)."""

_SIGNED_PREFIX: Final = b"\x7f" * 8
_SIGNED_SUFFIX: Final = b"\xf7" * 8


class WorldType(IntEnum):
    """What kind of world, by its number on the wire."""

    PLANET = 1
    MOON = 127


@dataclass(frozen=True, slots=True)
class Root:
    """A root server: its public identity, and the endpoints at which it can always be found."""

    identity: Identity
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class World:
    """A planet or a moon."""

    type: WorldType
    id: int
    """64 bits. A moon's id is the address of its first root, by convention."""
    timestamp: int
    """Unix milliseconds; the later one replaces the earlier."""
    updates_signed_by: bytes
    """The 64-byte public key that must sign the next version."""
    signature: bytes
    """96 bytes, by the key that the version before this one named."""
    roots: tuple[Root, ...]

    @classmethod
    def sign(
        cls,
        type: WorldType,
        id: int,
        timestamp: int,
        updates_signed_by: bytes,
        roots: Sequence[Root],
        *,
        public: bytes,
        secret: bytes,
    ) -> World:
        """Make a world and sign it with the key pair ``public``, ``secret`` (64 bytes each). ValueError for more roots
        or endpoints than the protocol allows."""
        if len(roots) > MAX_ROOTS:
            raise ValueError(f"a world has at most {MAX_ROOTS} roots")
        if any(len(root.endpoints) > MAX_STABLE_ENDPOINTS for root in roots):
            raise ValueError(f"a root has at most {MAX_STABLE_ENDPOINTS} endpoints")
        if any(len(key) != c25519.PUBLIC_LENGTH for key in (updates_signed_by, public, secret)):
            raise ValueError("keys have 64 bytes")
        unsigned = cls(type, id, timestamp, updates_signed_by, bytes(c25519.SIGNATURE_LENGTH), tuple(roots))
        signature = c25519.sign(secret, public, unsigned.signed_bytes())
        return cls(type, id, timestamp, updates_signed_by, signature, unsigned.roots)

    @classmethod
    def parse_from(cls, reader: Reader) -> World:
        """Read one world. WireError if truncated, of an unknown type, or larger than the protocol allows."""
        try:
            kind = WorldType(reader.u8())
        except ValueError:
            raise WireError("not a world: its first byte is neither a planet's nor a moon's") from None
        id, timestamp = reader.u64(), reader.u64()
        updates_signed_by, signature = reader.take(c25519.PUBLIC_LENGTH), reader.take(c25519.SIGNATURE_LENGTH)
        count = reader.u8()
        if count > MAX_ROOTS:
            raise WireError(f"a world with {count} roots; {MAX_ROOTS} is the most")
        roots = tuple(_parse_root_from(reader) for _ in range(count))
        if kind is WorldType.MOON:
            reader.skip(reader.u16())  # a dictionary for future use
        return cls(kind, id, timestamp, updates_signed_by, signature, roots)

    @classmethod
    def parse(cls, data: Buffer) -> World:
        """Parse a planet or moon file. WireError, also if anything follows."""
        reader = Reader(data)
        world = cls.parse_from(reader)
        if reader.remaining:
            raise WireError(f"{reader.remaining} bytes follow the world")
        return world

    def build(self) -> bytes:
        """The serialised world."""
        return self._serialise(self.signature)

    def signed_bytes(self) -> bytes:
        """What the signature covers: the world without its signature, between two markers."""
        return _SIGNED_PREFIX + self._serialise(b"") + _SIGNED_SUFFIX

    def is_signed_by(self, public: bytes) -> bool:
        """Whether the owner of this 64-byte public key signed this world."""
        return c25519.verify(public, self.signed_bytes(), self.signature)

    def may_be_replaced_by(self, update: World) -> bool:
        """Whether ``update`` is a later version of this world, signed by the key that this one names
        (World::shouldBeReplacedBy)."""
        return (
            update.id == self.id
            and update.type is self.type
            and update.timestamp > self.timestamp
            and update.is_signed_by(self.updates_signed_by)
        )

    def _serialise(self, signature: bytes) -> bytes:
        parts = [
            bytes((self.type,)),
            self.id.to_bytes(8, "big"),
            self.timestamp.to_bytes(8, "big"),
            self.updates_signed_by,
            signature,
            bytes((len(self.roots),)),
        ]
        for root in self.roots:
            parts += root.identity.build(), bytes((len(root.endpoints),)), *map(build_endpoint, root.endpoints)
        if self.type is WorldType.MOON:
            parts.append(b"\0\0")
        return b"".join(parts)


def _parse_root_from(reader: Reader) -> Root:
    identity = Identity.parse_from(reader).without_secret()
    count = reader.u8()
    if count > MAX_STABLE_ENDPOINTS:
        raise WireError(f"a root with {count} endpoints; {MAX_STABLE_ENDPOINTS} is the most")
    endpoints = [parse_endpoint_from(reader) for _ in range(count)]
    return Root(identity, tuple(endpoint for endpoint in endpoints if endpoint is not None))


def format_world_id(world_id: int) -> str:
    """A world's id as 16 hex digits."""
    return f"{world_id:016x}"


def parse_world_id(text: str) -> int:
    """The world id written as 1 to 16 hex digits: a moon's is often written as the address of its first root.
    ValueError with one clear line."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,16}", text) or not int(text, 16):
        raise ValueError(f"{text!r} is not a world id: up to 16 hex digits such as 000000deadbeef00")
    return int(text, 16)


def moon_file_name(moon_id: int) -> str:
    """What a moon's file is called in ``moons.d``."""
    return f"{format_world_id(moon_id)}.moon"


def seed_file_name(moon_id: int) -> str:
    """What the file in ``moons.d`` is called that says whom we ask for a moon. (The reference forgets that.)"""
    return f"{format_world_id(moon_id)}.seed"
