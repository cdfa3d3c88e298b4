"""A peer: who it is, how to reach it, and the gates that bound what it may ask of us."""

from __future__ import annotations

from typing import Final

from ztnode.histogram import Histogram
from ztnode.seen_ids import SeenIds
from ztnode.token_bucket import TokenBucket
from ztnode.vl1.gates import Cutoff, Interval
from ztnode.vl1.path import DOUBTED_AFTER, EXPIRATION, Path
from ztnode.wire.address import format_address
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import DEFAULT_PHYSICAL_MTU

MAX_PATHS: Final = 16
"""Paths remembered per peer (the reference: 64)."""
MAX_UNTRUSTED_PATHS: Final = 6
"""The same of one that shares no network with us: 4,096 of them are kept, and a path takes 700 bytes."""
ACTIVITY_TIMEOUT: Final = 500.0
"""Seconds without traffic after which a peer's paths are no longer kept alive, and without any packet after which the
peer is forgotten (ZT_PEER_ACTIVITY_TIMEOUT)."""
TRUST_EXPIRATION: Final = 600.0
"""Seconds for which a frame of a shared network earns trust (ZT_TRUST_EXPIRATION)."""

_NEVER: Final = float("-inf")
REPLAY_GENERATION: Final = (16, 65536)
"""Packet ids after which the older generation is forgotten, at the least and at the most; a peer's memory of ids is
twice this. An id takes 110 bytes, so how many a peer gets depends on how many peers there are (``replay_share``). The
most is what a fast peer sends in seconds: what is played back later than that passes for new and costs a decryption."""
FIRST_REPLAY_GENERATION: Final = 2048
"""Until the owner says how many."""
_MAX_UNTRUSTED_GENERATION: Final = 77
_REPLAY_IDS: Final = 131072
"""Ids in one generation of all peers that share a network with us, 29 MB in both; the others have a quarter of it."""
_WORTH_SWITCHING: Final = 0.7
"""A path must cost less than this part of the present one's cost, or packets would be reordered for nothing."""


class Peer:
    """One other node. The owner and the layer above read it; only VL1 changes it."""

    __slots__ = (
        "address",
        "bonds",
        "copy_gate",
        "echo_gate",
        "hello_gate",
        "identity",
        "invalid",
        "is_replayed",
        "keys",
        "last_frame",
        "last_frame_in",
        "last_hello",
        "last_receive",
        "last_redirect",
        "last_traffic",
        "latencies",
        "next_path_push",
        "path",
        "paths",
        "persistent",
        "protocol",
        "push_gate",
        "received",
        "redirect_pause",
        "redirects",
        "seen",
        "sent",
        "taken",
        "traffic_from",
        "trusted_until",
        "version",
        "whois_gate",
        "wire",
    )

    def __init__(self, identity: Identity, keys: PeerKeys) -> None:
        self.address = identity.address
        self.wire = identity.address.to_bytes(5, "big")
        """The address as a packet header has it."""
        self.identity = identity
        self.keys = keys
        self.protocol = 0
        """Protocol version from its HELLO or OK(HELLO); 0 until known."""
        self.version = (0, 0, 0)
        """Software version (major, minor, revision); zeros until known."""
        self.paths: dict[Endpoint, Path] = {}
        self.path: Path | None = None
        """The path in use; None while packets go through a root."""
        self.last_receive = _NEVER
        """When an authentic packet last came, direct or relayed."""
        self.last_traffic = _NEVER
        """When something other than VL1's own chatter was last sent or received."""
        self.last_frame_in = _NEVER
        """When a frame last came from it."""
        self.last_frame = _NEVER
        """When a frame was last sent to it or came from it: there may be a connection."""
        self.traffic_from: Endpoint | None = None
        """Whence something other than VL1's own chatter last came straight."""
        self.bonds = False
        """It has sent verbs of multipath bonding: its traffic may come from anywhere."""
        self.last_hello = _NEVER
        """When we last sent HELLO to all its paths."""
        self.trusted_until = _NEVER
        """Until when this peer counts as one that shares a network with us."""
        self.next_path_push = _NEVER
        self.last_redirect = _NEVER
        """When we last asked it to send to another endpoint of ours."""
        self.redirect_pause = 5.0
        """Seconds from then to the next time."""
        self.redirects = 0
        """How often we have asked it, as far as that is counted."""
        self.persistent = False
        """Stay in contact, whether or not there is traffic."""
        self.received = 0
        """Authentic packets of it, ``sent``: to it; ``invalid``: in its name, and not authentic."""
        self.sent = 0
        self.invalid = 0
        self.latencies: Histogram | None = None
        """Round trips in milliseconds; None while there was none."""
        self.push_gate = Cutoff(8, 30.0)  # ZT_PUSH_DIRECT_PATHS_CUTOFF_LIMIT, _TIME
        self.whois_gate = Interval(0.1)  # ZT_PEER_WHOIS_RATE_LIMIT
        self.hello_gate = TokenBucket(5, 20)
        self.copy_gate = TokenBucket(2, 8)  # for a HELLO that came before by another way
        self.is_replayed = False
        """Whether the last packets held some that had come before."""
        self.echo_gate = TokenBucket(6, 12)  # for what comes over no known path; paths have gates of their own
        self.seen = SeenIds(FIRST_REPLAY_GENERATION)
        """The ids of its authentic packets."""
        self.taken: list[bytes] | None = None
        """Of those, the ones that came here and of which somebody else who opens its frames, too, is to be told; None
        while there is nobody."""

    def __repr__(self) -> str:
        return f"<Peer {format_address(self.address)}>"

    @property
    def latency(self) -> float | None:
        """Round trip in seconds over the path in use; None where unknown or relayed."""
        return self.path.latency if self.path else None

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint of the path in use, None while packets go through a root."""
        return self.path.endpoint if self.path else None

    def is_active(self, now: float) -> bool:
        """Whether its paths are worth keeping alive."""
        return self.persistent or now - self.last_traffic < ACTIVITY_TIMEOUT

    def learn(self, endpoint: Endpoint, now: float, mtu: int = DEFAULT_PHYSICAL_MTU) -> Path:
        """Remember that the peer answered from ``endpoint``, where datagrams may have ``mtu`` bytes; the path longest
        silent makes room."""
        path = self.paths.get(endpoint)
        if path is None:
            most = MAX_PATHS if self.persistent or self.trusts_through(now) else MAX_UNTRUSTED_PATHS
            if len(self.paths) >= most:
                del self.paths[min(self.paths.values(), key=lambda path: path.last_receive).endpoint]
            path = self.paths[endpoint] = Path(endpoint, now, mtu)
        return path

    def expire_paths(self, now: float) -> None:
        """Forget paths that were silent for too long."""
        expired = [path for path in self.paths.values() if now - path.last_receive >= EXPIRATION]
        for path in expired:
            del self.paths[path.endpoint]

    def choose_path(self) -> bool:
        """Decide anew which path to use. True if that is another one than before."""
        before = self.path
        usable = [path for path in self.paths.values() if not path.dead]
        best = min(usable, key=lambda path: path.cost, default=None)
        if (
            best is not None
            and before is not None
            and not before.dead
            and self.paths.get(before.endpoint) is before
            and (best.cost > before.cost * _WORTH_SWITCHING or _is_good_port(before, best))
        ):
            best = before
        if (
            best is not None
            and self.traffic_from is not None
            and (heard := self.paths.get(self.traffic_from)) is not None
            and _is_good_port(heard, best)
        ):
            best = heard
        self.path = best
        return best is not before

    def last_resort(self) -> Path | None:
        """The path heard most lately, dead or not, for when there is no better way."""
        return self.path or max(self.paths.values(), key=lambda path: path.last_receive, default=None)

    def trusts_through(self, now: float) -> bool:
        """Whether the layer above vouched for this peer lately."""
        return now < self.trusted_until


def _is_good_port(path: Path, best: Path) -> bool:
    """Whether ``path`` leads to the same host as ``best``, and answers. The reference listens on several ports, whose
    latencies tell no more than how much waits there in a transfer's queue: so the one in use stays, unless the peer
    itself uses another, for what comes from there says that it works without being asked."""
    return path.endpoint[0] == best.endpoint[0] and not path.dead and path.probes < DOUBTED_AFTER


def replay_share(peers: int, *, trusted: bool) -> int:
    """Packet ids in one generation of each of so many peers of one kind."""
    least, most = REPLAY_GENERATION
    if trusted:
        return max(least, min(most, _REPLAY_IDS // max(1, peers)))
    return max(least, min(_MAX_UNTRUSTED_GENERATION, _REPLAY_IDS // 4 // max(1, peers)))
