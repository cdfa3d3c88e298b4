"""How long a datagram a path carries, found out by asking along it (RFC 8899, over ECHO).

A path that loses long datagrams without a word looks well: heartbeats and acknowledgments pass, and transfers stand
still. So a path that carries frames is asked now and then with an ECHO of full length. If that goes unanswered while
other things come back by the same path, the next shorter length is used and asked about; later a longer one is tried
again. OK(ECHO) repeats the payload and is 9 bytes longer than the question: what is answered holds for both directions.
The reference does nothing of the kind.
"""

from __future__ import annotations

from typing import Final

from ztnode.wire.packet import MIN_PACKET_LENGTH

LENGTHS: Final = (1391, 1363, 1311, 1223, 1000, 548)
"""What is tried below the configured length, bytes of UDP payload: the answers to the first ones have 1,400, 1,372 (IP
packets of 1,400 bytes), 1,320 and 1,232 bytes (IPv6's least MTU); 548 fits IPv4's least."""
CHECK_INTERVAL: Final = 3.0
"""Seconds between two questions along a path that carries frames."""
ANSWER_TIME: Final = 1.0
"""Seconds that an answer may take."""
SILENCE: Final = 5.0
"""Seconds without anything by the path after which a question without an answer means nothing."""
MISSES: Final = 2
"""Questions in a row that go unanswered before a shorter length is taken for the first time; one is enough after
that, until one is answered."""
GROW_AFTER: Final = (15.0, 600.0)
"""Seconds until a longer length is tried again: at first, and at most. It doubles each time that this fails."""
_NEVER: Final = float("-inf")


class PathMtu:
    """What one path carries. Sizes in bytes of UDP payload, times in seconds of the caller's clock."""

    __slots__ = ("_asked", "_asked_at", "_grow_at", "_grow_wait", "_misses", "_next", "_sizes", "mtu")

    def __init__(self, ceiling: int) -> None:
        self.mtu = ceiling
        """The longest datagram to send."""
        self._sizes = (ceiling, *(length for length in LENGTHS if length < ceiling))
        self._asked: int | None = None
        self._asked_at = _NEVER
        self._misses = 0
        self._next = _NEVER
        self._grow_at = _NEVER
        self._grow_wait = GROW_AFTER[0]

    @property
    def is_narrow(self) -> bool:
        """Whether it carries less than it should."""
        return self.mtu < self._sizes[0]

    def question(self, now: float, last_receive: float) -> int | None:
        """How long an ECHO to send now, if any; 0: a short one, for if that is answered, the long one should have been.
        ``last_receive``: when anything last came by this path: silence is for others to judge. Call it about once a
        second; ``mtu`` may have changed when this returns."""
        if self._asked is not None:
            if now - self._asked_at < ANSWER_TIME:
                return None
            if last_receive > self._asked_at:
                self._missed(self._asked, now)
            elif now - self._asked_at < SILENCE:
                return 0
            else:
                self._asked = None
        if now < self._next:
            return None
        size = self.mtu
        if self.is_narrow and not self._misses and now >= self._grow_at:
            size = self._sizes[self._sizes.index(self.mtu) - 1]
        self._asked, self._asked_at, self._next = size, now, now + CHECK_INTERVAL
        return size

    def answered(self, length: int) -> bool:
        """A question with a packet of ``length`` bytes was answered. True if that was one of ``question``'s."""
        if length != self._asked:
            return False
        self._asked, self._misses = None, 0
        if length > self.mtu:
            self.mtu, self._grow_at = length, _NEVER
            self._grow_wait = GROW_AFTER[0]
        return True

    def _missed(self, size: int, now: float) -> None:
        self._asked, self._next = None, now
        if size > self.mtu:
            self._grow_wait = min(2 * self._grow_wait, GROW_AFTER[1])
            self._grow_at, self._next = now + self._grow_wait, now + CHECK_INTERVAL
            return
        self._misses += 1
        position = self._sizes.index(self.mtu) + 1
        if self._misses >= MISSES and position < len(self._sizes):
            self.mtu = self._sizes[position]
            self._grow_at = now + self._grow_wait


def question_payload(length: int) -> bytes:
    """The payload of an ECHO of ``length`` bytes. Zeros: it is encrypted, and nothing reads it."""
    return bytes(length - MIN_PACKET_LENGTH)


def answered_length(payload_length: int) -> int:
    """The length of the ECHO that an OK with this much payload answers."""
    return payload_length + MIN_PACKET_LENGTH
