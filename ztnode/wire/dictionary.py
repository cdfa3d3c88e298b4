"""The ZeroTier dictionary: ``key=value`` lines that carry network configurations, request metadata and SSO details.

Keys are plain text. In values the bytes NUL, CR, LF, ``\\`` and ``=`` are written ``\\0 \\r \\n \\\\ \\e``; any other
byte stands for itself, so values may be binary. Integers are hexadecimal text. Source: reference Dictionary.hpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

MAX_DICTIONARY_SIZE: Final = 512 * 1024
"""Largest dictionary read, in bytes; the reference's room for a full-size network configuration is about 400 KB."""

MAX_LINES: Final = 4096
"""Lines read; a configuration has some thirty."""

_ESCAPED: Final = ((b"\\", b"\\\\"), (b"\x00", b"\\0"), (b"\r", b"\\r"), (b"\n", b"\\n"), (b"=", b"\\e"))
"""In this order: the backslashes that it writes must not be escaped again."""
_UNESCAPED: Final = (
    # A line has no line feed in it, which so can mark what must not be read twice.
    (b"\\\\", b"\n1"),
    (b"\\n", b"\n2"),
    (b"\\0", b"\x00"),
    (b"\\r", b"\r"),
    (b"\\e", b"="),
    (b"\\", b""),
    (b"\n1", b"\\"),
    (b"\n2", b"\n"),
)
_TO_ESCAPE: Final = re.compile(rb"[\x00\r\n\\=]")
_LINE_END: Final = re.compile(rb"[\r\n]")
_HEX: Final = re.compile(rb"\s*([+-]?)(?:0[xX])?([0-9a-fA-F]*)")
_U64_MAX: Final = (1 << 64) - 1


def _escape(value: bytes) -> bytes:
    for byte, escape in _ESCAPED:
        value = value.replace(byte, escape)
    return value


def _unescape(value: bytes) -> bytes:
    """By whole passes over the value, not match by match: half a megabyte may consist of nothing else. A backslash
    before anything else, or at the very end, vanishes, as in the reference."""
    if b"\\" in value:
        for escape, meaning in _UNESCAPED:
            value = value.replace(escape, meaning)
    return value


class Dictionary(Mapping[str, bytes]):
    """An ordered map of keys to raw values. Unknown keys are kept, so a dictionary survives decode and encode whole.

    Keys are decoded as Latin-1: every byte string is a legal key on the wire and none may raise.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, bytes] | None = None) -> None:
        self._items: dict[str, bytes] = dict(items or {})

    @classmethod
    def parse(cls, data: Buffer, limit: int = MAX_DICTIONARY_SIZE) -> Dictionary:
        """Parse ``data`` up to its first NUL. The first occurrence of a key counts; lines without ``=`` are ignored.

        Raises WireError if ``data`` is longer than ``limit`` bytes or has more than ``MAX_LINES`` lines.
        """
        if len(data) > limit:
            raise WireError(f"dictionary of {len(data)} bytes exceeds {limit}")
        text, _, _ = bytes(data).partition(b"\x00")
        if text.count(b"\n") + text.count(b"\r") > MAX_LINES:
            raise WireError("dictionary of too many lines")
        result = cls()
        items = result._items
        for line in _LINE_END.split(text):
            key, separator, value = line.partition(b"=")
            if separator:
                items.setdefault(key.decode("latin-1"), _unescape(value))
        return result

    def build(self) -> bytes:
        """The wire form. Raises ValueError for a key that cannot be written."""
        lines = []
        for key, value in self._items.items():
            raw = key.encode("latin-1")
            if _TO_ESCAPE.search(raw.replace(b"\\", b"")):
                raise ValueError(f"illegal dictionary key {key!r}")
            lines.append(raw + b"=" + _escape(value))
        return b"\n".join(lines)

    def __getitem__(self, key: str) -> bytes:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Dictionary({self._items!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dictionary) and self._items == other._items

    def integer(self, key: str) -> int:
        """A signed 64-bit hexadecimal value, as C's strtoll reads it: 0 if it is none, saturated if it is too big."""
        value = self._items.get(key)
        if not value:
            return 0
        match = _HEX.match(value[:127])
        if match is None or not match[2]:
            return 0
        magnitude = int(match[2], 16)
        return max(-magnitude, -(1 << 63)) if match[1] == b"-" else min(magnitude, (1 << 63) - 1)

    def unsigned(self, key: str, default: int = 0) -> int:
        """An unsigned 64-bit hexadecimal value, as C's strtoull reads it: 0 if it is none, saturated if too big."""
        value = self._items.get(key)
        if not value:
            return default
        match = _HEX.match(value[:127])
        if match is None or not match[2]:
            return 0
        magnitude = min(int(match[2], 16), _U64_MAX)
        return -magnitude & _U64_MAX if match[1] == b"-" else magnitude

    def boolean(self, key: str) -> bool:
        """True for a value that starts with ``1``, ``t`` or ``T``."""
        value = self._items.get(key)
        return value is not None and value[:1] in (b"1", b"t", b"T")

    def text(self, key: str, default: str = "") -> str:
        """A value as text up to its first NUL; bytes that are not UTF-8 show as replacement characters."""
        value = self._items.get(key)
        return default if value is None else value.partition(b"\x00")[0].decode("utf-8", "replace")

    def put(self, key: str, value: bytes) -> None:
        """Set a raw value."""
        self._items[key] = value

    def put_unsigned(self, key: str, value: int) -> None:
        """Set an unsigned 64-bit integer, 16 digits wide as the reference writes it."""
        self._items[key] = b"%016x" % (value & _U64_MAX)

    def put_integer(self, key: str, value: int) -> None:
        """Set a signed 64-bit integer; a minus sign precedes the 16 digits."""
        self._items[key] = b"-%016x" % -value if value < 0 else b"%016x" % value

    def put_address(self, key: str, value: int) -> None:
        """Set a ZeroTier address, 10 digits wide."""
        self._items[key] = b"%010x" % value

    def put_boolean(self, key: str, value: bool) -> None:
        self._items[key] = b"1" if value else b"0"

    def put_text(self, key: str, value: str) -> None:
        self._items[key] = value.encode("utf-8")
