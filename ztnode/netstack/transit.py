"""What comes to us as the gateway of other networks: kept for its owner, who carries it on by other means.

Nothing is passed on as a packet. A SYN is held until the owner has a connection to its target, and datagrams and echo
requests are handed over as what is in them; ``Stack`` has the calls by which answers go back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from ztnode.netstack.host import Host
from ztnode.netstack.port import Port
from ztnode.netstack.tcp.held_syns import HeldSyns
from ztnode.wire import checksum, icmpv6, ipv4, udp
from ztnode.wire.wire_error import WireError

_REMEMBERED: Final = 8192
"""Addresses of which it is known whether they are passed on."""


@dataclass(frozen=True, slots=True)
class UdpFlow:
    """Who sends datagrams to whom; addresses are packed, ``port_index`` is the network's."""

    port_index: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


@dataclass(frozen=True, slots=True)
class EchoFlow:
    """Who pings whom, by the identifier of the requests."""

    port_index: int
    source: bytes
    identifier: int
    destination: bytes


class Prefixes:
    """A set of addresses, given as networks. One look for each prefix length, however many networks there are."""

    __slots__ = ("_by_length",)

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._by_length: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            size = network.max_prefixlen
            shift = size - network.prefixlen
            values = self._by_length.setdefault((size // 8, shift), set())
            values.add(int(network.network_address) >> shift)

    def __contains__(self, address: object) -> bool:
        assert isinstance(address, bytes)
        value, size = int.from_bytes(address, "big"), len(address)
        return any(length == size and value >> shift in values for (length, shift), values in self._by_length.items())


class Transit:
    """Which addresses are passed on, and what came for them since the owner looked last.

    An address is passed on when it is in one of the ``targets`` and a managed route of the network leads to it by one
    of our own addresses: so neither its controller nor we alone can open the way. Never one that is a network's own.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._targets = Prefixes(())
        self._routed: dict[int, Prefixes] = {}
        self._own = Prefixes(())
        self._known: dict[tuple[int, bytes], bool] = {}
        self.fresh_datagrams: list[tuple[UdpFlow, bytes]] = []
        self.fresh_echoes: list[tuple[EchoFlow, int, bytes]] = []
        """What ``datagrams`` and ``echoes`` would give."""
        self.syns = HeldSyns(self.leads, host.count)
        self.owner: object = None
        """Opaque to the stack."""

    def set_targets(self, targets: Sequence[str]) -> None:
        """Pass on what is in these networks (CIDR), and nothing else. Raises ValueError."""
        self._targets = Prefixes([ip_network(target) for target in targets])
        self.ports_changed()

    def ports_changed(self) -> None:
        """Addresses, routes or targets are others now."""
        self._known.clear()
        own: list[IPv4Network | IPv6Network] = []
        self._routed.clear()
        for port in self._host.ports.values():
            config = port.config
            own += [ip_network(cidr, strict=False) for cidr in config.addresses]
            own += [ip_network(target, strict=False) for target, via in config.routes if via is None]
            self._routed[port.index] = Prefixes(port.routed_here)
            port.transit = self.passes if port.routed_here else None
        self._own = Prefixes(own)

    def passes(self, port: Port, address: bytes) -> bool:
        """Whether packets to this address, which is none of ours, are for us to carry on."""
        place = (port.index, address)
        known = self._known.get(place)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            routed = self._routed.get(port.index)
            known = routed is not None and address in routed and address in self._targets and address not in self._own
            self._known[place] = known
        return known

    def leads(self, port_index: int, address: bytes) -> bool:
        """Whether an address is passed on for this network."""
        port = self._host.ports.get(port_index)
        return port is not None and address not in port.addresses and port.passes(address)

    # --- input ---
    def receive_datagram(self, port: Port, source: bytes, destination: bytes, payload: memoryview) -> None:
        """A UDP datagram to an address that is passed on."""
        pseudo = checksum.pseudo_sum(source, destination, ipv4.PROTOCOL_UDP)
        try:
            source_port, port_number, data = udp.parse(payload, pseudo, checksum_required=len(source) == 16)
        except WireError:
            port.count("bad_udp")
            return
        flow = UdpFlow(port.index, source, source_port, destination, port_number)
        self.fresh_datagrams.append((flow, bytes(data)))

    def receive_echo(
        self, port: Port, source: bytes, destination: bytes, identifier: int, sequence: int, body: bytes
    ) -> None:
        """An echo request to an address that is passed on."""
        self.fresh_echoes.append((EchoFlow(port.index, source, identifier, destination), sequence, body))

    # --- for the owner ---
    def datagrams(self) -> list[tuple[UdpFlow, bytes]]:
        """Take the datagrams that came."""
        taken, self.fresh_datagrams = self.fresh_datagrams, []
        return taken

    def echoes(self) -> list[tuple[EchoFlow, int, bytes]]:
        """Take the echo requests that came: flow, sequence number, payload."""
        taken, self.fresh_echoes = self.fresh_echoes, []
        return taken


def quoted_datagram(flow: UdpFlow) -> tuple[int, bytes]:
    """Protocol and first bytes of a datagram of this flow, as a report about it quotes them."""
    return ipv4.PROTOCOL_UDP, udp.HEADER.pack(flow.source_port, flow.destination_port, udp.HEADER_LENGTH, 0)


def quoted_echo(flow: EchoFlow) -> tuple[int, bytes]:
    """Protocol and first bytes of a request of this flow, as a report about it quotes them."""
    identifier = flow.identifier.to_bytes(2, "big")
    if len(flow.source) == 4:
        return ipv4.PROTOCOL_ICMP, b"\x08\0\0\0" + identifier + b"\0\0"
    return icmpv6.PROTOCOL, b"\x80\0\0\0" + identifier + b"\0\0"
