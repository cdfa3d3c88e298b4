"""A bounds-checked cursor over received bytes, and the integer packers that go with it.

Everything in ZeroTier's protocol is big endian. The cursor is for control messages; the hot path reads its few
header fields by slicing (see ``packet.py``).
"""

from __future__ import annotations

from typing import TypeAlias

from ztnode.wire.errors import WireError

Buffer: TypeAlias = bytes | bytearray | memoryview


class Reader:
    """Reads fields from ``data`` in order, starting at byte ``offset``; raises WireError past the end."""

    __slots__ = ("_data", "offset")

    def __init__(self, data: Buffer, offset: int = 0) -> None:
        if not 0 <= offset <= len(data):
            raise WireError("offset lies outside the message")
        self._data = data
        self.offset = offset

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.offset

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes, copied."""
        end = self.offset + length
        if length < 0 or end > len(self._data):
            raise WireError(f"truncated: {length} bytes wanted, {self.remaining} left")
        chunk = bytes(self._data[self.offset : end])
        self.offset = end
        return chunk

    def rest(self) -> bytes:
        """All that is left, copied."""
        return self.take(self.remaining)

    def skip(self, length: int) -> None:
        """Pass over ``length`` bytes."""
        if length < 0 or self.offset + length > len(self._data):
            raise WireError(f"truncated: {length} bytes wanted, {self.remaining} left")
        self.offset += length

    def uint(self, length: int) -> int:
        """A big-endian unsigned integer of ``length`` bytes."""
        return int.from_bytes(self.take(length), "big")

    def u8(self) -> int:
        """One byte."""
        if self.offset >= len(self._data):
            raise WireError("truncated: 1 byte wanted, 0 left")
        value = self._data[self.offset]
        self.offset += 1
        return value

    def u16(self) -> int:
        """Two bytes."""
        return self.uint(2)

    def u32(self) -> int:
        """Four bytes."""
        return self.uint(4)

    def address(self) -> int:
        """A 40-bit ZeroTier address."""
        return self.uint(5)

    def u64(self) -> int:
        """Eight bytes."""
        return self.uint(8)
