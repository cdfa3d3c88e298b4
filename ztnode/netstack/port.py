"""An Ethernet port of the stack: MAC, MTU, addresses, groups, neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Final

from ztnode.netstack.clock import Clock
from ztnode.netstack.config import PortConfig, StackConfig
from ztnode.netstack.frame import Frame
from ztnode.netstack.neighbour_cache import Neighbour, NeighbourCache
from ztnode.wire import arp, checksum, ethernet, icmpv6, ipv4, ipv6

_ALL_SYSTEMS: Final = bytes((224, 0, 0, 1))
_MAX_FAMILIAR: Final = 4096


class Port:
    """What belongs to one virtual network."""

    def __init__(
        self,
        index: int,
        config: PortConfig,
        stack_config: StackConfig,
        *,
        clock: Clock,
        random: Callable[[int], bytes],
        queue: list[tuple[int, Frame]],
        loop: list[tuple[int, bytes]],
        failed: Callable[[Port, Neighbour, list[Frame]], None],
        counters: dict[str, int],
    ) -> None:
        self.index = index
        self.clock = clock
        self.queue = queue
        """The stack's output, in order: (port index, frame)."""
        self.counters = counters
        self.looping = False
        """The frames at hand are our own, turned round inside the stack."""
        self.transit: Callable[[Port, bytes], bool] | None = None
        """Whether packets to an address that is none of ours are for us all the same; None: never."""
        self.takes: dict[bytes, int] = {}
        """Longest IP packet, bytes, that gets through to us from a neighbour, by its MAC; others: the port's MTU."""
        self.familiar: set[bytes] = set()
        """Source and destination, together, of packets that came from outside and were to an address of ours: they need
        not be looked at again."""
        self._loop = loop
        self.joined: frozenset[bytes] = frozenset()
        """IP multicast groups that sockets have joined."""
        self.neighbours = NeighbourCache(
            clock,
            stack_config.neighbours,
            random=random,
            solicit=self._solicit,
            output=self._output,
            failed=lambda neighbour, pending: failed(self, neighbour, pending),
            counters=counters,
        )
        self.configure(config)

    def configure(self, config: PortConfig) -> None:
        """Set MAC, MTU and addresses. Raises ValueError for an address that is none, or an MTU below 576 (1280 with
        IPv6 addresses)."""
        interfaces = [ip_interface(cidr) for cidr in config.addresses]
        floor = ipv6.MINIMUM_MTU if any(interface.version == 6 for interface in interfaces) else 576
        if not floor <= config.mtu <= 65535:
            raise ValueError(f"MTU {config.mtu} is not between {floor} and 65535")
        self.config = config
        self.familiar.clear()
        self.mac = ethernet.mac_bytes(config.mac)
        self.mtu = config.mtu
        self.prefixes: list[tuple[bytes, int]] = []
        """(address, prefix length) in the order configured, the link-local IPv6 address last."""
        self.own_groups: set[bytes] = {_ALL_SYSTEMS, ipv6.ALL_NODES}
        """IP multicast groups that every host is in (RFC 1112, RFC 4291 section 2.8)."""
        self.broadcasts: set[bytes] = {ipv4.BROADCAST}
        for interface in interfaces:
            self.prefixes.append((interface.packed, interface.network.prefixlen))
            if isinstance(interface, IPv4Interface):
                if interface.network.prefixlen < 31:  # RFC 3021
                    self.broadcasts.add(interface.network.broadcast_address.packed)
            else:
                self.own_groups.add(ipv6.solicited_node(interface.packed))
        if any(len(address) == 16 for address, _ in self.prefixes):
            local = ipv6.link_local(self.mac)
            self.prefixes.append((local, 64))
            self.own_groups.add(ipv6.solicited_node(local))
        self.addresses: frozenset[bytes] = frozenset(address for address, _ in self.prefixes)
        self.routed_here: list[IPv4Network | IPv6Network] = [
            ip_network(target, strict=False)
            for target, via in config.routes
            if via is not None and ip_address(via).packed in self.addresses
        ]
        """Targets of the managed routes whose gateway we are."""
        self._loopback: list[IPv4Network | IPv6Network] = [
            network
            for target, via in config.routes
            if via is not None and (network := ip_network(target, strict=False)).is_loopback
        ]
        """Of a gateway's host, to which it leads because it was told to: they may be sources here."""
        self.join(self.joined)

    def join(self, joined: frozenset[bytes]) -> None:
        """Receive these IP multicast groups, beside those that every host is in."""
        self.joined = joined
        self.groups: frozenset[bytes] = joined | self.own_groups
        """All IP multicast groups that we receive."""
        self.group_macs: frozenset[bytes] = frozenset(map(_group_mac, self.groups))
        """Multicast MACs that we receive: what the layer below should subscribe to."""
        self.accepted_macs: frozenset[bytes] = self.group_macs | {self.mac, ethernet.BROADCAST}

    @property
    def joined_macs(self) -> frozenset[bytes]:
        """The multicast MACs of the groups that sockets have joined."""
        return frozenset(map(_group_mac, self.joined))

    def source_for(self, target: bytes) -> bytes | None:
        """Our address to speak to ``target`` from (RFC 6724 rules 1, 2 and 8: the address itself, then the same scope,
        then the longest common prefix); None when we have none of its family."""
        best: bytes | None = None
        best_rank = (-1, -1)
        value = int.from_bytes(target, "big")
        size = len(target)
        link_local = size == 16 and (ipv6.is_link_local(target) or (target[0] == 0xFF and target[1] & 0x0F == 2))
        for address, _ in self.prefixes:
            if len(address) != size:
                continue
            same_scope = size == 4 or ipv6.is_link_local(address) == link_local
            common = size * 8 - (int.from_bytes(address, "big") ^ value).bit_length()
            if (same_scope, common) > best_rank:
                best, best_rank = address, (same_scope, common)
        return best

    def passes(self, address: bytes) -> bool:
        """Whether packets to an address that is none of ours are for us, as the gateway to it."""
        return self.transit is not None and self.transit(self, address)

    def source_ok(self, source: bytes) -> bool:
        """Whether a packet may have come from there (RFC 1122 section 3.2.1.3): no group, broadcast, loopback or
        unspecified address; our own only on a packet that turned round inside."""
        if source in self.addresses:
            return self.looping
        if len(source) == 4:
            if source[0] == 127:
                return self._is_behind_gateway(source)
            return 0 < source[0] < 224 and source not in self.broadcasts
        return source[0] != 0xFF and (source[:15] != bytes(15) or self._is_behind_gateway(source))

    def _is_behind_gateway(self, source: bytes) -> bool:
        return any(ip_address(source) in network for network in self._loopback)

    def met(self, pair: bytes) -> None:
        """One more of ``familiar``. All are forgotten when there are too many: anybody can make up sources."""
        if len(self.familiar) >= _MAX_FAMILIAR:
            self.familiar.clear()
        self.familiar.add(pair)

    def neighbour_mac(self, destination: bytes) -> bytes | None:
        """The MAC that needs no asking: of a multicast group or a broadcast address."""
        if len(destination) == 16:
            return ethernet.ipv6_multicast(destination) if ipv6.is_multicast(destination) else None
        if ipv4.is_multicast(destination):
            return ethernet.ipv4_multicast(destination)
        return ethernet.BROADCAST if destination in self.broadcasts else None

    # --- sending ---
    def transmit(self, mac: bytes, ethertype: int, packet: bytes) -> None:
        """Queue one frame to a known MAC."""
        self.queue.append((self.index, (ethernet.build(mac, self.mac, ethertype) + packet,)))

    def _output(self, frames: Sequence[Frame]) -> None:
        index = self.index
        self.queue.extend([(index, frame) for frame in frames])

    def loop_back(self, frames: Sequence[Frame]) -> None:
        """Frames to ourselves: the stack receives them in its next round. Bounded by dropping, like a full NIC ring."""
        for frame in frames:
            if len(self._loop) >= 1024:
                self.count("loopback_full")
            else:
                self._loop.append((self.index, b"".join(frame)))

    def _solicit(self, address: bytes, mac: bytes | None) -> None:
        source = self.source_for(address)
        if source is None:
            self.count("no_source_address")
            return
        if len(address) == 4:
            request = arp.build(arp.Arp(arp.REQUEST, self.mac, source, bytes(6), address))
            self.transmit(mac or ethernet.BROADCAST, ethernet.TYPE_ARP, request)
            return
        destination = address if mac else ipv6.solicited_node(address)
        solicitation = icmpv6.Neighbour(icmpv6.NEIGHBOUR_SOLICITATION, address, self.mac)
        self.send_neighbour(source, destination, mac or ethernet.ipv6_multicast(destination), solicitation)

    def send_neighbour(self, source: bytes, destination: bytes, mac: bytes, message: icmpv6.Neighbour) -> None:
        """Send a neighbour discovery message; its hop limit of 255 proves that it is from this link (RFC 4861 3.1)."""
        pseudo = checksum.pseudo_sum(source, destination, icmpv6.PROTOCOL)
        body = icmpv6.build_neighbour(message, pseudo)
        header = ipv6.build(ipv6.Header(source, destination, icmpv6.PROTOCOL, len(body), hop_limit=255))
        self.transmit(mac, ethernet.TYPE_IPV6, header + body)

    def announce(self, address: bytes) -> None:
        """Tell the link that the address is here (RFC 5227 section 2.3, RFC 4861 section 7.2.6)."""
        if len(address) == 4:
            packet = arp.build(arp.Arp(arp.REQUEST, self.mac, address, bytes(6), address))
            self.transmit(ethernet.BROADCAST, ethernet.TYPE_ARP, packet)
        else:
            advertisement = icmpv6.Neighbour(icmpv6.NEIGHBOUR_ADVERTISEMENT, address, self.mac, icmpv6.OVERRIDE)
            self.send_neighbour(address, ipv6.ALL_NODES, ethernet.ipv6_multicast(ipv6.ALL_NODES), advertisement)

    def count(self, what: str, amount: int = 1) -> None:
        """Count a drop or an odd event."""
        self.counters[what] = self.counters.get(what, 0) + amount


def _group_mac(group: bytes) -> bytes:
    """The MAC of an IP multicast group (RFC 1112 section 6.4, RFC 2464 section 7)."""
    return ethernet.ipv4_multicast(group) if len(group) == 4 else ethernet.ipv6_multicast(group)
