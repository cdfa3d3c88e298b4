"""Which packet ids of a peer have come: what tells a duplicate or a replay. Bounded, and without a clock."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from typing import Final

_ID: Final = struct.Struct("8s")


class SeenIds:
    """Two generations of ids: when the newer one is full, the older one is forgotten."""

    __slots__ = ("_before", "_ids", "limit")

    def __init__(self, limit: int) -> None:
        """``limit``: ids in one generation; one takes 110 bytes."""
        self._ids: set[bytes] = set()
        self._before: set[bytes] = set()
        self.limit = limit

    def __len__(self) -> int:
        return len(self._ids) + len(self._before)

    def is_new(self, wire_id: bytes) -> bool:
        """Note an id; False if it was seen before."""
        if wire_id in self._ids or wire_id in self._before:
            return False
        self.note(wire_id)
        return True

    def note(self, wire_id: bytes) -> None:
        """Note an id of which the caller knows that it is new."""
        ids = self._ids
        ids.add(wire_id)
        if len(ids) >= self.limit:
            self._before = ids
            self._ids = set()

    def note_all(self, wire_ids: Iterable[bytes]) -> None:
        """Note ids of which the caller knows that they are new."""
        ids = self._ids
        ids.update(wire_ids)
        if len(ids) >= self.limit:
            self._before = ids
            self._ids = set()

    def has_any(self, wire_ids: set[bytes]) -> bool:
        """Whether one of them was seen before."""
        return not (wire_ids.isdisjoint(self._ids) and wire_ids.isdisjoint(self._before))

    def __contains__(self, wire_id: bytes) -> bool:
        return wire_id in self._ids or wire_id in self._before

    def add(self, wire_ids: bytes | memoryview) -> None:
        """Note ids that somebody else has seen, 8 bytes each, one after the other."""
        # By the thousand, and most often all new: sets do that without a call for each.
        whole = len(wire_ids) - len(wire_ids) % _ID.size
        new = list(itertools.chain.from_iterable(_ID.iter_unpack(wire_ids[:whole])))
        if len(self._ids) + len(new) < self.limit:
            self._ids.update(itertools.filterfalse(self._before.__contains__, new))
        else:
            for wire_id in new:
                self.is_new(wire_id)

    def some(self, count: int) -> list[bytes]:
        """So many ids at the most, those of the newer generation first."""
        return list(itertools.islice(itertools.chain(self._ids, self._before), count))

    def resize(self, limit: int) -> None:
        """How many ids make a generation from now on."""
        if len(self._ids) >= limit or len(self._before) > limit:
            self._before = self._ids if len(self._ids) <= limit else set()
            self._ids = set()
        self.limit = limit

    def clear(self) -> None:
        """Forget all."""
        self._ids.clear()
        self._before.clear()
