"""A shared-memory ring whose other side went mad: any memory gives records within it, or says that it is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from ztnode.ring import MIN_CAPACITY, Ring, RingCorrupt


def fuzz(data: bytes) -> None:
    """Pieces: 0 overwrites records, 1 and 2 an index, 3 writes a record, 4 reads."""
    ring = Ring.create(MIN_CAPACITY)
    try:
        for selector, content in split(data):
            match selector & 7:
                case 0:
                    part = content[: ring.capacity]
                    ring._data[: len(part)] = part
                case 1 | 2:
                    ring._indices[(selector & 3) - 1] = int.from_bytes(content[:8], "little")
                case 3:
                    with contextlib.suppress(ValueError):
                        ring.write_many([(selector, (content[:1000],))])
                case _:
                    total = 0
                    while records := ring.read():
                        total += sum(8 + len(view) for _, view in records)
                        assert total <= ring.capacity
                        ring.release()
    except RingCorrupt:
        pass
    finally:
        records = []
        ring.close()


def seeds() -> Iterator[bytes]:
    """Records, and damage to them."""
    yield join((3, b"x" * 100), (3, b"y" * 900), (4, b""), (3, b"z"), (4, b""))
    yield join((3, b"x" * 8), (0, bytes(64)), (1, b"\x40"), (4, b""))
    yield join((3, b"x" * 8), (2, b"\x08"), (4, b""))
