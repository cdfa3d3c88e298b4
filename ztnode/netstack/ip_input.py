"""IP input: everything that the stack's fast path does not take (RFC 1122 section 3.2.1, RFC 8200)."""

from __future__ import annotations

from ztnode.netstack.clock import Clock
from ztnode.netstack.icmp import IcmpLayer
from ztnode.netstack.port import Port
from ztnode.netstack.reassembler import Reassembler
from ztnode.netstack.tcp.connection_key import ConnectionKey
from ztnode.netstack.transit import Transit
from ztnode.netstack.udp import UdpLayer
from ztnode.wire import icmp, icmpv6, ipv4, ipv6
from ztnode.wire.tcp import HEADER_LENGTH as TCP_HEADER_LENGTH
from ztnode.wire.wire_error import WireError


class IpInput:
    """Checks packets, reassembles fragments, hands over to ICMP, UDP and TCP."""

    def __init__(
        self,
        clock: Clock,
        reassembler: Reassembler,
        icmp_layer: IcmpLayer,
        udp_layer: UdpLayer,
        transit: Transit,
    ) -> None:
        self._clock = clock
        self._reassembler = reassembler
        self._icmp = icmp_layer
        self._udp = udp_layer
        self._transit = transit
        self.segments: list[tuple[ConnectionKey, memoryview]] = []
        """TCP segments of the batch at hand."""

    def receive_ipv4(self, port: Port, packet: memoryview, link_group: bool) -> None:
        """One IPv4 packet. ``link_group``: the frame was multicast or broadcast."""
        try:
            header, payload = ipv4.parse(packet)
        except WireError:
            port.count("bad_ip")
            return
        destination = header.destination
        to_group = destination in port.broadcasts or destination in port.groups
        foreign = destination not in port.addresses and not to_group
        if foreign and not self._may_pass(port, packet, destination, link_group):
            return
        if not port.source_ok(header.source):
            port.count("bad_source")
            return
        protocol = header.protocol
        if header.is_fragment:
            key = (port.index, header.source, destination, protocol, header.identification)
            whole = self._reassembler.add(
                key, header.fragment_offset, header.more_fragments, protocol, payload, packet, self._clock.now
            )
            if whole is None:
                return
            # An error quotes the first fragment, which has the transport header (RFC 1122 section 3.2.2).
            payload, packet = memoryview(whole[1]), memoryview(whole[2])
        if protocol == ipv4.PROTOCOL_TCP:
            self._tcp(port, header.source, destination, payload, to_group or link_group)
        elif protocol == ipv4.PROTOCOL_UDP and foreign:
            self._transit.receive_datagram(port, header.source, destination, payload)
        elif protocol == ipv4.PROTOCOL_UDP:
            found = self._udp.receive(port, header.source, destination, payload)
            if not found and not to_group and not link_group:
                port.count("udp_no_socket")
                self._icmp.send_error(port, packet, icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)
        elif protocol == ipv4.PROTOCOL_ICMP:
            self._icmp.receive_ipv4(port, header, payload, to_group or link_group)
        elif not to_group and not link_group:
            port.count("unknown_protocol")
            self._icmp.send_error(port, packet, icmp.UNREACHABLE, icmp.PROTOCOL_UNREACHABLE)

    def receive_ipv6(self, port: Port, packet: memoryview, link_group: bool) -> None:
        """One IPv6 packet."""
        try:
            header, payload = ipv6.parse(packet)
        except WireError:
            port.count("bad_ip")
            return
        destination = header.destination
        to_group = ipv6.is_multicast(destination)
        if destination not in (port.groups if to_group else port.addresses) and not self._may_pass(
            port, packet, destination, to_group or link_group
        ):
            return
        if header.source != ipv6.UNSPECIFIED and not port.source_ok(header.source):
            port.count("bad_source")
            return
        next_header = header.next_header
        start = ipv6.HEADER_LENGTH
        # Twice at most: before and after reassembly.
        while True:
            extensions = self._extensions(port, packet, next_header, payload, start)
            if extensions is None:
                return
            fragment = extensions.fragment
            if fragment is None:
                break
            key = (port.index, header.source, destination, 0, fragment.identification)
            reassembled = self._reassembler.add(
                key,
                fragment.offset,
                fragment.more,
                fragment.next_header,
                extensions.payload,
                packet,
                self._clock.now,
            )
            if reassembled is None:
                return
            next_header, whole, first = reassembled
            if next_header == ipv6.NEXT_FRAGMENT:
                port.count("bad_fragment")  # a fragment of a fragment
                return
            # Errors quote the first fragment; what stands before the payload is the same in all (RFC 8200 section 4.5).
            start = ipv6.HEADER_LENGTH + header.payload_length - len(extensions.payload)
            payload, packet = memoryview(whole), memoryview(first)
        self._ipv6_upper(port, packet, header, extensions, to_group or link_group)

    def _may_pass(self, port: Port, packet: memoryview, destination: bytes, to_group: bool) -> bool:
        """Whether a packet to an address that is not ours is for us as a gateway. The sender of one that came to us as
        such, but goes where we do not lead, is told so."""
        if to_group or not port.passes(destination):
            self.refuse(port, packet, to_group=to_group)
            return False
        return True

    def refuse(self, port: Port, packet: memoryview, *, to_group: bool = False) -> None:
        """A packet to an address that is neither ours nor one that we lead to."""
        port.count("not_for_us")
        if port.transit is not None and not to_group:
            port.count("transit_refused")
            self._icmp.send_prohibited(port, packet)

    def _extensions(
        self, port: Port, packet: memoryview, next_header: int, payload: memoryview, start: int
    ) -> ipv6.Extensions | None:
        """The end of the header chain; None when the packet was dropped."""
        error = self._icmp.send_error
        try:
            extensions = ipv6.parse_extensions(next_header, payload, start)
        except ipv6.UnrecognisedOption as problem:
            port.count("bad_ip")
            if problem.report:
                code = icmpv6.UNRECOGNISED_OPTION
                group = problem.report_multicast
                error(port, packet, icmpv6.PARAMETER_PROBLEM, code, problem.pointer, even_to_group=group)
            return None
        except WireError:
            port.count("bad_ip")
            return None
        if extensions.routing_segments_left:
            # We are no router, and RFC 5095 has done away with type 0.
            port.count("bad_ip")
            code = icmpv6.ERRONEOUS_FIELD
            error(port, packet, icmpv6.PARAMETER_PROBLEM, code, extensions.routing_field)
            return None
        return extensions

    def _ipv6_upper(
        self, port: Port, packet: memoryview, header: ipv6.Header, extensions: ipv6.Extensions, to_group: bool
    ) -> None:
        protocol, payload = extensions.protocol, extensions.payload
        if protocol == icmpv6.PROTOCOL:
            self._icmp.receive_ipv6(port, header, payload)
        elif header.source == ipv6.UNSPECIFIED:
            port.count("bad_source")
        elif protocol == ipv6.NEXT_TCP:
            self._tcp(port, header.source, header.destination, payload, to_group)
        elif protocol == ipv6.NEXT_UDP and not to_group and header.destination not in port.addresses:
            self._transit.receive_datagram(port, header.source, header.destination, payload)
        elif protocol == ipv6.NEXT_UDP:
            found = self._udp.receive(port, header.source, header.destination, payload)
            if not found and not to_group:
                port.count("udp_no_socket")
                self._icmp.send_error(port, packet, icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE)
        elif protocol != ipv6.NEXT_NONE:
            port.count("unknown_protocol")
            code, pointer = icmpv6.UNRECOGNISED_NEXT_HEADER, extensions.protocol_field
            self._icmp.send_error(port, packet, icmpv6.PARAMETER_PROBLEM, code, pointer)

    def _tcp(self, port: Port, source: bytes, destination: bytes, segment: memoryview, to_group: bool) -> None:
        if to_group:
            port.count("tcp_to_group")  # RFC 9293 section 3.9.2.3 (MUST-57)
        elif len(segment) < TCP_HEADER_LENGTH:
            port.count("bad_tcp")
        else:
            self.segments.append((source + destination + bytes(segment[:4]), segment))
