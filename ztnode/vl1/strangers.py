"""HELLO from somebody unknown: what it must pass before it may cost anything.

To believe an identity takes the memory-hard hash, a tenth of a second or more. So the order is: gates, then the MAC
(which proves that the sender holds the key, for the price of a key agreement), then a root's word if one can be asked,
and the hash only if not. An identity that failed is remembered for a while.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Final

from ztnode.token_bucket import TokenBucket
from ztnode.vl1.gates import KeyedBucket, source_network
from ztnode.vl1.peer import Peer
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.wire_error import WireError

PATIENCE: Final = 2
"""WHOIS requests sent before the hash is computed after all."""
AGREEMENT_RATE: Final = (1000.0, 1000.0)
"""Key agreements with strangers, of 0.1 ms: per second, and at once."""
SLICES: Final = 256
SLICE_RATE: Final = (4.0, 8.0)
"""When these are used up, each of so many parts of all networks has a few more for itself: whoever floods us from some
dozens of networks takes the common ones, but from a few parts alone these. Which networks share a part nobody can tell
who does not know our secret."""
AGREEMENT_RATE_PER_NETWORK: Final = (20.0, 128.0)
"""Of these, what one /24 or /48 may cause."""
RETURN_RATE_PER_NETWORK: Final = (100.0, 512.0)
"""The same for peers of an earlier run."""
_MAX_REJECTED: Final = 1024


class Strangers:
    """The gates in front of key agreement, and the memory of identities that failed."""

    def __init__(self, identity: Identity, counters: Counter[str]) -> None:
        self._identity = identity
        self._counters = counters
        self._agreements = TokenBucket(*AGREEMENT_RATE)
        self._slices = KeyedBucket(*SLICE_RATE, SLICES)
        self._slice_key = (identity.secret or identity.public)[:64]
        self._agreements_by_network = KeyedBucket(*AGREEMENT_RATE_PER_NETWORK, 4096)
        self._returns_by_network = KeyedBucket(*RETURN_RATE_PER_NETWORK, 4096)
        self._rejected: dict[bytes, None] = {}

    def admits(self, endpoint: Endpoint, now: float, *, is_known: bool) -> bool:
        """Whether a HELLO from there is to be looked into; if so, it is counted. Asked before anything in it is read.
        ``is_known``: its address is one of an earlier run: such peers come back all at once, when this node starts
        again, and often from one network."""
        by_network = self._returns_by_network if is_known else self._agreements_by_network
        network = source_network(endpoint[0])
        if by_network.admit(network, now) and self._admits(network, now):
            return True
        self._counters["drop_rate_identity"] += 1
        return False

    def candidate(self, identity: Identity, hello: bytes) -> Peer | None:
        """The peer that a HELLO in the clear claims to come from, if the HELLO's MAC shows that its sender holds the
        identity's key. Whether the address belongs to that key is not known yet."""
        if identity.public in self._rejected:
            self._counters["drop_invalid_identity"] += 1
            return None
        peer = self.agree(identity)
        if peer is None:
            self._counters["drop_invalid_identity"] += 1
        elif peer.keys.open(hello) is None:
            self._counters["drop_forged"] += 1
            return None
        return peer

    def _admits(self, network: bytes, now: float) -> bool:
        if self._agreements.admit(now):
            return True
        part = blake2b(network, digest_size=2, key=self._slice_key).digest()
        return self._slices.admit(int.from_bytes(part, "big") % SLICES, now)

    def agree(self, identity: Identity) -> Peer | None:
        """A peer with this identity, in no table yet; None if no key can be agreed upon."""
        try:
            return Peer(identity, PeerKeys(self._identity.agree(identity)))
        except WireError:
            return None

    def reject(self, identity: Identity) -> None:
        """The address does not belong to the key: hear no more of it."""
        self._counters["drop_invalid_identity"] += 1
        if len(self._rejected) >= _MAX_REJECTED:
            del self._rejected[next(iter(self._rejected))]
        self._rejected[identity.public] = None
