"""What ICMP said about the path MTU to remote addresses (RFC 1191, RFC 8201)."""

from __future__ import annotations

from typing import Final, TypeAlias

from ztnode.wire.ipv6 import MINIMUM_MTU

Key: TypeAlias = tuple[int, bytes]
"""(port index, remote address)."""

FLOOR_IPV4: Final = 552
"""A router that claims less is wrong or an attacker (Linux' min_pmtu; RFC 1191 section 3 allows to 68)."""
FLOOR_IPV6: Final = MINIMUM_MTU


class PathMtuCache:
    """Bounded; the oldest entry goes first. ``timeout``: seconds until the full size may be tried again (RFC 1191
    section 6.3, RFC 8201 section 4: 10 minutes)."""

    def __init__(self, entries: int = 1024, timeout: float = 600.0) -> None:
        self._entries = entries
        self._timeout = timeout
        self.mtus: dict[Key, tuple[int, float]] = {}
        """In order of expiry; empty: there is no timer."""

    def get(self, key: Key, default: int) -> int:
        """The MTU in bytes, at most ``default``."""
        entry = self.mtus.get(key)
        return min(entry[0], default) if entry else default

    def lower(self, key: Key, mtu: int, current: int, now: float) -> int | None:
        """Remember a reported MTU; what to use from now on, or None when the report changes nothing.

        A report may only ever lower the value, and never below the floor (RFC 8201 section 4, RFC 5927 section 7).
        """
        mtu = max(mtu, FLOOR_IPV4 if len(key[1]) == 4 else FLOOR_IPV6)
        if mtu >= current:
            return None
        self.mtus.pop(key, None)
        while len(self.mtus) >= self._entries:
            del self.mtus[next(iter(self.mtus))]
        self.mtus[key] = (mtu, now + self._timeout)
        return mtu

    def next_timer(self) -> float | None:
        """When the oldest entry expires."""
        for _, expiry in self.mtus.values():
            return expiry
        return None

    def handle_timer(self, now: float) -> list[Key]:
        """Forget what is too old; which paths may try their full size again."""
        expired: list[Key] = []
        for key, (_, expiry) in self.mtus.items():
            if expiry > now:
                break
            expired.append(key)
        for key in expired:
            del self.mtus[key]
        return expired
