"""Making, signing and showing worlds: what ``ztnode world create`` and ``ztnode world show`` do, without the I/O.

A world is a signed list of roots. Nodes replace the planet or moon they have by one with the same world id and a later
timestamp that is signed by the key which the old one names, so whoever makes a world keeps its signing key: a small
JSON file that only its owner may read. It has the form of what ``zerotier-idtool initmoon`` prints and ``genmoon``
reads, so that either tool goes on with what the other one began.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ztnode.wire import c25519
from ztnode.wire.address import format_address
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import MAX_ROOTS, MAX_STABLE_ENDPOINTS, PLANET_ID_EARTH, Root, World, WorldType, format_world_id

_ENDPOINT: Final = re.compile(r"(?:\[(?P<v6>[^]]+)\]:|(?P<slashed>[^/]+)/|(?P<v4>[0-9.]+):)(?P<port>[0-9]{1,5})")
_WORLD_ID_BITS: Final = 64


class WorldToolError(ValueError):
    """Input that no world can be made of; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class WorldSecret:
    """The signing key of a world and the world id that it signs for. Belongs in a file with mode 0600."""

    world_id: int
    public: bytes
    """64 bytes."""
    secret: bytes = field(repr=False)
    """64 bytes."""
    type: WorldType = WorldType.PLANET
    roots: tuple[Root, ...] = ()
    """The roots of a definition as ``initmoon`` prints it and its owner completes it, or as they were signed last."""

    @classmethod
    def generate(
        cls, random: Callable[[int], bytes], world_id: int | None = None, type: WorldType = WorldType.PLANET
    ) -> WorldSecret:
        """A new key; ``world_id`` None: a random one. ``random`` has ``os.urandom``'s shape. Raises WorldToolError."""
        if world_id is None:
            world_id = PLANET_ID_EARTH
            while world_id in (0, PLANET_ID_EARTH):
                world_id = int.from_bytes(random(4), "big")
        if not 0 < world_id < 1 << _WORLD_ID_BITS:
            raise WorldToolError(f"a world id is a number from 1 to {(1 << _WORLD_ID_BITS) - 1}")
        secret = random(c25519.SECRET_LENGTH)
        return cls(world_id, c25519.derive_public(secret), secret, type)

    @classmethod
    def from_json(cls, data: bytes) -> WorldSecret:
        """Read what ``to_json`` wrote, or ``zerotier-idtool initmoon``. Raises WorldToolError."""
        try:
            document = json.loads(data)
            kind = WorldType[str(document.get("worldType", "planet")).upper()]
            world_id = int(document["id"], 16)
            public, secret = bytes.fromhex(document["signingKey"]), bytes.fromhex(document["signingKey_SECRET"])
            roots = tuple(_root_of(entry) for entry in document.get("roots", ()))
        except WorldToolError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise WorldToolError("not the secret of a world: JSON with id, signingKey and signingKey_SECRET") from None
        if len(secret) != c25519.SECRET_LENGTH or c25519.derive_public(secret) != public:
            raise WorldToolError("the secret of the world does not fit its public key")
        if not 0 < world_id < 1 << _WORLD_ID_BITS:
            raise WorldToolError("the secret of the world names no valid world id")
        return cls(world_id, public, secret, kind, roots)

    def to_json(self, roots: Sequence[Root] = ()) -> bytes:
        """The contents of the secret file of a world with these roots, as ``genmoon`` takes them too."""
        document = {
            "objtype": "world",
            "worldType": self.type.name.lower(),
            "id": format_world_id(self.world_id),
            "signingKey": self.public.hex(),
            "signingKey_SECRET": self.secret.hex(),
            "updatesMustBeSignedBy": self.public.hex(),
            "roots": [
                {
                    "identity": root.identity.build_text(),
                    "stableEndpoints": [f"{ip}/{port}" for ip, port in root.endpoints],
                }
                for root in roots
            ],
        }
        return (json.dumps(document, indent=1) + "\n").encode()


def parse_endpoint(text: str) -> Endpoint:
    """``10.0.0.1/9993`` (as ZeroTier writes it), ``10.0.0.1:9993``, ``[fd00::1]:9993`` or ``fd00::1/9993``.
    Raises WorldToolError."""
    match = _ENDPOINT.fullmatch(text.strip())
    if match is not None:
        try:
            address = ipaddress.ip_address(match["v6"] or match["slashed"] or match["v4"])
        except ValueError:
            pass
        else:
            port = int(match["port"])
            usable = not (address.is_unspecified or address.is_multicast) and "%" not in text
            if usable and 0 < port <= 0xFFFF:
                return str(address), port
    raise WorldToolError(f"{text!r} is not an endpoint such as 203.0.113.7/9993 or [2001:db8::7]:9993")


def parse_root(identity_text: str, endpoints: Sequence[str]) -> Root:
    """A root from the contents of its ``identity.public`` (or ``identity.secret``) and up to 32 endpoints as text.
    The identity's proof of work is checked. Raises WorldToolError."""
    try:
        identity = Identity.parse_text(identity_text)
    except WireError as error:
        raise WorldToolError(str(error)) from None
    if not identity.validate():
        raise WorldToolError(
            f"the identity {format_address(identity.address)} is not valid: its address does not fit its key"
        )
    parsed = tuple(dict.fromkeys(parse_endpoint(text) for text in endpoints))
    if len(parsed) > MAX_STABLE_ENDPOINTS:
        raise WorldToolError(f"{format_address(identity.address)} has more than {MAX_STABLE_ENDPOINTS} endpoints")
    return Root(identity.without_secret(), parsed)


def create_world(roots: Sequence[Root], secret: WorldSecret, timestamp: int) -> bytes:
    """A signed planet or moon file, as ``secret`` says which. ``timestamp``: Unix milliseconds. One to four roots;
    those of a moon may be without endpoints, and are then looked for through the planet's. Raises WorldToolError."""
    addresses = [root.identity.address for root in roots]
    name = secret.type.name.lower()
    if not 1 <= len(addresses) <= MAX_ROOTS:
        raise WorldToolError(f"a {name} has 1 to {MAX_ROOTS} roots, not {len(addresses)}")
    if len(set(addresses)) != len(addresses):
        raise WorldToolError("a root is named twice")
    lost = next((root for root in roots if not root.endpoints), None)
    if lost is not None and secret.type is WorldType.PLANET:
        raise WorldToolError(f"the root {format_address(lost.identity.address)} needs an endpoint: IDENTITY@IP/PORT")
    try:
        world = World.sign(
            secret.type,
            secret.world_id,
            timestamp,
            secret.public,
            roots,
            public=secret.public,
            secret=secret.secret,
        )
    except ValueError as error:
        raise WorldToolError(str(error)) from None
    return world.build()


def update_world(previous: bytes, secret: WorldSecret, timestamp: int, roots: Sequence[Root] | None = None) -> bytes:
    """A world that nodes with ``previous`` will take in its place: same id, signed by the key it names, and later
    (``timestamp``, or one millisecond after the old one where the clock is behind). ``roots`` None: as they were.
    Raises WorldToolError, also where ``secret`` is not the key of ``previous``."""
    old = _parse(previous)
    name, wanted = old.type.name.lower(), secret.type.name.lower()
    if old.type is not secret.type:
        raise WorldToolError(f"this world is a {name}, and the secret that of a {wanted}")
    if old.id != secret.world_id or old.updates_signed_by != secret.public:
        raise WorldToolError(f"the {name} names another key for its updates: this secret does not belong to it")
    return create_world(old.roots if roots is None else roots, secret, max(timestamp, old.timestamp + 1))


def describe_world(data: bytes) -> dict[str, Any]:
    """A world file for people and for ``--json``: worldType, id, timestamp (Unix milliseconds), signature,
    updatesMustBeSignedBy and roots with ``address``, ``identity`` and ``stableEndpoints``. Raises WorldToolError."""
    world = _parse(data)
    return {
        "objtype": "world",
        "worldType": world.type.name.lower(),
        "id": format_world_id(world.id),
        "timestamp": world.timestamp,
        "updatesMustBeSignedBy": world.updates_signed_by.hex(),
        "signature": world.signature.hex(),
        "selfSigned": world.is_signed_by(world.updates_signed_by),
        "roots": [
            {
                "address": format_address(root.identity.address),
                "identity": root.identity.build_text(),
                "stableEndpoints": [f"{ip}/{port}" for ip, port in root.endpoints],
            }
            for root in world.roots
        ],
    }


def _root_of(entry: dict[str, Any]) -> Root:
    return parse_root(str(entry["identity"]), [str(text) for text in entry.get("stableEndpoints", ())])


def _parse(data: bytes) -> World:
    try:
        return World.parse(data)
    except WireError as error:
        raise WorldToolError(str(error)) from None
