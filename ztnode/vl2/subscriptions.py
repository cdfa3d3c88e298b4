"""Who has subscribed to which multicast groups. Source: reference Multicaster.cpp."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

LIKE_EXPIRE: Final = 600.0
"""Seconds for which a subscription holds (ZT_MULTICAST_LIKE_EXPIRE)."""
MAX_SUBSCRIPTIONS: Final = 32768
"""Of one network. A subscription takes up to half a kilobyte."""
MAX_MEMBERS: Final = 4096
"""Of one group; also as many as one answer may list."""
_MAX_LISTED: Final = 1024
"""Addresses in one answer: 5 bytes each, well below the largest packet."""

G = TypeVar("G", bound=Hashable)


class Subscriptions(Generic[G]):
    """Groups and their members, each with the time of the last word from it.

    A member may subscribe to whatever it likes, so one must not be able to use the table up for the others: when it is
    full, the member with the most subscriptions loses all of its own.
    """

    __slots__ = ("_capacity", "_count", "_groups", "_groups_of")

    def __init__(self, capacity: int = MAX_SUBSCRIPTIONS) -> None:
        self._capacity = capacity
        self._count = 0
        self._groups: dict[G, dict[int, float]] = {}
        self._groups_of: dict[int, set[G]] = {}

    def add(self, group: G, member: int, now: float) -> None:
        """``member`` wants ``group``. Does nothing when the group is full."""
        members = self._groups.get(group, {})
        if member not in members:
            if len(members) >= MAX_MEMBERS:
                return
            if self._count >= self._capacity:
                self._forget_greediest()
            self._groups_of.setdefault(member, set()).add(group)
            self._count += 1
            members = self._groups.setdefault(group, {})
        members[member] = now

    def remove(self, group: G, member: int) -> None:
        """``member`` no longer wants ``group``."""
        members = self._groups.get(group, {})
        if member not in members:
            return
        del members[member]
        if not members:
            del self._groups[group]
        groups = self._groups_of[member]
        groups.discard(group)
        if not groups:
            del self._groups_of[member]
        self._count -= 1

    def members(self, group: G) -> list[int]:
        """All known members of ``group``."""
        return list(self._groups.get(group, ()))

    def gather(self, group: G, asker: int, limit: int, random: Callable[[int], bytes]) -> tuple[int, list[int]]:
        """How many members are known, and up to ``limit`` of them without ``asker``, at random if there are more."""
        members = self.members(group)
        total = len(members)
        others = [member for member in members if member != asker]
        return total, sample(others, min(limit, _MAX_LISTED), random)

    def expire(self, now: float) -> None:
        """Forget those that have been silent for too long."""
        silent = [
            (group, member)
            for group, members in self._groups.items()
            for member, heard in members.items()
            if now - heard >= LIKE_EXPIRE
        ]
        for group, member in silent:
            self.remove(group, member)

    def __len__(self) -> int:
        return self._count

    def _forget_greediest(self) -> None:
        greediest = max(self._groups_of, key=lambda member: len(self._groups_of[member]))
        for group in list(self._groups_of[greediest]):
            self.remove(group, greediest)


def sample(items: list[int], count: int, random: Callable[[int], bytes]) -> list[int]:
    """``count`` of ``items`` in random order; all of them, as they are, if there are no more."""
    if len(items) <= count:
        return items
    for at in range(count):
        other = at + int.from_bytes(random(4), "big") % (len(items) - at)
        items[at], items[other] = items[other], items[at]
    return items[:count]
