"""How many packets came and went, by verb: plain integers, for this is counted for every packet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.packet import VERB_ERROR, VERB_HELLO, VERB_MASK

VERB_HELLO_COPY: Final = 0x100
"""No verb of the wire: a HELLO that came before by another way."""
LATENCY_BOUNDS: Final = (1, 3, 6, 10, 30, 60, 100, 300, 600, 1000)
"""Milliseconds, of ``Peer.latencies`` (the reference's ``zt_peer_latency``)."""
_CODE: Final = 9
"""Of an ERROR, behind in-re verb and packet id."""


class Traffic:
    """Packets that were authentic, and those that were sealed."""

    __slots__ = ("arrived", "errors_received", "errors_sent", "sent")

    def __init__(self) -> None:
        self.arrived = [0] * (VERB_HELLO_COPY + 1)
        """By verb, copies of HELLO on their own."""
        self.sent = [0] * (VERB_MASK + 1)
        """By verb."""
        self.errors_received: Counter[int] = Counter()
        """By the code of ERROR; so are ``errors_sent``."""
        self.errors_sent: Counter[int] = Counter()

    def received(self, verb: int) -> int:
        """Packets with this verb of the wire."""
        return self.arrived[verb] + (self.arrived[VERB_HELLO_COPY] if verb == VERB_HELLO else 0)

    def count_sent(self, verb: int, parts: Sequence[Buffer]) -> None:
        """One more; ``parts`` follow the verb."""
        self.sent[verb] += 1
        if verb == VERB_ERROR and len(parts[0]) > _CODE:
            self.errors_sent[parts[0][_CODE]] += 1
