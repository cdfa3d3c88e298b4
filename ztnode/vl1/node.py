"""VL1: the peer-to-peer transport of ZeroTier, without I/O.

``Vl1`` is one class with three drivers. The network hands it datagrams (``receive``), the clock wakes it
(``handle_timer`` at ``next_timer``) and the layer above sends (``send``, ``send_batch``). What comes out is collected
until the owner takes it: datagrams (``to_send``), messages for the layer above (``messages``) and events (``events``).
Nothing here reads a clock or a random source that was not handed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from ztnode.vl1.config import Vl1Config
from ztnode.vl1.events import Event
from ztnode.vl1.peer import Peer
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.world import World

Buffer: TypeAlias = bytes | bytearray | memoryview

Message: TypeAlias = tuple[Peer, int, int, Buffer]
"""``(peer, verb, packet id, payload)``: an authenticated, decompressed packet; the payload begins after the verb byte.
The payload of OK is ``in-re verb (1) | in-re packet id (8) | ...`` and that of ERROR has the error code (1) after that."""


class Vl1:
    """A node of the overlay: its peers, its paths and its roots."""

    def __init__(
        self,
        identity: Identity,
        planet: World,
        *,
        moons: Sequence[World] = (),
        random: Callable[[int], bytes],
        now: float,
        wall: int,
        config: Vl1Config | None = None,
    ) -> None:
        """``identity`` has its private keys. ``now``: monotonic seconds; ``wall``: Unix time in ms at ``now``.
        The first HELLOs to the roots wait in ``to_send`` when this returns."""
        self.identity = identity
        self.config = config or Vl1Config()
        self.counters: Counter[str] = Counter()
        """Packets dropped, by reason (``drop_...``), and what else is worth counting."""

    # The network

    def receive(self, datagrams: Sequence[tuple[bytes, Endpoint]], now: float) -> None:
        """Take a batch of datagrams, each with where it came from. Never raises on their content."""
        raise NotImplementedError

    def to_send(self, now: float) -> list[tuple[Endpoint, list[bytes]]]:
        """What must go out now, grouped by endpoint, in order; empties the queue."""
        raise NotImplementedError

    # The clock

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next, in the caller's monotonic seconds."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Do what has become due."""
        raise NotImplementedError

    # The layer above

    def messages(self) -> list[Message]:
        """What arrived for the layer above since the last call: every verb that VL1 does not handle itself, and OK and
        ERROR in reply to such verbs. OK comes from whom we asked; an ERROR's sender and packet id are for the layer
        above to judge, for frames of ``send_batch`` are not remembered one by one."""
        raise NotImplementedError

    def send(self, address: int, verb: int, payload: Buffer, now: float, *, compress: bool = False) -> int:
        """Send one packet and return the packet id that OK and ERROR will refer to. An unknown peer is looked up
        by WHOIS first; the packet waits for that for a few seconds at most. ``compress``: with LZ4 where it helps.
        Raises ValueError if the packet would need more fragments than the protocol allows."""
        raise NotImplementedError

    def send_batch(self, address: int, verb: int, payloads: Sequence[Sequence[Buffer] | Buffer], now: float) -> None:
        """Send many packets of one verb to one peer: the hot path. A payload is a buffer or the parts of one."""
        raise NotImplementedError

    def reply_ok(self, peer: Peer, in_re_verb: int, in_re_packet_id: int, payload: Buffer, now: float) -> int:
        """Answer a message with OK. Returns the packet id."""
        raise NotImplementedError

    def reply_error(
        self, peer: Peer, in_re_verb: int, in_re_packet_id: int, code: int, payload: Buffer, now: float
    ) -> int:
        """Answer a message with ERROR ``code``. Returns the packet id."""
        raise NotImplementedError

    def trust(self, peer: Peer, now: float) -> None:
        """The layer above has seen that ``peer`` shares a network with us (a frame that passed its certificate check):
        such peers, and no others, are told our own endpoints (PUSH_DIRECT_PATHS). Cheap: call it per batch."""
        raise NotImplementedError

    def contact(self, address: int, now: float) -> None:
        """Look ``address`` up if unknown and stay in contact with it, as for controllers and multicast replicators."""
        raise NotImplementedError

    # What the owner knows about the world

    def set_local_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Where this node can be reached on its own networks; pushed to peers that we trust."""
        raise NotImplementedError

    def avoid_networks(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """Physical paths must not run inside these (the managed routes of joined networks)."""
        raise NotImplementedError

    def add_peer(self, identity: Identity, now: float, endpoints: Iterable[Endpoint] = ()) -> Peer:
        """Make a peer known from a cache or by configuration, and try these endpoints. The identity is trusted."""
        raise NotImplementedError

    def orbit(self, moon: int, seed: int) -> None:
        """Ask for the moon with this world id; accept it if ``seed`` is one of its roots."""
        raise NotImplementedError

    # What there is to see

    def events(self) -> list[Event]:
        """What the owner should know, since the last call."""
        raise NotImplementedError

    @property
    def online(self) -> bool:
        """Whether a root has answered lately (always, if we are one)."""
        raise NotImplementedError

    @property
    def planet(self) -> World:
        """The planet in force."""
        raise NotImplementedError

    @property
    def surface_addresses(self) -> list[Endpoint]:
        """Our endpoints as peers see them."""
        raise NotImplementedError

    def peers(self) -> list[Peer]:
        """All peers known, roots included."""
        raise NotImplementedError

    def peer(self, address: int) -> Peer | None:
        """The peer with this address, if known."""
        raise NotImplementedError
