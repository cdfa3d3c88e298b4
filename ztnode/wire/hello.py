"""HELLO and OK(HELLO), by which nodes make themselves known to one another (reference: Packet.hpp, VERB_HELLO;
Peer.cpp, sendHELLO; IncomingPacket.cpp, _doHELLO and _doOK).

A HELLO travels in the clear, for it carries the public key that the receiver needs to check it; only its last part,
the moons that the sender is interested in, is encrypted. Times are the sender's own milliseconds: the answer echoes
them, and nobody else interprets them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import Endpoint, build_endpoint, parse_endpoint_from
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import MAX_PACKET_LENGTH, VERB_HELLO
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World, WorldType

MAX_MOONS: Final = 64
"""More moons in one HELLO than this are not read."""
_MOON_ENTRY: Final = 17
_ROOM_FOR_WORLDS: Final = MAX_PACKET_LENGTH - 100
"""What the header and the other fields of an OK(HELLO) leave, generously reckoned, in bytes."""


@dataclass(frozen=True, slots=True)
class Version:
    """A software version, as HELLO and OK(HELLO) give it."""

    major: int
    minor: int
    revision: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.revision}"


@dataclass(frozen=True, slots=True)
class WorldVersion:
    """A world that the sender has, or (timestamp 0) wants."""

    id: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Hello:
    """What a HELLO says."""

    protocol: int
    version: Version
    timestamp: int
    """The sender's clock, to be echoed."""
    identity: Identity
    surface: Endpoint | None
    """Where the sender sent this to: how the receiver looks from outside. None if not given."""
    planet: WorldVersion | None
    """The planet that the sender lives in; None if it is too old to say."""
    moons: tuple[WorldVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class OkHello:
    """What an OK(HELLO) says."""

    timestamp: int
    """The HELLO's own timestamp."""
    protocol: int
    version: Version
    surface: Endpoint | None
    """Where the HELLO came from, as its receiver saw it."""
    worlds: tuple[World, ...] = ()
    """Later versions of the sender's planet and moons."""


def build_hello(hello: Hello, packet_id: int, keys: PeerKeys) -> bytes:
    """The plaintext, verb byte first, to be sealed with the same ``packet_id`` and ``CIPHER_POLY1305_NONE``.

    ``keys`` encrypt the moons. ValueError if ``hello`` has no planet: the format has no place for moons without.
    """
    if hello.planet is None:
        raise ValueError("a HELLO names a planet")
    moons = b"".join(
        bytes((WorldType.MOON,)) + moon.id.to_bytes(8, "big") + moon.timestamp.to_bytes(8, "big")
        for moon in hello.moons
    )
    return b"".join(
        (
            bytes((VERB_HELLO, hello.protocol)),
            _build_version(hello.version),
            hello.timestamp.to_bytes(8, "big"),
            hello.identity.build(),
            build_endpoint(hello.surface),
            hello.planet.id.to_bytes(8, "big"),
            hello.planet.timestamp.to_bytes(8, "big"),
            keys.mask_field(packet_id, len(hello.moons).to_bytes(2, "big") + moons),
        )
    )


def hello_identity(plaintext: Buffer) -> Identity:
    """Who sent a HELLO that cannot be checked yet, because its sender is not known: all that is needed to agree on the
    keys with which to open it. WireError."""
    reader = Reader(plaintext)
    _parse_head_from(reader)
    return Identity.parse_from(reader).without_secret()


def parse_hello(plaintext: Buffer, packet_id: int, keys: PeerKeys, *, moons: bool = True) -> Hello:
    """Parse the plaintext, verb byte first, of a HELLO that ``keys`` opened. ``moons`` False: leave its moons out,
    which alone are encrypted and so cost more than all the rest. WireError."""
    reader = Reader(plaintext)
    protocol, version, timestamp = _parse_head_from(reader)
    identity = Identity.parse_from(reader).without_secret()
    surface = parse_endpoint_from(reader) if reader.remaining else None
    if reader.remaining < 16:
        return Hello(protocol, version, timestamp, identity, surface, None)
    planet = WorldVersion(reader.u64(), reader.u64())
    known = _parse_moons_from(reader, packet_id, keys) if moons else ()
    return Hello(protocol, version, timestamp, identity, surface, planet, known)


def build_ok_hello(ok: OkHello) -> bytes:
    """The payload of an OK in reply to a HELLO (to be wrapped by ``reply.build_ok``)."""
    worlds = b"".join(world.build() for world in ok.worlds)
    return b"".join(
        (
            ok.timestamp.to_bytes(8, "big"),
            bytes((ok.protocol,)),
            _build_version(ok.version),
            build_endpoint(ok.surface),
            len(worlds).to_bytes(2, "big"),
            worlds,
        )
    )


def parse_ok_hello(payload: Buffer) -> OkHello:
    """Parse the payload of an OK in reply to a HELLO. WireError. The worlds' signatures are not checked here."""
    reader = Reader(payload)
    timestamp, protocol, version = reader.u64(), reader.u8(), _parse_version_from(reader)
    surface = parse_endpoint_from(reader) if reader.remaining else None
    worlds: list[World] = []
    if reader.remaining >= 2:
        updates = Reader(reader.take(reader.u16()))
        while updates.remaining:
            worlds.append(World.parse_from(updates))
    return OkHello(timestamp, protocol, version, surface, tuple(worlds))


def newer_worlds(hello: Hello, planet: World, moons: Iterable[World]) -> Sequence[World]:
    """Which of our worlds to send along in OK(HELLO): those that the sender has in an earlier version, or wants, the
    planet first, and no more than one packet can carry."""
    known = {moon.id: moon.timestamp for moon in hello.moons}
    worlds = [moon for moon in moons if known.get(moon.id, moon.timestamp) < moon.timestamp]
    if hello.planet is not None and hello.planet.id == planet.id and hello.planet.timestamp < planet.timestamp:
        worlds.insert(0, planet)
    lengths = accumulate(len(world.build()) for world in worlds)
    return [world for world, length in zip(worlds, lengths, strict=True) if length <= _ROOM_FOR_WORLDS]


def _build_version(version: Version) -> bytes:
    return bytes((version.major, version.minor)) + version.revision.to_bytes(2, "big")


def _parse_version_from(reader: Reader) -> Version:
    return Version(reader.u8(), reader.u8(), reader.u16())


def _parse_head_from(reader: Reader) -> tuple[int, Version, int]:
    if reader.u8() != VERB_HELLO:
        raise WireError("not a HELLO")
    return reader.u8(), _parse_version_from(reader), reader.u64()


def _parse_moons_from(reader: Reader, packet_id: int, keys: PeerKeys) -> tuple[WorldVersion, ...]:
    longest = 2 + MAX_MOONS * _MOON_ENTRY
    reader = Reader(keys.mask_field(packet_id, reader.take(min(reader.remaining, longest))))
    if reader.remaining < 2:
        return ()
    moons = []
    for _ in range(min(reader.u16(), MAX_MOONS)):
        kind, moon = reader.u8(), WorldVersion(reader.u64(), reader.u64())
        if kind == WorldType.MOON:
            moons.append(moon)
    return tuple(moons)
