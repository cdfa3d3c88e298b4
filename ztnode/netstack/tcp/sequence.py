"""Arithmetic of 32-bit sequence numbers and timestamps (RFC 9293 section 3.4, RFC 7323 section 5.2).

On the wire they wrap around. Inside a connection they are unwrapped into plain growing integers, so that every
comparison is plain arithmetic. ``MASK`` and ``HALF`` are public for the lines that run once per segment, where a
function call would be a good part of the cost; everybody else calls the functions.
"""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
HALF: Final = 0x80000000


def unwrap(number: int, near: int) -> int:
    """The unwrapped number that ``number`` on the wire stands for: of all that look like it the nearest to ``near``."""
    return near + ((number - near + HALF) & MASK) - HALF


def distance(number: int, start: int) -> int:
    """How far ``number`` is ahead of ``start``, modulo 2**32."""
    return (number - start) & MASK


def is_before(number: int, other: int) -> bool:
    """Whether ``number`` is older than ``other``, both as on the wire: less than half of the circle behind it."""
    return bool((number - other) & HALF)
