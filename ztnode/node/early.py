"""What the roots, and whoever else, say before the layers that take it are loaded."""

from __future__ import annotations

from typing import Final

from ztnode.hookspecs import Datagrams

MAX_BYTES: Final = 1 << 20
"""The answers of a few roots are hundreds of bytes; the rest is anybody's, and a controller may load for seconds."""


class Early:
    """Batches in the order in which they came; what is beyond ``MAX_BYTES`` is dropped and counted."""

    def __init__(self) -> None:
        self.dropped = 0
        """Datagrams."""
        self._batches: list[Datagrams] = []
        self._bytes = 0

    def hold(self, datagrams: Datagrams) -> None:
        """Keep a batch, or none of it."""
        size = sum([len(data) for data, _ in datagrams])
        if self._bytes + size > MAX_BYTES:
            self.dropped += len(datagrams)
            return
        self._bytes += size
        self._batches.append(datagrams)

    def take(self) -> list[Datagrams]:
        """All that is kept."""
        batches, self._batches = self._batches, []
        self._bytes = 0
        return batches
