"""Initial sequence numbers (RFC 6528) and timestamp offsets (RFC 7323 section 5.4), from one secret."""

from __future__ import annotations

import hashlib
from typing import Final

from ztnode.netstack.tcp.sequence import MASK

_TICKS: Final = 250_000  # RFC 9293 section 3.4.1: the clock ticks about every 4 microseconds


class InitialSequence:
    """ISN = M + F(local address, local port, remote address, remote port, secret)."""

    __slots__ = ("_offset", "_pair", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._pair = b""
        self._offset = 0
        """Of the pair of hosts that was asked for last: the next connection is mostly between the same two."""

    def _keyed(self, label: bytes, data: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(data, digest_size=4, key=self._secret, person=label).digest(), "big")

    def isn(self, key: bytes, now: float) -> int:
        """The initial sequence number for the connection that ``key`` (addresses and ports) names, 32 bits.

        A later incarnation of the same connection starts higher than the earlier one ended, as the clock has moved.
        """
        return (int(now * _TICKS) + self._keyed(b"isn", key)) & MASK

    def timestamp_offset(self, local: bytes, remote: bytes) -> int:
        """What is added to our millisecond clock in TSval; one value per pair of hosts, 32 bits.

        It hides our uptime, and because it does not depend on the ports, timestamps grow from one connection to the
        next between the same hosts, which lets a peer recycle its TIME-WAIT (RFC 6191).
        """
        pair = local + remote
        if pair != self._pair:
            self._pair = pair
            self._offset = self._keyed(b"ts", pair)
        return self._offset
