"""Making, signing and showing worlds: what ``ztnode world create`` and ``ztnode world show`` do, without the I/O.

A planet is a signed list of roots. Nodes replace the planet they have by one with the same world id and a later
timestamp that is signed by the key which the old one names, so whoever makes a planet keeps its signing key: a small
JSON file (the field names are those of ``zerotier-idtool initmoon``) that only its owner may read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.world import World


class WorldToolError(ValueError):
    """Input that no world can be made of; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Root:
    """One root: its public identity and where it can be reached, 1 to 32 endpoints."""

    identity: Identity
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class WorldSecret:
    """The signing key of a world and the id that it signs for. Belongs in a file with mode 0600."""

    world_id: int
    public: bytes
    """64 bytes."""
    secret: bytes
    """64 bytes."""

    @classmethod
    def generate(cls, random: Callable[[int], bytes], world_id: int | None = None) -> WorldSecret:
        """A new key; ``world_id`` None: a random one. ``random`` is shaped like ``os.urandom``."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: bytes) -> WorldSecret:
        """Read what ``to_json`` wrote. Raises WorldToolError."""
        raise NotImplementedError

    def to_json(self) -> bytes:
        """The contents of the secret file."""
        raise NotImplementedError


def parse_endpoint(text: str) -> Endpoint:
    """``10.0.0.1/9993`` (as ZeroTier writes it), ``10.0.0.1:9993``, ``[fd00::1]:9993`` or ``fd00::1/9993``.
    Raises WorldToolError."""
    raise NotImplementedError


def parse_root(identity_text: str, endpoints: Sequence[str]) -> Root:
    """A root from the contents of its ``identity.public`` (or ``identity.secret``) and its endpoints as text.
    The identity's proof of work is checked. Raises WorldToolError."""
    raise NotImplementedError


def create_planet(roots: Sequence[Root], secret: WorldSecret, timestamp: int) -> bytes:
    """A signed planet file. ``timestamp``: Unix milliseconds. One to four roots. Raises WorldToolError."""
    raise NotImplementedError


def update_planet(previous: bytes, secret: WorldSecret, timestamp: int, roots: Sequence[Root] | None = None) -> bytes:
    """A planet that nodes with ``previous`` will take in its place: same id, signed by the key it names, and later
    (``timestamp``, or one millisecond after the old one where the clock is behind). ``roots`` None: as they were.
    Raises WorldToolError, also where ``secret`` is not the key of ``previous``."""
    raise NotImplementedError


def describe_world(data: bytes) -> dict[str, Any]:
    """A world file for people and for ``--json``: type, id, timestamp, signingKey, updatesMustBeSignedBy and roots
    with ``address``, ``identity`` and ``stableEndpoints``. Raises WorldToolError."""
    raise NotImplementedError
