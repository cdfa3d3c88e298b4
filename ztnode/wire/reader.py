"""A bounds-checked cursor over received bytes: the one place where codecs notice that a message is too short.

Everything in ZeroTier's protocol is big endian. The cursor is for control messages; the hot path reads its few
header fields by slicing (see ``packet.py``).
"""

from __future__ import annotations

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError


class Reader:
    """Reads big-endian fields one after the other. Every method raises WireError when the bytes run out."""

    __slots__ = ("_data", "position")

    def __init__(self, data: Buffer, position: int = 0) -> None:
        if not 0 <= position <= len(data):
            raise WireError("starts outside the message")
        self._data = data
        self.position = position

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.position

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, copied."""
        start = self.position
        self.skip(count)
        return bytes(self._data[start : self.position])

    def rest(self) -> bytes:
        """All that is left, copied."""
        return self.take(self.remaining)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        end = self.position + count
        if end > len(self._data):
            raise WireError(f"needs {count} bytes at {self.position}, has {self.remaining}")
        self.position = end

    def unsigned(self, width: int) -> int:
        """An unsigned integer of ``width`` bytes."""
        return int.from_bytes(self.take(width), "big")

    def u8(self) -> int:
        """One byte."""
        return self.unsigned(1)

    def u16(self) -> int:
        """Two bytes."""
        return self.unsigned(2)

    def u32(self) -> int:
        """Four bytes."""
        return self.unsigned(4)

    def u64(self) -> int:
        """Eight bytes."""
        return self.unsigned(8)

    def address(self) -> int:
        """A 40-bit ZeroTier address."""
        return self.unsigned(5)
