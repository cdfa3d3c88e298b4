"""The data plane of one network: Ethernet frames to peers and back.

Frames of the stack are looked up by their 14-byte Ethernet header, which gives a ``FrameRoute``: the peer, the verb and
what comes before the frame in the packet. Received frames are looked up by peer and the first 10 bytes of FRAME, which
gives an ``Inflow``: the Ethernet header to put before the payload. Both hold whatever could be decided in advance:
credentials, rules, bridging. They are thrown away when anything that they rest upon changes, and after a while anyway.

Source: reference Switch::onLocalEthernet, IncomingPacket::_doFRAME, _doEXT_FRAME, _doMULTICAST_FRAME.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, Protocol, TypeAlias

from ztnode.token_bucket import TokenBucket
from ztnode.vl1 import Peer
from ztnode.vl2 import ndp_emulation
from ztnode.vl2.flow_filter import PASSED, PASSED_UNCHECKED, REFUSED, FlowFilter, Forwarder
from ztnode.vl2.membership import Membership
from ztnode.vl2.multicaster import Multicaster, group_of
from ztnode.vl2.rule_filter import EthernetFlow
from ztnode.vl2.subscriptions import sample
from ztnode.vl2.vl2_core import Vl2Core
from ztnode.wire.buffer import Buffer
from ztnode.wire.ethernet import TYPE_IPV4, TYPE_IPV6
from ztnode.wire.frame import EXT_FLAG_ACK_REQUESTED, ExtFrame, build_ext_frame
from ztnode.wire.mac import address_of, first_octet, is_multicast, mac_of
from ztnode.wire.multicast import MulticastFrame
from ztnode.wire.network_config import (
    FLAG_UNSUPPORTED_MATCH_MATCHES,
    SPECIALIST_ACTIVE_BRIDGE,
    SPECIALIST_MULTICAST_REPLICATOR,
    NetworkConfig,
)
from ztnode.wire.packet import VERB_EXT_FRAME, VERB_FRAME
from ztnode.wire.rules import Rule

Frame: TypeAlias = tuple[bytes, Buffer]
"""The 14-byte Ethernet header and the payload of a received frame."""

ROUTE_LIFETIME: Final = 30.0
"""Seconds for which a route or inflow is used before it is looked at again."""
MAX_ROUTES: Final = 4096
MAX_BRIDGE_ROUTES: Final = 8192
MAX_BRIDGE_RECIPIENTS: Final = 32
"""Active bridges that get a frame for a MAC that is behind none we know (ZT_MAX_BRIDGE_SPAM)."""
MAX_MATCHES: Final = 65536
"""Matches in all filters that are kept, of half a kilobyte each."""
MATCHES_RATE: Final = (100_000.0, 100_000.0)
"""Matches that the frames of one network may cost, a second and at once, where its rules are dear (``DEAR``) and the
outcome is not known from a frame that looks the same: a third of a second at the worst. A controller with a thousand
rules that match at random slows its own network down, and nobody else's."""
_ETHERNET_HEADER: Final = 14
_IP: Final = frozenset(ethertype.to_bytes(2, "big") for ethertype in (TYPE_IPV4, TYPE_IPV6))


class FrameRoute:
    """Where frames with one Ethernet header go. ``filter`` is None where all of them pass."""

    __slots__ = ("address", "filter", "header", "pending", "skip", "until", "verb")

    def __init__(self, address: int, verb: int, header: bytes, skip: int, filter_: FlowFilter | None, until: float):
        self.address = address
        """0: not a plain unicast to a member; handled frame by frame."""
        self.verb = verb
        self.header = header
        """What stands before the frame in the packet."""
        self.skip = skip
        """Bytes of the frame that the packet leaves out: the MACs, in FRAME."""
        self.filter = filter_
        self.until = until
        self.pending: list[tuple[bytes, Buffer]] = []


class Inflow:
    """What to do with the FRAMEs of one peer and Ethernet type. ``filter`` is None where all of them pass."""

    __slots__ = ("filter", "forwarding", "header", "until")

    def __init__(self, forwarding: Forwarding, header: bytes, filter_: FlowFilter | None, until: float):
        self.forwarding = forwarding
        self.header = header
        self.filter = filter_
        self.until = until


class PlainFlow(NamedTuple):
    """Frames of one member and EtherType that all pass, both ways, until then (monotonic seconds): what somebody else
    may know to carry them in our place."""

    nwid: int
    address: int
    own_mac: bytes
    peer_mac: bytes
    ethertype: bytes
    mtu: int
    """The longest IP packet, bytes."""
    until: float


class Members(Protocol):
    """What the data plane wants to know of the other members."""

    def membership(self, address: int) -> Membership: ...

    def push_credentials(self, address: int, now: float) -> None: ...


class FrameFigures:
    """Frames of one network and their bytes, Ethernet header included: those that came from members and went to the
    stack, and those that the rules let go to members."""

    __slots__ = ("bytes_received", "bytes_sent", "received", "sent")

    def __init__(self) -> None:
        self.received = self.bytes_received = self.sent = self.bytes_sent = 0

    def count_sent(self, frames: int, octets: int) -> None:
        """So many more."""
        self.sent += frames
        self.bytes_sent += octets

    def count_received(self, frames: int, octets: int) -> None:
        """So many more."""
        self.received += frames
        self.bytes_received += octets


class Forwarding:
    """One network's data plane. It is idle until ``configure`` was called with a configuration."""

    def __init__(self, core: Vl2Core, nwid: int, mac: int, members: Members, multicaster: Multicaster) -> None:
        self._core = core
        self._nwid = nwid
        self._nwid_bytes = nwid.to_bytes(8, "big")
        self._mac = mac
        self._mac_bytes = mac.to_bytes(6, "big")
        self._first_octet = first_octet(nwid)
        self._members = members
        self._multicaster = multicaster
        self._config: NetworkConfig | None = None
        self._bridges: frozenset[int] = frozenset()
        self._routes: dict[bytes, FrameRoute] = {}
        self._filters: dict[tuple[bool, int, int, int, int], FlowFilter] = {}
        self._matches = 0
        self._affordable = TokenBucket(*MATCHES_RATE)
        self._behind: dict[int, int] = {}
        self.inbox: list[Frame] = []
        """Frames for the stack, until the switch takes them."""
        self.counters: Counter[str] = Counter()
        """This network's drops, by reason."""
        self.figures = FrameFigures()

    def configure(self, config: NetworkConfig | None) -> None:
        """A configuration came into force, or (None) the network is closed to us."""
        self._config = config
        self._bridges = frozenset(config.with_role(SPECIALIST_ACTIVE_BRIDGE)) if config is not None else frozenset()
        self.invalidate()

    def invalidate(self) -> None:
        """Something that routes and inflows rest upon has changed."""
        self._routes.clear()
        self._filters.clear()
        self._matches = 0
        self._core.forget_inflows()

    def drop(self, reason: str) -> None:
        """Count a frame that goes no further."""
        self.counters[reason] += 1
        self._core.counters[reason] += 1

    # Frames of the stack

    def send(self, frames: Sequence[Buffer], now: float) -> None:
        """Send Ethernet frames. Never raises on their content."""
        config = self._config
        if config is None:
            self._core.counters["drop_not_joined"] += len(frames)
            self.counters["drop_not_joined"] += len(frames)
            return
        routes = self._routes
        used: list[FrameRoute] = []
        longest = config.mtu + _ETHERNET_HEADER
        octets = 0
        for frame in frames:
            head = bytes(frame[:_ETHERNET_HEADER])
            route = routes.get(head)
            if route is None or now >= route.until:
                if len(head) < _ETHERNET_HEADER:
                    self.drop("drop_short_frame")
                    continue
                route = self._route(config, head, now)
            length = len(frame)
            if length > longest:
                self.drop("drop_oversize_frame")
                continue
            if not route.address:
                self._send_special(config, head, frame, now)
                continue
            if route.filter is not None and not route.filter.passes(frame[_ETHERNET_HEADER:]):
                self.drop("drop_rules_out")
                continue
            if not route.pending:
                used.append(route)
            route.pending.append((route.header, frame[route.skip :]))
            octets += length
        self.figures.bytes_sent += octets
        for route in used:
            pending, route.pending = route.pending, []
            self.figures.sent += len(pending)
            try:
                self._core.vl1.send_batch(route.address, route.verb, pending, now)
            except ValueError:  # the network's MTU exceeds what a packet holds
                self.drop("drop_too_long_to_send")

    def _route(self, config: NetworkConfig, head: bytes, now: float) -> FrameRoute:
        """Find out what to do with frames that begin with ``head``, and remember it."""
        destination, source = int.from_bytes(head[:6], "big"), int.from_bytes(head[6:12], "big")
        ethertype = int.from_bytes(head[12:14], "big")
        until = now + ROUTE_LIFETIME
        route = FrameRoute(0, 0, b"", 0, None, until)
        unicast = head[0] == self._first_octet and destination != self._mac
        if unicast and (source == self._mac or self._may_bridge):
            address = address_of(destination, self._nwid)
            if address and address >> 32 != 0xFF and address != self._core.address:
                self._members.push_credentials(address, now)
                filter_ = self._outgoing_filter(config, address, source, destination, ethertype)
                used_filter = None if filter_.constant == PASSED else filter_
                if source == self._mac:
                    route = FrameRoute(address, VERB_FRAME, self._nwid_bytes, 12, used_filter, until)
                else:
                    route = FrameRoute(address, VERB_EXT_FRAME, self._nwid_bytes + b"\x00", 0, used_filter, until)
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[head] = route
        return route

    @property
    def _may_bridge(self) -> bool:
        """Whether the controller lets us bridge other hosts in."""
        return self._core.address in self._bridges

    def _send_special(self, config: NetworkConfig, head: bytes, frame: Buffer, now: float) -> None:
        """Send a frame that does not simply go to one member."""
        destination, source = int.from_bytes(head[:6], "big"), int.from_bytes(head[6:12], "big")
        ethertype = int.from_bytes(head[12:14], "big")
        payload = frame[_ETHERNET_HEADER:]
        if source != self._mac and not self._may_bridge:
            self.drop("drop_not_a_bridge")
        elif is_multicast(destination):
            self._send_multicast(config, destination, source, ethertype, payload, now)
        elif destination == self._mac:
            self.inbox.append((head, bytes(payload)))
        elif head[0] == self._first_octet:
            self.drop("drop_no_such_member")
        else:
            self._send_behind_bridge(config, destination, source, ethertype, payload, now)

    def _send_multicast(
        self, config: NetworkConfig, destination: int, source: int, ethertype: int, payload: Buffer, now: float
    ) -> None:
        group = group_of(destination, ethertype, payload)
        if destination == (1 << 48) - 1 and not group.adi and not config.broadcast:
            self.drop("drop_broadcast_disabled")
            return
        if ethertype == TYPE_IPV6 and config.ndp_emulation and self._answer_solicitation(config, source, payload):
            return
        if config.multicast_limit == 0:
            self.drop("drop_multicast_disabled")
            return
        if source != self._mac:
            self._multicaster.subscribe(group, now)
        if not self._outgoing_filter(config, 0, source, destination, ethertype).passes(payload):
            self.drop("drop_rules_out")
            return
        self.figures.count_sent(1, _ETHERNET_HEADER + len(payload))
        whole = bytes(payload)

        def allowed(address: int) -> bool:
            filter_ = self._outgoing_filter(config, address, source, destination, ethertype)
            return bool(filter_.passes(whole, copies=False))

        mac = None if source == self._mac else source
        self._multicaster.send(group, ethertype, whole, allowed, now, source=mac)

    def _answer_solicitation(self, config: NetworkConfig, source: int, packet: Buffer) -> bool:
        """Answer a neighbour solicitation for the member whose address it asks for. False: others have to."""
        target = ndp_emulation.solicited_target(packet)
        if target is None:
            return False
        found = ndp_emulation.embedded_address(target, self._nwid, config.static_addresses)
        if found is None or found[0] in (0, self._core.address):
            return False
        address, own = found
        header = source.to_bytes(6, "big") + mac_of(address, self._nwid).to_bytes(6, "big")
        header += TYPE_IPV6.to_bytes(2, "big")
        self.inbox.append((header, ndp_emulation.advertisement(target, own, address, self._nwid)))
        return True

    def _send_behind_bridge(
        self, config: NetworkConfig, destination: int, source: int, ethertype: int, payload: Buffer, now: float
    ) -> None:
        if not self._outgoing_filter(config, 0, source, destination, ethertype).passes(payload):
            self.drop("drop_rules_out")
            return
        own = self._core.address
        known = self._behind.get(destination)
        if known is not None and known in self._bridges and known != own:
            bridges = [known]
        else:
            others = [bridge for bridge in self._bridges if bridge != own]
            bridges = sample(others, MAX_BRIDGE_RECIPIENTS, self._core.random)
        if bridges:
            self.figures.count_sent(1, _ETHERNET_HEADER + len(payload))
        else:
            self.drop("drop_no_bridge")
        for bridge in bridges:
            if self._outgoing_filter(config, bridge, source, destination, ethertype).passes(payload, copies=False):
                self._members.push_credentials(bridge, now)
                frame = ExtFrame(self._nwid, 0, destination, source, ethertype, payload)
                self._core.send(bridge, VERB_EXT_FRAME, build_ext_frame(frame), now)

    def plain_flows(self, now: float) -> Iterator[PlainFlow]:
        """The IP frames of the stack, by member, that were sent lately and all pass."""
        mtu = 0 if self._config is None else self._config.mtu
        for head, route in self._routes.items():
            if (
                head[12:] in _IP
                and route.address
                and route.verb == VERB_FRAME
                and route.filter is None
                and now < route.until
            ):
                yield PlainFlow(self._nwid, route.address, head[6:12], head[:6], head[12:], mtu, route.until)

    # Frames of peers

    def take(self) -> list[Frame]:
        """What is in the inbox, which is empty then."""
        inbox, self.inbox = self.inbox, []
        octets = sum([len(payload) for _, payload in inbox]) + _ETHERNET_HEADER * len(inbox)
        self.figures.count_received(len(inbox), octets)
        return inbox

    def inflow(self, peer: Peer, ethertype: bytes, now: float) -> Inflow:
        """What to do with FRAMEs of an admitted peer; ``ethertype`` as 2 bytes."""
        source = mac_of(peer.address, self._nwid)
        filter_ = self._incoming_filter(peer.address, source, self._mac, int.from_bytes(ethertype, "big"))
        header = self._mac_bytes + source.to_bytes(6, "big") + ethertype
        always_passes = filter_.constant in (PASSED, PASSED_UNCHECKED)
        return Inflow(self, header, None if always_passes else filter_, now + ROUTE_LIFETIME)

    def receive_ext(self, peer: Peer, packet_id: int, frame: ExtFrame, now: float) -> None:
        """Take an EXT_FRAME of an admitted peer."""
        self._take_ext(peer, frame)
        if frame.flags & EXT_FLAG_ACK_REQUESTED:
            self._core.vl1.reply_ok(peer, VERB_EXT_FRAME, packet_id, self._nwid_bytes, now)

    def _take_ext(self, peer: Peer, frame: ExtFrame) -> None:
        if not frame.source or frame.source == self._mac or not frame.payload:
            self.drop("drop_invalid_source_mac")
            return
        filter_ = self._incoming_filter(peer.address, frame.source, frame.destination, frame.ethertype)
        verdict = filter_.passes(frame.payload)
        if verdict == REFUSED:
            self.drop("drop_rules_in")
            return
        if verdict == PASSED and not self._addresses_fit(peer, frame.source, frame.destination):
            return
        self._deliver(frame.destination, frame.source, frame.ethertype, frame.payload)

    def receive_multicast(self, peer: Peer, frame: MulticastFrame, now: float) -> None:
        """Take a MULTICAST_FRAME of an admitted peer."""
        config = self._config
        destination = frame.group.mac
        source = mac_of(peer.address, self._nwid) if frame.source is None else frame.source
        if config is None or config.multicast_limit == 0:
            self.drop("drop_multicast_disabled")
        elif not is_multicast(destination) or not frame.payload:
            self.drop("drop_not_multicast")
        elif not source or is_multicast(source) or source == self._mac:
            self.drop("drop_invalid_source_mac")
        else:
            if frame.replicate and self._core.address in config.with_role(SPECIALIST_MULTICAST_REPLICATOR):
                self._replicate(config, peer, frame, source, now)
            if not self._source_fits(peer, source):
                return
            filter_ = self._incoming_filter(peer.address, source, destination, frame.ethertype)
            if filter_.passes(frame.payload):
                self._deliver(destination, source, frame.ethertype, frame.payload)
            else:
                self.drop("drop_rules_in")

    def _replicate(self, config: NetworkConfig, peer: Peer, frame: MulticastFrame, source: int, now: float) -> None:
        whole = bytes(frame.payload)

        def allowed(address: int) -> bool:
            filter_ = self._outgoing_filter(config, address, source, frame.group.mac, frame.ethertype)
            return bool(filter_.passes(whole, copies=False))

        self._multicaster.send(frame.group, frame.ethertype, whole, allowed, now, source=source, origin=peer.address)

    def _source_fits(self, peer: Peer, source: int) -> bool:
        """Whether a peer may send from this MAC: its own, or any if it is a bridge."""
        if source == mac_of(peer.address, self._nwid):
            return True
        if peer.address not in self._bridges:
            self.drop("drop_peer_is_no_bridge")
            return False
        self._learn_bridge_route(source, peer.address)
        return True

    def _addresses_fit(self, peer: Peer, source: int, destination: int) -> bool:
        """Whether a peer may send from and to these MACs."""
        if not self._source_fits(peer, source):
            return False
        if source != mac_of(peer.address, self._nwid) or destination == self._mac:
            return True
        if is_multicast(destination):
            if self._config is not None and self._config.multicast_limit == 0:
                self.drop("drop_multicast_disabled")
                return False
        elif not self._may_bridge:
            self.drop("drop_not_a_bridge")
            return False
        return True

    def _learn_bridge_route(self, mac: int, bridge: int) -> None:
        if len(self._behind) >= MAX_BRIDGE_ROUTES and mac not in self._behind:
            # The bridge that claims the most MACs is taken for the flooder (reference Network::learnBridgeRoute).
            flooder = Counter(self._behind.values()).most_common(1)[0][0]
            self._behind = {known: address for known, address in self._behind.items() if address != flooder}
        self._behind[mac] = bridge

    def _deliver(self, destination: int, source: int, ethertype: int, payload: Buffer) -> None:
        header = destination.to_bytes(6, "big") + source.to_bytes(6, "big") + ethertype.to_bytes(2, "big")
        self.inbox.append((header, payload))

    # Rules

    def _flow(
        self, config: NetworkConfig, inbound: bool, remote: int, source: int, destination: int, ethertype: int
    ) -> EthernetFlow:
        own = self._core.address
        membership = self._members.membership(remote) if remote else None
        return EthernetFlow(
            inbound=inbound,
            local=own,
            source=remote if inbound else own,
            destination=own if inbound else remote,
            source_mac=source,
            destination_mac=destination,
            ethertype=ethertype,
            local_tags={tag.id: tag.value for tag in config.tags},
            tag=_tags_of(config, membership),
            owns=_ownership_of(config, membership if inbound else None, inbound),
            random=lambda: int.from_bytes(self._core.random(4), "big"),
            unsupported_matches=bool(config.flags & FLAG_UNSUPPORTED_MATCH_MATCHES),
        )

    def _forwarder(self, source: int, destination: int, ethertype: int) -> Forwarder:
        """Sends copies for TEE, WATCH and REDIRECT."""

        def forward(address: int, flags: int, payload: Buffer) -> None:
            if address and address != self._core.address:
                frame = ExtFrame(self._nwid, flags, destination, source, ethertype, payload)
                self._core.send(address, VERB_EXT_FRAME, build_ext_frame(frame), self._core.now, compress=True)

        return forward

    def _outgoing_filter(
        self, config: NetworkConfig, address: int, source: int, destination: int, ethertype: int
    ) -> FlowFilter:
        """The filter towards one member, or (address 0) for the frame as such."""
        capabilities = (capability.rules for capability in config.capabilities)
        return self._filter(config, False, address, source, destination, ethertype, capabilities)

    def _incoming_filter(self, address: int, source: int, destination: int, ethertype: int) -> FlowFilter:
        config = self._config
        assert config is not None  # peers are admitted under a configuration alone
        held = sorted(self._members.membership(address).capabilities(config), key=lambda capability: capability.id)
        capabilities = (capability.rules for capability in held)
        return self._filter(config, True, address, source, destination, ethertype, capabilities)

    def _filter(
        self,
        config: NetworkConfig,
        inbound: bool,
        address: int,
        source: int,
        destination: int,
        ethertype: int,
        capabilities: Iterable[Sequence[Rule]],
    ) -> FlowFilter:
        """Filters are kept: whatever is not plain unicast asks for one per frame."""
        key = (inbound, address, source, destination, ethertype)
        filter_ = self._filters.get(key)
        if filter_ is None:
            flow = self._flow(config, inbound, address, source, destination, ethertype)
            forward = self._forwarder(source, destination, ethertype)
            filter_ = FlowFilter(config.rules, capabilities, flow, forward, self._afford)
            self._matches += filter_.cost
            if len(self._filters) >= MAX_ROUTES or self._matches > MAX_MATCHES:
                self.invalidate()
                self._matches = filter_.cost
            self._filters[key] = filter_
        return filter_

    def _afford(self, matches: int) -> bool:
        """Whether the network's dear rules may be looked at once more."""
        if self._affordable.admit(self._core.now, matches):
            return True
        self.drop("drop_rules_too_dear")
        return False


def _tags_of(config: NetworkConfig, membership: Membership | None) -> Callable[[int], int | None]:
    if membership is None:
        return lambda _tag_id: None
    return lambda tag_id: membership.tag(config, tag_id)


def _ownership_of(
    config: NetworkConfig, membership: Membership | None, inbound: bool
) -> Callable[[IPv4Address | IPv6Address | int], bool]:
    """Whether the sender owns something: by the certificates that the peer has shown, or those that we have."""
    if membership is not None:
        return lambda thing: membership.owns(config, thing)
    certificates = () if inbound else config.certificates_of_ownership
    return lambda thing: any(certificate.owns(thing) for certificate in certificates)
