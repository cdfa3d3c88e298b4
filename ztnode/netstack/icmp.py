"""ICMP and ICMPv6 of the stack (RFC 792, RFC 1122 section 3.2.2, RFC 4443).

Echoes are answered and errors sent at a bounded rate; errors received go to the socket that caused them.
"""

from __future__ import annotations

import errno
from typing import Final

from ztnode.netstack.echo import EchoLayer
from ztnode.netstack.flow import HOP_LIMIT, Flow
from ztnode.netstack.host import Host
from ztnode.netstack.ndp import receive as receive_ndp
from ztnode.netstack.port import Port
from ztnode.netstack.tcp.layer import TcpLayer
from ztnode.netstack.transit import Transit
from ztnode.netstack.udp import UdpLayer
from ztnode.token_bucket import TokenBucket
from ztnode.wire import checksum, ethernet, icmp, icmpv6, ipv4, ipv6
from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

# What a report means to a socket, as errno. RFC 1122 section 4.2.3.9 also tells hard errors from soft ones; TCP takes
# all for soft once a connection stands (RFC 5461), and for final before.
_UNREACHABLE_IPV4: Final[dict[int, int]] = {
    icmp.NET_UNREACHABLE: errno.ENETUNREACH,
    icmp.HOST_UNREACHABLE: errno.EHOSTUNREACH,
    icmp.PROTOCOL_UNREACHABLE: errno.ENOPROTOOPT,
    icmp.PORT_UNREACHABLE: errno.ECONNREFUSED,
    5: errno.EOPNOTSUPP,  # source route failed
    6: errno.ENETUNREACH,  # destination network unknown
    7: errno.EHOSTUNREACH,  # destination host unknown
    8: errno.EHOSTUNREACH,  # source host isolated
    9: errno.ENETUNREACH,  # network prohibited
    10: errno.EHOSTUNREACH,  # host prohibited
    11: errno.ENETUNREACH,  # not with this type of service
    12: errno.EHOSTUNREACH,
    icmp.PROHIBITED: errno.EHOSTUNREACH,
}
_UNREACHABLE_IPV6: Final[dict[int, int]] = {
    icmpv6.NO_ROUTE: errno.ENETUNREACH,
    icmpv6.PROHIBITED: errno.EACCES,
    icmpv6.BEYOND_SCOPE: errno.EHOSTUNREACH,
    icmpv6.ADDRESS_UNREACHABLE: errno.EHOSTUNREACH,
    icmpv6.PORT_UNREACHABLE: errno.ECONNREFUSED,
    icmpv6.POLICY_FAILED: errno.EACCES,
    icmpv6.ROUTE_REJECTED: errno.EACCES,
}
# What the host's own sockets say of a target, as a gateway reports it; anything else is an unreachable host.
_REPORTED_IPV4: Final[dict[int, int]] = {
    errno.ECONNREFUSED: icmp.PORT_UNREACHABLE,
    errno.ENETUNREACH: icmp.NET_UNREACHABLE,
    errno.EACCES: icmp.PROHIBITED,
    errno.EPERM: icmp.PROHIBITED,
}
_REPORTED_IPV6: Final[dict[int, int]] = {
    errno.ECONNREFUSED: icmpv6.PORT_UNREACHABLE,
    errno.ENETUNREACH: icmpv6.NO_ROUTE,
    errno.EACCES: icmpv6.PROHIBITED,
    errno.EPERM: icmpv6.PROHIBITED,
}
_TIME_EXCEEDED: Final = errno.EHOSTUNREACH
_PARAMETER_PROBLEM: Final = errno.EPROTO

_QUOTE_IPV4: Final = 576 - ipv4.HEADER_LENGTH - icmp.HEADER_LENGTH
"""As much of the offending packet as fits into 576 bytes (RFC 1812 section 4.3.2.3)."""
_QUOTE_IPV6: Final = ipv6.MINIMUM_MTU - ipv6.HEADER_LENGTH - icmpv6.HEADER_LENGTH
"""... into the minimum MTU (RFC 4443 section 2.4 c)."""

_PLATEAUS: Final = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 552)
"""RFC 1191 section 7.1: what to try when an old router does not say its MTU."""


class IcmpLayer:
    """Both versions of ICMP."""

    def __init__(self, host: Host, tcp: TcpLayer, udp: UdpLayer, echo: EchoLayer, transit: Transit) -> None:
        self._host = host
        self._tcp = tcp
        self._udp = udp
        self._echo = echo
        self._transit = transit
        self._echoes = TokenBucket(host.config.echo_per_second)
        self._errors = TokenBucket(host.config.errors_per_second)

    # --- input ---
    def receive_ipv4(self, port: Port, header: ipv4.Header, payload: memoryview, to_group: bool) -> None:
        """An ICMP message to one of our addresses (``to_group``: to a broadcast or multicast address)."""
        try:
            message = icmp.parse(payload)
        except WireError:
            port.count("bad_icmp")
            return
        kind = message.kind
        if kind == icmp.ECHO_REQUEST:
            # RFC 1122 section 3.2.2.6 lets an echo request to a group pass without an answer: no amplifier here.
            if to_group or not self._allow_echo(port):
                return
            if header.destination not in port.addresses:
                self._transit.receive_echo(
                    port, header.source, header.destination, message.first, message.second, bytes(message.body)
                )
                return
            reply = icmp.Icmp(icmp.ECHO_REPLY, 0, message.first, message.second, message.body)
            self._send(port, header.destination, header.source, ipv4.PROTOCOL_ICMP, icmp.build(reply))
        elif kind == icmp.ECHO_REPLY:
            body = memoryview(message.body)
            if not self._echo.reply(port.index, header.source, message.first, message.second, body, header.ttl):
                port.count("unexpected_echo_reply")
        elif kind == icmp.UNREACHABLE and message.code == icmp.FRAGMENTATION_NEEDED:
            self._report(port, message.body, None, message.second)
        elif kind == icmp.UNREACHABLE and message.code in _UNREACHABLE_IPV4:
            self._report(port, message.body, _UNREACHABLE_IPV4[message.code])
        elif kind == icmp.TIME_EXCEEDED:
            self._report(port, message.body, _TIME_EXCEEDED)
        elif kind == icmp.PARAMETER_PROBLEM:
            self._report(port, message.body, _PARAMETER_PROBLEM)
        else:  # redirects (RFC 1122 lets a host ignore what it may not trust), source quench (RFC 6633), timestamps ...
            port.count("icmp_ignored")

    def receive_ipv6(self, port: Port, header: ipv6.Header, payload: memoryview) -> None:
        """An ICMPv6 message to one of our addresses or groups."""
        pseudo = checksum.pseudo_sum(header.source, header.destination, icmpv6.PROTOCOL)
        try:
            message = icmpv6.parse(payload, pseudo)
        except WireError:
            port.count("bad_icmp")
            return
        kind = message.kind
        if kind in (icmpv6.NEIGHBOUR_SOLICITATION, icmpv6.NEIGHBOUR_ADVERTISEMENT):
            receive_ndp(port, header, message)
        elif kind == icmpv6.ECHO_REQUEST:
            if self._allow_echo(port):
                self._answer_echo(port, header, message)
        elif kind == icmpv6.ECHO_REPLY:
            identifier, sequence = message.word >> 16, message.word & 0xFFFF
            body = memoryview(message.body)
            if not self._echo.reply(port.index, header.source, identifier, sequence, body, header.hop_limit):
                port.count("unexpected_echo_reply")
        elif kind == icmpv6.PACKET_TOO_BIG:
            self._report(port, message.body, None, message.word)
        elif kind == icmpv6.UNREACHABLE and message.code in _UNREACHABLE_IPV6:
            self._report(port, message.body, _UNREACHABLE_IPV6[message.code])
        elif kind == icmpv6.TIME_EXCEEDED:
            self._report(port, message.body, _TIME_EXCEEDED)
        elif kind == icmpv6.PARAMETER_PROBLEM:
            self._report(port, message.body, _PARAMETER_PROBLEM)
        else:  # router advertisements and redirects too: addresses and routes come from the network's controller
            port.count("icmp_ignored")

    def _allow_echo(self, port: Port) -> bool:
        if self._echoes.admit(self._host.clock.now):
            return True
        port.count("echo_rate_limited")
        return False

    def _answer_echo(self, port: Port, header: ipv6.Header, message: icmpv6.Icmpv6) -> None:
        source: bytes | None = header.destination
        if ipv6.is_multicast(header.destination):  # RFC 4443 section 4.2
            source = port.source_for(header.source)
        if source is None:
            return
        if source not in port.addresses:
            identifier, sequence = message.word >> 16, message.word & 0xFFFF
            self._transit.receive_echo(port, header.source, source, identifier, sequence, bytes(message.body))
            return
        reply = icmpv6.Icmpv6(icmpv6.ECHO_REPLY, 0, message.word, message.body)
        pseudo = checksum.pseudo_sum(source, header.source, icmpv6.PROTOCOL)
        self._send(port, source, header.source, icmpv6.PROTOCOL, icmpv6.build(reply, pseudo))

    def _send(self, port: Port, source: bytes, destination: bytes, protocol: int, message: bytes) -> None:
        flow = self._host.flows.flow_to(port.index, source, destination)
        if flow is None:
            port.count("no_route")
            return
        self._host.output.send(flow, protocol, message)

    def tell_too_big(self, flow: Flow, first: bytes) -> None:
        """Tell the remote end of ``flow``, as a router on the way would, that its packets to us must have no more than
        ``flow.takes`` bytes (RFC 1191, RFC 8201). ``first``: the first 8 bytes of the TCP header of one that it has
        sent or sends next, or its system would not believe it."""
        if len(flow.remote) == 4:
            header = ipv4.Header(
                flow.remote, flow.local, ipv4.PROTOCOL_TCP, len(first), HOP_LIMIT, fragment=ipv4.DONT_FRAGMENT
            )
            quoted = ipv4.build(header) + first
            told = icmp.Icmp(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, 0, flow.takes, quoted)
            self._host.output.send(flow, ipv4.PROTOCOL_ICMP, icmp.build(told))
            return
        quoted = ipv6.build(ipv6.Header(flow.remote, flow.local, ipv4.PROTOCOL_TCP, len(first), HOP_LIMIT)) + first
        message = icmpv6.Icmpv6(icmpv6.PACKET_TOO_BIG, 0, max(flow.takes, ipv6.MINIMUM_MTU), quoted)
        pseudo = checksum.pseudo_sum(flow.local, flow.remote, icmpv6.PROTOCOL)
        self._host.output.send(flow, icmpv6.PROTOCOL, icmpv6.build(message, pseudo))

    # --- errors received ---
    def _report(self, port: Port, quoted: Buffer, verdict: int | None, mtu: int = 0) -> None:
        """Find who sent the packet of which ``quoted`` is the start. ``verdict``: the errno that it means; None: it was
        too big for ``mtu``."""
        try:
            source, destination, protocol, payload, total = _parse_quoted(quoted)
        except WireError:
            port.count("bad_icmp")
            return
        # RFC 5927 section 4: an error about a packet that we did not send is forged or lost its way.
        if source not in port.addresses and not port.passes(source):
            port.count("icmp_not_ours")
            return
        if verdict is None and not mtu:
            mtu = next((plateau for plateau in _PLATEAUS if plateau < total), 0)
        if not self.deliver(port, source, destination, protocol, payload, verdict, mtu):
            port.count("icmp_not_ours")

    def deliver(
        self,
        port: Port,
        source: bytes,
        destination: bytes,
        protocol: int,
        payload: Buffer,
        verdict: int | None,
        mtu: int = 0,
    ) -> bool:
        """Tell the socket. ``payload`` is the start of what came after the IP header. True when there is such a socket
        (for too-big reports to TCP: when the sequence number is in flight)."""
        if len(payload) < 8:
            return False
        if protocol == ipv4.PROTOCOL_TCP:
            return self._deliver_tcp(
                port, source + destination + bytes(payload[:4]), payload, destination, verdict, mtu
            )
        first, second = int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
        found = False
        request = icmp.ECHO_REQUEST if len(source) == 4 else icmpv6.ECHO_REQUEST
        if protocol == ipv4.PROTOCOL_UDP:
            found = self._udp.icmp_error(port.index, source, first, destination, second, verdict)
        elif protocol in (ipv4.PROTOCOL_ICMP, icmpv6.PROTOCOL) and payload[0] == request:
            identifier = int.from_bytes(payload[4:6], "big")
            found = self._echo.icmp_error(port.index, destination, identifier, verdict)
        if found and verdict is None:
            self._lower_path_mtu(port, destination, mtu)
        return found

    def _deliver_tcp(
        self,
        port: Port,
        key: bytes,
        payload: Buffer,
        destination: bytes,
        verdict: int | None,
        mtu: int,
    ) -> bool:
        """TCP can prove that a report is about something it sent: by the sequence number (RFC 5927 section 4.1)."""
        tcp, now = self._tcp, self._host.clock.now
        sequence = int.from_bytes(payload[4:8], "big")
        if verdict is not None:
            tcp.icmp_error(port.index, key, sequence, verdict, now)
            return True
        if not tcp.in_flight(port.index, key, sequence):
            return False
        self._lower_path_mtu(port, destination, mtu)
        tcp.packet_too_big(port.index, key, sequence, now)
        return True

    def _lower_path_mtu(self, port: Port, remote: bytes, mtu: int) -> None:
        if self._host.flows.lower_path_mtu(port, remote, mtu):
            port.count("path_mtu_lowered")

    def undeliverable(self, port: Port, frame: Buffer) -> None:
        """A frame of ours waited for a neighbour that does not answer: what a router would report as host unreachable.
        TCP hears of it by flow instead."""
        try:
            source, destination, protocol, payload, _ = _parse_quoted(memoryview(frame)[ethernet.HEADER_LENGTH :])
        except WireError:
            return  # not a first fragment
        if protocol != ipv4.PROTOCOL_TCP:
            self.deliver(port, source, destination, protocol, payload, errno.EHOSTUNREACH)

    # --- errors sent ---
    def send_prohibited(self, port: Port, packet: Buffer) -> None:
        """We are the gateway that a packet came to, and do not lead where it wants to go (RFC 1812 section 5.2.7.1,
        RFC 4443 section 3.1)."""
        code = icmp.PROHIBITED if packet[0] >> 4 == 4 else icmpv6.PROHIBITED
        self.send_error(port, packet, icmp.UNREACHABLE if packet[0] >> 4 == 4 else icmpv6.UNREACHABLE, code)

    def report(self, port: Port, source: bytes, destination: bytes, protocol: int, start: bytes, number: int) -> None:
        """Tell ``source`` what became of its packet to ``destination``, which began with ``start``: ``number`` is the
        errno that carrying it on ended with."""
        if len(source) == 4:
            header = ipv4.Header(source, destination, protocol, len(start), HOP_LIMIT, fragment=ipv4.DONT_FRAGMENT)
            code = _REPORTED_IPV4.get(number, icmp.HOST_UNREACHABLE)
            self.send_error(port, ipv4.build(header) + start, icmp.UNREACHABLE, code)
        else:
            header6 = ipv6.Header(source, destination, protocol, len(start), HOP_LIMIT)
            code = _REPORTED_IPV6.get(number, icmpv6.ADDRESS_UNREACHABLE)
            self.send_error(port, ipv6.build(header6) + start, icmpv6.UNREACHABLE, code)

    def send_error(
        self,
        port: Port,
        packet: Buffer,
        kind: int,
        code: int,
        word: int = 0,
        *,
        even_to_group: bool = False,
    ) -> None:
        """Report a problem with a received IP packet to its sender, if the rules allow (RFC 1122 section 3.2.2,
        RFC 4443 section 2.4 e). ``even_to_group``: also when it came to a multicast address."""
        try:
            if packet[0] >> 4 == 4:
                self._send_error_ipv4(port, packet, kind, code, word)
            else:
                self._send_error_ipv6(port, packet, kind, code, word, even_to_group)
        except WireError:
            port.count("bad_ip")

    def _send_error_ipv4(self, port: Port, packet: Buffer, kind: int, code: int, word: int) -> None:
        header, payload = ipv4.parse(packet, quoted=True)
        source = _reporter(port, header.destination, header.source)
        if source is None or header.fragment_offset or not _is_unicast(port, header.source):
            return
        if header.protocol == ipv4.PROTOCOL_ICMP and (not payload or payload[0] in icmp.ERRORS):
            return
        if not self._errors.admit(self._host.clock.now):
            port.count("icmp_rate_limited")
            return
        total = min(len(header.options) + ipv4.HEADER_LENGTH + header.payload_length, _QUOTE_IPV4)
        message = icmp.Icmp(kind, code, word >> 16, word & 0xFFFF, bytes(packet[:total]))
        self._send(port, source, header.source, ipv4.PROTOCOL_ICMP, icmp.build(message))

    def _send_error_ipv6(
        self, port: Port, packet: Buffer, kind: int, code: int, word: int, even_to_group: bool
    ) -> None:
        header, payload = ipv6.parse(packet, quoted=True)
        source = _reporter(port, header.destination, header.source)
        if ipv6.is_multicast(header.destination):
            if not even_to_group:
                return
            source = port.source_for(header.source)
        if source is None or not _is_unicast(port, header.source):
            return
        if _is_icmpv6_error(header, payload):
            return
        if not self._errors.admit(self._host.clock.now):
            port.count("icmp_rate_limited")
            return
        total = min(ipv6.HEADER_LENGTH + header.payload_length, _QUOTE_IPV6)
        message = icmpv6.Icmpv6(kind, code, word, bytes(packet[:total]))
        pseudo = checksum.pseudo_sum(source, header.source, icmpv6.PROTOCOL)
        self._send(port, source, header.source, icmpv6.PROTOCOL, icmpv6.build(message, pseudo))


def _reporter(port: Port, destination: bytes, source: bytes) -> bytes | None:
    """Whose word an error about a packet is: ours by the address that it came to or, of a gateway, by that which the
    sender reaches it at; None when none may be sent."""
    if destination in port.addresses:
        return destination
    return port.source_for(source) if port.transit is not None and _is_unicast(port, destination) else None


def _is_unicast(port: Port, address: bytes) -> bool:
    """Whether an answer may go there."""
    if len(address) == 4:
        return address[0] < 224 and address not in port.broadcasts and address != ipv4.UNSPECIFIED
    return not ipv6.is_multicast(address) and address != ipv6.UNSPECIFIED


def _is_icmpv6_error(header: ipv6.Header, payload: memoryview) -> bool:
    try:
        extensions = ipv6.parse_extensions(header.next_header, payload)
    except WireError:  # the header chain is broken, which is what our error is about
        return header.next_header == icmpv6.PROTOCOL
    if extensions.fragment is not None and extensions.fragment.offset:
        return True  # not the first fragment: what the packet was, it does not show
    upper = extensions.payload
    if extensions.protocol != icmpv6.PROTOCOL:
        return False
    return not upper or upper[0] < icmpv6.INFORMATIONAL or upper[0] == icmpv6.REDIRECT


def _parse_quoted(quoted: Buffer) -> tuple[bytes, bytes, int, memoryview, int]:
    """(source, destination, protocol, payload start, total length) of a packet inside an error. Raises WireError, for
    other than first fragments too: they name no ports."""
    if not len(quoted):
        raise WireError("nothing quoted")
    if quoted[0] >> 4 == 4:
        header, payload = ipv4.parse(quoted, quoted=True)
        if header.fragment_offset:
            raise WireError("quoted fragment is not the first")
        total = ipv4.HEADER_LENGTH + len(header.options) + header.payload_length
        return header.source, header.destination, header.protocol, payload, total
    header6, rest = ipv6.parse(quoted, quoted=True)
    extensions = ipv6.parse_extensions(header6.next_header, rest)
    if extensions.fragment is not None and extensions.fragment.offset:
        raise WireError("quoted fragment is not the first")
    total = ipv6.HEADER_LENGTH + header6.payload_length
    return header6.source, header6.destination, extensions.protocol, extensions.payload, total
