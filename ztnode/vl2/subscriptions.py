"""Who has subscribed to which multicast groups of one network. Source: reference Multicaster.cpp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ztnode.wire.multicast import MulticastGroup

LIKE_EXPIRE: Final = 600.0
"""Seconds for which a subscription holds (ZT_MULTICAST_LIKE_EXPIRE)."""
MAX_GROUPS: Final = 8192
MAX_MEMBERS: Final = 4096
"""Of one group; also as many as one answer may list."""
_MAX_LISTED: Final = 1024
"""Addresses in one answer: 5 bytes each, well below the largest packet."""


class Subscriptions:
    """Groups and their members, each with the time of the last word from it."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[MulticastGroup, dict[int, float]] = {}

    def add(self, group: MulticastGroup, member: int, now: float) -> None:
        """``member`` wants ``group``. Does nothing when the tables are full."""
        members = self._groups.get(group)
        if members is None:
            if len(self._groups) >= MAX_GROUPS:
                return
            members = self._groups[group] = {}
        if member in members or len(members) < MAX_MEMBERS:
            members[member] = now

    def remove(self, group: MulticastGroup, member: int) -> None:
        """``member`` no longer wants ``group``."""
        members = self._groups.get(group)
        if members is not None:
            members.pop(member, None)
            if not members:
                del self._groups[group]

    def members(self, group: MulticastGroup) -> list[int]:
        """All known members of ``group``."""
        return list(self._groups.get(group, ()))

    def gather(
        self, group: MulticastGroup, asker: int, limit: int, random: Callable[[int], bytes]
    ) -> tuple[int, list[int]]:
        """How many members are known, and up to ``limit`` of them without ``asker``, at random if there are more."""
        members = self.members(group)
        total = len(members)
        others = [member for member in members if member != asker]
        return total, sample(others, min(limit, _MAX_LISTED), random)

    def expire(self, now: float) -> None:
        """Forget those that have been silent for too long."""
        for group, members in list(self._groups.items()):
            for silent in [member for member, heard in members.items() if now - heard >= LIKE_EXPIRE]:
                del members[silent]
            if not members:
                del self._groups[group]

    def __len__(self) -> int:
        return len(self._groups)


def sample(items: list[int], count: int, random: Callable[[int], bytes]) -> list[int]:
    """``count`` of ``items`` in random order; all of them, as they are, if there are no more."""
    if len(items) <= count:
        return items
    for at in range(count):
        other = at + int.from_bytes(random(4), "big") % (len(items) - at)
        items[at], items[other] = items[other], items[at]
    return items[:count]
