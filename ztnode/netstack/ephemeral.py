"""Ephemeral port numbers (RFC 6056)."""

from __future__ import annotations

from collections.abc import Callable, Container


def choose_port(
    random: Callable[[int], bytes], bounds: tuple[int, int], taken: Container[int], *, attempts: int = 64
) -> int | None:
    """A free port between ``bounds`` (both included), or None when all are taken.

    Algorithm 2 of RFC 6056 section 3.3.2 (simple randomisation): unpredictable, and UDP has no TIME-WAIT that would
    make quick reuse a trouble. After ``attempts`` misses it goes on by counting, so that a nearly full range ends too.
    """
    low, high = bounds
    span = high - low + 1
    port = low
    for _ in range(attempts):
        port = low + int.from_bytes(random(4), "big") % span
        if port not in taken:
            return port
    for step in range(span):
        candidate = low + (port - low + step) % span
        if candidate not in taken:
            return candidate
    return None
