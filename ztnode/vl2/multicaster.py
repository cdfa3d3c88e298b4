"""Multicast on one network: our subscriptions, those of others, and sending to groups.

A frame to a group goes to its known members one by one, up to the network's limit. While too few are known, root and
controller are asked (GATHER) and the frame waits for their answers. ARP is multicast, too: the address asked for is
part of the group, so a query reaches the one member that has subscribed to it.

Source: reference Multicaster.cpp, OutboundMulticast.cpp, Network.cpp (_sendUpdatesToMembers, _allMulticastGroups).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address
from typing import Final

from ztnode.vl2.subscriptions import Subscriptions, sample
from ztnode.vl2.vl2_core import Vl2Core
from ztnode.wire.buffer import Buffer
from ztnode.wire.ethernet import TYPE_ARP
from ztnode.wire.mac import BROADCAST
from ztnode.wire.multicast import (
    Gather,
    Like,
    MulticastFrame,
    MulticastGroup,
    build_gather,
    build_likes,
    build_multicast_frame,
)
from ztnode.wire.network_config import (
    SPECIALIST_ACTIVE_BRIDGE,
    SPECIALIST_ANCHOR,
    SPECIALIST_MULTICAST_REPLICATOR,
    NetworkConfig,
)
from ztnode.wire.packet import VERB_MULTICAST_FRAME, VERB_MULTICAST_GATHER, VERB_MULTICAST_LIKE

ANNOUNCE_INTERVAL: Final = 60.0
"""Seconds between announcements of the same groups to the same node (ZT_MULTICAST_ANNOUNCE_PERIOD)."""
GATHER_INTERVAL: Final = 60.0
"""Seconds between questions about a group of which some members are known (ZT_MULTICAST_EXPLICIT_GATHER_DELAY)."""
GATHER_RETRIES: Final = (0.15, 0.5, 1.5)
"""Seconds after which a question is repeated while nobody of the group is known and a frame waits for it. The reference
leaves that to whoever sends the frame again; a lost first ARP query would so cost its sender a second."""
TRANSMIT_TIMEOUT: Final = 5.0
"""Seconds for which a frame waits for more members of its group (ZT_MULTICAST_TRANSMIT_TIMEOUT)."""
MAX_WAITING: Final = 64
"""Frames of one network that wait for members."""
MAX_OWN_GROUPS: Final = 1024
_MAX_GATHER_PEERS: Final = 16
_MAX_MEMBERS_ASKED: Final = 8
_LIKES_PER_PACKET: Final = 64
"""18 bytes each: a packet of one datagram."""

_ALL_HOSTS: Final = MulticastGroup(0x01005E000001)
_ALL_NODES: Final = MulticastGroup(0x333300000001)
_ARP_REQUEST: Final = b"\x08\x00\x06\x04\x00\x01"
"""IPv4 over Ethernet, request: the octets from the third on."""


def group_of(destination: int, ethertype: int, payload: Buffer) -> MulticastGroup:
    """The group that an Ethernet frame is for; an ARP request names the address that it asks for."""
    if destination == BROADCAST and ethertype == TYPE_ARP and len(payload) >= 28 and payload[2:8] == _ARP_REQUEST:
        return MulticastGroup.for_resolution_of(IPv4Address(bytes(payload[24:28])))
    return MulticastGroup(destination)


class Outbound:
    """A frame on its way to the members of its group. ``allowed`` decides for each recipient by the network's rules."""

    __slots__ = ("allowed", "expires", "group", "left", "packet", "sent")

    def __init__(
        self, group: MulticastGroup, packet: bytes, allowed: Callable[[int], bool], limit: int, expires: float
    ) -> None:
        self.group = group
        self.packet = packet
        self.allowed = allowed
        self.left = limit
        self.expires = expires
        self.sent: set[int] = set()


class Multicaster:
    """One network's multicast. ``push_credentials(address, now)`` comes before the first frame to a member."""

    def __init__(
        self,
        core: Vl2Core,
        nwid: int,
        mac: int,
        controller: int,
        push_credentials: Callable[[int, float], None],
        known: Collection[int] = (),
    ) -> None:
        """``controller`` is its address, 0 if the network has none; ``known`` are the members that we have met."""
        self._known = known
        self._core = core
        self._nwid = nwid
        self._mac = mac
        self._controller = controller
        self._push_credentials = push_credentials
        self._config: NetworkConfig | None = None
        self._waiting: deque[Outbound] = deque(maxlen=MAX_WAITING)
        self._gathered_at: dict[MulticastGroup, float] = {}
        self._unanswered: dict[MulticastGroup, tuple[float, int]] = {}
        """Groups with nobody known: when to ask again, and how often that was done."""
        self._unwanted: dict[tuple[MulticastGroup, int], None] = {}
        """Members that do not want a group, and so need not be asked about it."""
        self._extra: dict[MulticastGroup, None] = {}
        self._joined: frozenset[MulticastGroup] = frozenset()
        self._announced: frozenset[MulticastGroup] = frozenset()
        self.subscriptions: Subscriptions[MulticastGroup] = Subscriptions()
        self.groups: tuple[MulticastGroup, ...] = ()
        """What we are subscribed to, in order."""
        self.next_announcement = float("inf")

    # Our subscriptions

    def configure(self, config: NetworkConfig | None, now: float) -> None:
        """A configuration came into force, or (None) the network is closed to us."""
        self._config = config
        self._derive_groups()
        if config is None:
            self.next_announcement = float("inf")
        elif not self._announced.issuperset(self.groups):
            self.next_announcement = now

    def subscribe(self, group: MulticastGroup, now: float) -> bool:
        """Subscribe beyond what follows from the configuration. True if that is news to the members."""
        if group in self._extra or len(self._extra) >= MAX_OWN_GROUPS:
            return False
        self._extra[group] = None
        self._derive_groups()
        if self._config is not None:
            self.next_announcement = now
        return True

    def join(self, groups: frozenset[MulticastGroup], now: float) -> None:
        """Subscribe to these beyond what follows from the configuration, and no longer to those of the last call. The
        protocol has no word for leaving: others learn of it when they send to us, or forget us after ten minutes."""
        if groups != self._joined:
            news = groups - self._joined
            self._joined = frozenset(sorted(groups)[:MAX_OWN_GROUPS])
            self._derive_groups()
            if news and self._config is not None:
                self.next_announcement = now

    def _derive_groups(self) -> None:
        config = self._config
        groups = dict.fromkeys((*self._extra, *self._joined))
        if config is not None:
            for address in config.static_addresses:
                groups[MulticastGroup.for_resolution_of(address.ip)] = None
                groups[_ALL_HOSTS if address.version == 4 else _ALL_NODES] = None
                if address.version == 6:  # the link-local address that hosts derive from the MAC (RFC 4291, appendix A)
                    groups[MulticastGroup(0x3333FF000000 | self._mac & 0xFFFFFF)] = None
            if config.broadcast:
                groups[MulticastGroup(BROADCAST)] = None
        self.groups = tuple(sorted(groups))

    def announce(self, members: Iterable[int], now: float) -> None:
        """Tell controller, roots and specialists, and these ``members``, what we are subscribed to."""
        config = self._config
        if config is None:
            return
        self.next_announcement = now + ANNOUNCE_INTERVAL
        self._announced = frozenset(self.groups)
        specialists = config.with_role(SPECIALIST_ANCHOR | SPECIALIST_MULTICAST_REPLICATOR)
        recipients = dict.fromkeys((self._controller, *self._core.roots(), *specialists, *members))
        for recipient in recipients:
            self.announce_to(recipient, now)

    def announce_to(self, address: int, now: float) -> None:
        """Tell one node what we are subscribed to."""
        if address in (0, self._core.address) or self._config is None:
            return
        for at in range(0, len(self.groups), _LIKES_PER_PACKET):
            likes = (Like(self._nwid, group) for group in self.groups[at : at + _LIKES_PER_PACKET])
            self._core.send(address, VERB_MULTICAST_LIKE, build_likes(likes), now)

    # Sending

    def send(
        self,
        group: MulticastGroup,
        ethertype: int,
        payload: Buffer,
        allowed: Callable[[int], bool],
        now: float,
        *,
        source: int | None = None,
        origin: int = 0,
    ) -> None:
        """Send an Ethernet payload to a group. ``source``: the MAC it comes from, if not ours; ``origin``: the member
        for whom we replicate, which does not get it back."""
        config = self._config
        if config is None or config.multicast_limit <= 0:
            return
        own = self._core.address
        bridges = config.with_role(SPECIALIST_ACTIVE_BRIDGE)
        if own not in bridges and self._send_to_replicator(config, group, ethertype, payload, source, now):
            return
        limit = config.multicast_limit
        members = self.subscriptions.members(group)
        missing = max(limit - len(members), 0) + 1
        frame = MulticastFrame(self._nwid, group, ethertype, payload, source, gather_limit=missing)
        outbound = Outbound(group, build_multicast_frame(frame), allowed, limit, now + TRANSMIT_TIMEOUT)
        outbound.sent.update((own, origin))
        for address in (*bridges, *sample(members, limit, self._core.random)):
            self._send_to(outbound, address, now)
        if len(members) < limit:
            if not members or now - self._gathered_at.get(group, float("-inf")) >= GATHER_INTERVAL:
                self._gather(config, group, missing, now)
            if outbound.left > 0:
                self._waiting.append(outbound)
                if not members and len(self._unanswered) < MAX_WAITING:
                    self._unanswered.setdefault(group, (now + GATHER_RETRIES[0], 0))

    def _send_to(self, outbound: Outbound, address: int, now: float) -> None:
        if outbound.left <= 0 or address in outbound.sent:
            return
        outbound.sent.add(address)
        if outbound.allowed(address):
            outbound.left -= 1
            self._push_credentials(address, now)
            compress = self._config is not None and self._config.compression
            self._core.send(address, VERB_MULTICAST_FRAME, outbound.packet, now, compress=compress)

    def _send_to_replicator(
        self,
        config: NetworkConfig,
        group: MulticastGroup,
        ethertype: int,
        payload: Buffer,
        source: int | None,
        now: float,
    ) -> bool:
        """Leave the replication to the nearest live multicast replicator; False if there is none, or we are one."""
        replicators = config.with_role(SPECIALIST_MULTICAST_REPLICATOR)
        if self._core.address in replicators:
            return False
        alive = []
        for address in replicators:
            peer = self._core.vl1.peer(address)
            if peer is not None and peer.endpoint is not None:
                alive.append((float("inf") if peer.latency is None else peer.latency, address))
        if not alive:
            return False
        mac = self._mac if source is None else source
        frame = MulticastFrame(self._nwid, group, ethertype, payload, mac, replicate=True)
        packet = build_multicast_frame(frame)
        self._core.send(min(alive)[1], VERB_MULTICAST_FRAME, packet, now, compress=config.compression)
        return True

    def _gather(self, config: NetworkConfig, group: MulticastGroup, limit: int, now: float) -> None:
        if len(self._gathered_at) >= MAX_OWN_GROUPS:
            self._gathered_at.clear()
        self._gathered_at[group] = now
        root = self._core.best_root()
        specialists = config.with_role(SPECIALIST_ANCHOR | SPECIALIST_MULTICAST_REPLICATOR)
        asked = dict.fromkeys((*(() if root is None else (root,)), self._controller, *specialists))
        for nobody in (0, self._core.address):
            asked.pop(nobody, None)
        if not self.subscriptions.members(group):
            # Roots and controller may be away, or have lost their memory: members know of each other.
            met = [
                address
                for address in self._known
                if self._core.vl1.peer(address) is not None and (group, address) not in self._unwanted
            ]
            asked |= dict.fromkeys(met[-_MAX_MEMBERS_ASKED:] or self._core.acquaintances(_MAX_MEMBERS_ASKED, now))
            asked.pop(self._core.address, None)
        packet = build_gather(Gather(self._nwid, group, limit, config.certificate_of_membership))
        for address in list(asked)[:_MAX_GATHER_PEERS]:
            self._core.send(address, VERB_MULTICAST_GATHER, packet, now)

    def next_timer(self) -> float:
        """When ``handle_timer`` has something to do."""
        if not self._unanswered:  # asked after each batch
            return float("inf")
        return min(due for due, _ in self._unanswered.values())

    def handle_timer(self, now: float) -> None:
        """Repeat questions that nobody has answered."""
        for group, (due, tries) in list(self._unanswered.items()):
            if now < due:
                continue
            del self._unanswered[group]
            wanted = any(outbound.group == group and outbound.expires > now for outbound in self._waiting)
            if self._config is None or not wanted or self.subscriptions.members(group):
                continue
            self._gather(self._config, group, self._config.multicast_limit, now)
            if tries + 1 < len(GATHER_RETRIES):
                self._unanswered[group] = (now + GATHER_RETRIES[tries + 1], tries + 1)

    # What others tell

    def learn(self, group: MulticastGroup, members: Iterable[int], now: float) -> None:
        """These nodes are members of ``group``: what waits for it goes to them."""
        own = self._core.address
        for member in members:
            if member == own:
                continue
            self.subscriptions.add(group, member, now)
            for outbound in self._waiting:
                if outbound.group == group and outbound.expires > now:
                    self._send_to(outbound, member, now)

    def unwanted(self, group: MulticastGroup, member: int) -> None:
        """A member no longer wants what is sent to ``group``."""
        self.subscriptions.remove(group, member)
        if len(self._unwanted) >= MAX_OWN_GROUPS:
            del self._unwanted[next(iter(self._unwanted))]
        self._unwanted[group, member] = None

    def gathered_for(self, group: MulticastGroup, asker: int, limit: int) -> tuple[int, list[int]]:
        """Members of ``group`` to tell ``asker``: how many are known, and some of them, ourselves first."""
        total, members = self.subscriptions.gather(group, asker, limit, self._core.random)
        if group in self.groups and limit > 0:
            return total + 1, [self._core.address, *members[: limit - 1]]
        return total, members

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        self._waiting = deque(
            (outbound for outbound in self._waiting if outbound.expires > now and outbound.left > 0), maxlen=MAX_WAITING
        )
        self.subscriptions.expire(now)
        for group in [group for group, at in self._gathered_at.items() if now - at >= GATHER_INTERVAL]:
            del self._gathered_at[group]
