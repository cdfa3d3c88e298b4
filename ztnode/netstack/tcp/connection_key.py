"""By what TCP knows whose a segment is."""

from __future__ import annotations

from typing import TypeAlias

ConnectionKey: TypeAlias = bytes
"""Source address + destination address + source port + destination port **as received**, in network byte order:
12 bytes over IPv4, 36 over IPv6. It is one contiguous slice of the packet when there are no IP options."""


def addresses_of(key: ConnectionKey) -> tuple[bytes, bytes]:
    """(source address, destination address)."""
    half = (len(key) - 4) // 2
    return key[:half], key[half : 2 * half]


def ports_of(key: ConnectionKey) -> tuple[int, int]:
    """(source port, destination port)."""
    return int.from_bytes(key[-4:-2], "big"), int.from_bytes(key[-2:], "big")


def reverse_key(key: ConnectionKey) -> ConnectionKey:
    """The key of the other direction."""
    source, destination = addresses_of(key)
    return destination + source + key[-2:] + key[-4:-2]
