"""Room that nobody takes alone."""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator


class Shares:
    """How much of some room each peer has."""

    def __init__(self, most: int) -> None:
        """``most``: for one peer, at a time."""
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, peer: str) -> Iterator[bool]:
        """Room for the peer at this address as long as the context lasts; False: it has its share already."""
        who = _member(peer)
        if self._taken[who] >= self._most:
            yield False
            return
        self._taken[who] += 1
        try:
            yield True
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


def _member(peer: str) -> str:
    """Who is behind an address: a member has the whole /80 of a 6PLANE network (fc00::/8) for itself."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    if address.version == 6 and address.packed[0] == 0xFC:
        return str(ipaddress.ip_network((address, 80), strict=False))
    return peer
