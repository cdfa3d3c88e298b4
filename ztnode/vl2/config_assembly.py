"""Puts configurations together from their chunks, within bounds. Source: reference Network::handleConfigChunk."""

from __future__ import annotations

from collections import deque
from typing import Final

from ztnode.wire.config_chunk import ConfigChunk
from ztnode.wire.dictionary import MAX_DICTIONARY_SIZE

MAX_UPDATES: Final = 3
"""Updates that may be incomplete at the same time; the oldest makes room."""
MAX_CHUNKS: Final = MAX_DICTIONARY_SIZE // 1024 + 1
"""Chunks of one update."""
_REMEMBERED: Final = 64


class ConfigAssembler:
    """Only chunks with a valid signature may be added: they alone may take memory."""

    def __init__(self) -> None:
        self._updates: dict[int, dict[int, bytes]] = {}
        self._complete: deque[int] = deque(maxlen=_REMEMBERED)

    def has(self, chunk: ConfigChunk) -> bool:
        """True for a chunk that is here already or belongs to a complete update: it need not be looked at again, and
        must not be passed on again, or it would run around the network for ever."""
        parts = self._updates.get(chunk.update_id, {})
        return chunk.update_id in self._complete or parts.get(chunk.index) == chunk.data

    def add(self, chunk: ConfigChunk) -> bytes | None:
        """Take a chunk; the whole dictionary once nothing is missing, else None."""
        parts = self._updates.get(chunk.update_id)
        if parts is None:
            while len(self._updates) >= MAX_UPDATES:
                del self._updates[next(iter(self._updates))]
            parts = self._updates[chunk.update_id] = {}
        if len(parts) >= MAX_CHUNKS:
            return None
        parts[chunk.index] = chunk.data
        position = 0
        ordered = []
        for index in sorted(parts):
            if index != position:
                return None
            ordered.append(parts[index])
            position += len(parts[index])
        if position != chunk.total_length:
            return None
        del self._updates[chunk.update_id]
        self._complete.append(chunk.update_id)
        return b"".join(ordered)
