"""Sums of 32-bit words in machine order, not reduced: what ``checksum`` has numpy do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ztnode.wire.buffer import Buffer


def whole_sum(data: Buffer, length: int) -> int:
    """Of the first ``length`` bytes, a multiple of four."""
    return int(np.add.reduce(np.frombuffer(data, np.uint32, length >> 2), dtype=np.uint64))


def region_sums(words: Buffer, starts: Sequence[int]) -> list[int]:
    """See ``checksum.batch_sums``; ``starts`` is not empty."""
    sums: list[int] = np.add.reduceat(np.frombuffer(words, np.uint32), starts, dtype=np.uint64).tolist()
    return sums
