"""Two hosts with one identity: the same home brought along to a second host, a cloned virtual machine, zerotier-one
still running beside us with our home. The address then leads to one or the other, as it happens, and both seem broken.

No rule of the protocol finds them: keys and addresses agree. What gives them away: packets to our own address, which
a root sends wherever it believes us to be, arrive from somebody else who has our key; answers arrive to what we never
asked; and to others, the traffic of one peer keeps coming from two places in turn.

A packet to our own address goes as the second fragment of one whose first there is not: a root of the reference
introduces the sender of what it relays to its receiver, and waits for ever for itself where the two are the same
(``Peer::introduce`` takes the lock of both); fragments name no sender.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from ztnode.token_bucket import TokenBucket
from ztnode.vl1.gates import KeyedInterval
from ztnode.vl1.peer import Peer
from ztnode.vl1.scope import is_ipv6
from ztnode.vl1.topology import Topology
from ztnode.vl1.transmit import Transmit
from ztnode.vl1.vl1_events import Event, IdentityShared, PeerShared
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.fragment import INDICATOR, OFFSET_DATA
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import VERB_NOP

FIRST_PROBE: Final = 5.0
PROBE_INTERVAL: Final = 60.0
"""Seconds after which a packet goes to our own address by the nearest root for the first time; and, twice as long each
time, between two such packets in the long run."""
REMEMBERED: Final = 600.0
"""Seconds for which a finding holds after its last sign."""
STRAY_ANSWERS: Final = 3
"""Answers to what we never asked, within STRAY_WINDOW, that are a sign. Fewer come from the time before a restart."""
STRAY_WINDOW: Final = 120.0
SETTLED: Final = 30.0
"""Seconds after the start before which they mean nothing."""
TURNS: Final = 12
"""Turns of a peer's traffic between two IP addresses within REMEMBERED that are a sign. A peer that moves does not
return; one that bonds several links does, all the time, and says so by verbs of its own."""
REPORT_INTERVAL: Final = 3600.0
PROBE_LENGTH: Final = OFFSET_DATA + 44
"""Bytes of a packet to ourselves: the fragment's head, and the packet whole."""
_SECOND_OF_TWO: Final = bytes((INDICATOR, 0x21, 0))
_MAX_WATCHED: Final = 1024
_OPENED_PER_SECOND: Final = (2.0, 8.0)


class Twins:
    """Looks out for a second host with our identity, and for peers that are two."""

    def __init__(
        self,
        topology: Topology,
        transmit: Transmit,
        keys: PeerKeys,
        random: Callable[[int], bytes],
        wall_clock: Callable[[float], int],
        emit: Callable[[Event], None],
        counters: Counter[str],
        now: float,
    ) -> None:
        """``keys`` are those that we share with ourselves."""
        self._topology = topology
        self._transmit = transmit
        self._wall_clock = wall_clock
        self._emit = emit
        self._counters = counters
        self._keys = keys
        self._mark = random(8)
        self._started = now
        self._next_probe = now + FIRST_PROBE
        self._interval = FIRST_PROBE
        self._gate = TokenBucket(*_OPENED_PER_SECOND)
        self._strays: deque[float] = deque(maxlen=STRAY_ANSWERS)
        self._last_sign = float("-inf")
        self._turns: dict[int, _Turns] = {}
        self._reports = KeyedInterval(REPORT_INTERVAL, _MAX_WATCHED)

    def found(self, now: float) -> bool:
        """Whether there were signs lately that another host has our identity."""
        return now - self._last_sign < REMEMBERED

    def _sign(self, now: float) -> None:
        self._counters["identity_shared_signs"] += 1
        if not self.found(now):
            self._emit(IdentityShared())
        self._last_sign = now

    # Packets to ourselves

    def tick(self, now: float) -> None:
        """Send a packet to our own address now and then."""
        upstream = self._topology.best_upstream()
        if now < self._next_probe or upstream is None or upstream.path is None:
            return
        self._next_probe = now + self._interval
        self._interval = min(PROBE_INTERVAL, 2 * self._interval)
        own = self._topology.identity.address
        content = bytes((VERB_NOP,)) + self._mark + self._wall_clock(now).to_bytes(8, "big")
        sealed = self._keys.seal(self._transmit.new_id(), own, own, (content,))
        self._transmit.put(upstream.path.endpoint, sealed[:13] + _SECOND_OF_TWO + sealed)
        upstream.path.last_send = now

    def is_probe(self, fragment: bytes) -> bool:
        """Whether a fragment for us is a packet to ourselves, by its look."""
        return len(fragment) == PROBE_LENGTH and fragment[OFFSET_DATA : OFFSET_DATA + 8] == fragment[:8]

    def received(self, packet: bytes, now: float) -> None:
        """A packet that says it is from us. What we did not send, and was made since we run, is from a twin."""
        plaintext = self._keys.open(packet) if self._gate.admit(now) else None
        if plaintext is None or plaintext[0] != VERB_NOP or len(plaintext) != 17:
            self._counters["drop_own_address"] += 1
        elif plaintext[1:9] == self._mark:
            self._counters["own_packets_returned"] += 1
        elif int.from_bytes(plaintext[9:], "big") > self._wall_clock(self._started):
            self._sign(now)

    # Answers to what we never asked

    def stray_answer(self, peer: Peer, now: float) -> None:
        """An authentic OK to a packet that we know nothing of. It counts when a root, or one that shares a network with
        us, sends it, and when nothing was forgotten meanwhile that it could answer."""
        if now - self._started < SETTLED or now - self._transmit.forgot_at < STRAY_WINDOW:
            return
        if not (peer.persistent or peer.trusts_through(now) or self._topology.is_sought(peer.address)):
            return
        self._strays.append(now)
        if len(self._strays) == STRAY_ANSWERS and now - self._strays[0] < STRAY_WINDOW:
            self._strays.clear()
            self._sign(now)

    # Peers that are two

    def moved(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """The traffic of a peer came from another endpoint than the last."""
        before, peer.traffic_from = peer.traffic_from, endpoint
        if before is None or before[0] == endpoint[0] or is_ipv6(before) is not is_ipv6(endpoint) or peer.bonds:
            return
        turns = self._turns.get(peer.address)
        between = {before[0], endpoint[0]}
        if turns is None or turns.between != between:
            if len(self._turns) >= _MAX_WATCHED:
                del self._turns[next(iter(self._turns))]
            turns = self._turns[peer.address] = _Turns(between)
        turns.times.append(now)
        if len(turns.times) == TURNS and now - turns.times[0] < REMEMBERED and self._reports.admit(peer.address, now):
            self._counters["peers_shared"] += 1
            self._emit(PeerShared(peer.address, before, endpoint))


class _Turns:
    """When a peer's traffic last went over between two endpoints."""

    __slots__ = ("between", "times")

    def __init__(self, between: set[str]) -> None:
        self.between = between
        self.times: deque[float] = deque(maxlen=TURNS)
