"""What name servers are asked for, and what they say."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """Records that hold addresses, by their numbers (RFC 1035 section 3.2.2, RFC 3596 section 2.1)."""

    A = 1
    AAAA = 28


class Answer(NamedTuple):
    """What a server said. ``addresses``: of the kind asked for, none where there are none. ``exists`` False: no such
    name. ``canonical``: where the aliases led, with no dot at its end. ``ttl`` in seconds."""

    addresses: tuple[str, ...]
    exists: bool
    canonical: str
    ttl: int
