"""The IP codecs against frames that the Linux kernel made (tests/vectors/net)."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from ztnode.wire import arp, checksum, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp
from ztnode.wire.wire_error import WireError

VECTORS = {
    name: bytes.fromhex(text)
    for name, text in json.loads((Path(__file__).parents[2] / "vectors" / "net" / "linux.json").read_text()).items()
}
MACS = (bytes.fromhex("026600000001"), bytes.fromhex("026600000002"))
A4, B4 = ip_address("10.66.0.1").packed, ip_address("10.66.0.2").packed
A6, B6 = ip_address("fd66::1").packed, ip_address("fd66::2").packed


def upper(name: str) -> tuple[ipv4.Header | ipv6.Header, int, memoryview]:
    """(IP header, pseudo-header sum for the upper protocol, upper layer's bytes) of a vector."""
    _, _, ethertype, packet = ethernet.parse(VECTORS[name])
    if ethertype == ethernet.TYPE_IPV4:
        header4, payload = ipv4.parse(packet)
        return header4, checksum.pseudo_sum(header4.source, header4.destination, header4.protocol), payload
    header6, rest = ipv6.parse(packet)
    extensions = ipv6.parse_extensions(header6.next_header, rest)
    pseudo = checksum.pseudo_sum(header6.source, header6.destination, extensions.protocol)
    return header6, pseudo, extensions.payload


@pytest.mark.parametrize("name", [name for name in VECTORS if not name.startswith("arp")])
def test_ip_headers_build_back(name: str) -> None:
    """Parsing and building the kernel's header gives its very bytes, IPv4 checksum included."""
    destination, source, ethertype, packet = ethernet.parse(VECTORS[name])
    assert VECTORS[name].startswith(ethernet.build(destination, source, ethertype))
    if ethertype == ethernet.TYPE_IPV4:
        header4, payload = ipv4.parse(packet)
        assert {header4.source, header4.destination} == {A4, B4}
        built = ipv4.build(header4)
    else:
        header6, payload = ipv6.parse(packet)
        assert header6.source in (A6, B6) or ipv6.is_link_local(header6.source)
        built = ipv6.build(header6)
    assert built + bytes(payload) == bytes(packet)


def test_arp() -> None:
    request = arp.parse(VECTORS["arp_request"][14:])
    assert request == arp.Arp(arp.REQUEST, MACS[0], A4, bytes(6), B4)
    reply = arp.parse(VECTORS["arp_reply"][14:])
    assert reply == arp.Arp(arp.REPLY, MACS[1], B4, MACS[0], A4)
    assert VECTORS["arp_reply"][14:] == arp.build(reply)
    assert VECTORS["arp_request"][:6] == ethernet.BROADCAST


@pytest.mark.parametrize("name", ["icmp_echo_request", "icmp_echo_reply", "icmp_port_unreachable"])
def test_icmp(name: str) -> None:
    _, _, payload = upper(name)
    message = icmp.parse(payload)
    assert icmp.build(message) == payload
    if name == "icmp_port_unreachable":
        assert (message.kind, message.code) == (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)
        quoted, datagram = ipv4.parse(message.body, quoted=True)
        assert (quoted.source, quoted.destination, quoted.protocol) == (A4, B4, ipv4.PROTOCOL_UDP)
        assert udp.HEADER.unpack_from(datagram)[1] == 7003
    else:
        assert message.second == 1
        assert message.body == b"ping"


@pytest.mark.parametrize("name", ["icmpv6_echo_request", "icmpv6_echo_reply", "icmpv6_port_unreachable"])
def test_icmpv6(name: str) -> None:
    _, pseudo, payload = upper(name)
    message = icmpv6.parse(payload, pseudo)
    assert icmpv6.build(message, pseudo) == payload
    if name == "icmpv6_port_unreachable":
        assert (message.kind, message.code) == (icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE)
    else:
        assert message.body == b"ping"


def test_neighbour_discovery() -> None:
    header, pseudo, payload = upper("icmpv6_ns")
    solicitation = icmpv6.parse_neighbour(icmpv6.parse(payload, pseudo))
    assert solicitation == icmpv6.Neighbour(icmpv6.NEIGHBOUR_SOLICITATION, B6, MACS[0])
    assert header.destination == ipv6.solicited_node(B6)
    assert VECTORS["icmpv6_ns"][:6] == ethernet.ipv6_multicast(header.destination)
    assert icmpv6.build_neighbour(solicitation, pseudo) == payload
    _, pseudo, payload = upper("icmpv6_na")
    advertisement = icmpv6.parse_neighbour(icmpv6.parse(payload, pseudo))
    flags = icmpv6.SOLICITED | icmpv6.OVERRIDE
    assert advertisement == icmpv6.Neighbour(icmpv6.NEIGHBOUR_ADVERTISEMENT, B6, MACS[1], flags)
    assert icmpv6.build_neighbour(advertisement, pseudo) == payload


@pytest.mark.parametrize("version", ["ipv4", "ipv6"])
def test_udp(version: str) -> None:
    for size, text in ((3, b"odd"), (7, b"refused")):
        _, pseudo, payload = upper(f"{version}_udp_{size}")
        source, destination, data = udp.parse(payload, pseudo, checksum_required=True)
        assert data == text
        assert udp.build(source, destination, data, pseudo) == payload[:8]


@pytest.mark.parametrize("version", ["ipv4", "ipv6"])
def test_fragments(version: str) -> None:
    """The three fragments of a 4,000-byte datagram fit together and its checksum holds over the whole."""
    pieces, offsets = b"", []
    for name in sorted(name for name in VECTORS if name.startswith(f"{version}_fragment")):
        _, _, ethertype, packet = ethernet.parse(VECTORS[name])
        if ethertype == ethernet.TYPE_IPV4:
            header, payload = ipv4.parse(packet)
            offsets.append((header.fragment_offset, header.more_fragments))
        else:
            header6, rest = ipv6.parse(packet)
            extensions = ipv6.parse_extensions(header6.next_header, rest)
            assert extensions.fragment is not None
            assert ipv6.build_fragment(extensions.fragment) == rest[:8]
            offsets.append((extensions.fragment.offset, extensions.fragment.more))
            payload = extensions.payload
        assert offsets[-1][0] == len(pieces)
        pieces += payload
    assert [more for _, more in offsets] == [True, True, False]
    a, b = (A4, B4) if version == "ipv4" else (A6, B6)
    pseudo = checksum.pseudo_sum(a, b, ipv4.PROTOCOL_UDP)
    _, port, data = udp.parse(pieces, pseudo, checksum_required=True)
    assert port == 7002
    assert data == bytes(range(250)) * 16


@pytest.mark.parametrize("name", [name for name in VECTORS if "_tcp_" in name])
def test_tcp(name: str) -> None:
    _, pseudo, segment = upper(name)
    assert checksum.verify(segment, pseudo + len(segment))
    header, payload = tcp.parse(segment)
    options = header.options
    if "syn" in name:
        assert options.mss == (1460 if name.startswith("ipv4") else 1440)
        assert options.sack_permitted
        assert options.window_scale is not None
        assert options.timestamps is not None
        # Our layout of a SYN's options is the kernel's: MSS, SACK permitted, timestamps, window scale.
        assert tcp.build(header) == segment[: len(segment) - len(payload)]
    elif "rst" in name:
        assert options == tcp.NO_OPTIONS
    else:
        assert options.timestamps is not None
        assert tcp.build(header) == segment[: len(segment) - len(payload)]
        assert bool(options.sack) == name.endswith("_sack")
        fixed = tcp.FIXED_TIMESTAMPS.unpack_from(segment)
        assert fixed[:2] == (header.sequence, header.acknowledgement)
        assert fixed[2] & 0xFF == header.flags
        assert fixed[3:5] == (header.window, tcp.TIMESTAMPS_WORD)
        assert fixed[5:] == options.timestamps
    assert bool(payload) == name.endswith("_data")


PARSERS: dict[str, Callable[[memoryview], object]] = {
    "tcp": tcp.parse,
    "icmp": icmp.parse,
    "icmpv6": lambda data: icmpv6.parse(data, 0),
    "udp": lambda data: udp.parse(data, 0, checksum_required=True),
}


@pytest.mark.parametrize("name", list(VECTORS))
def test_cut_short_is_refused(name: str) -> None:
    """A vector cut anywhere inside its headers is a WireError, never another exception or a value."""
    frame = memoryview(VECTORS[name])
    _, _, ethertype, packet = ethernet.parse(frame)
    parse: Callable[[memoryview], object]
    if ethertype == ethernet.TYPE_ARP:
        parse = arp.parse
    elif ethertype == ethernet.TYPE_IPV4:
        parse = ipv4.parse
    else:
        parse = ipv6.parse
    for length in range(len(packet)):
        with pytest.raises(WireError):
            parse(packet[:length])
    for length in range(14):
        with pytest.raises(WireError):
            ethernet.parse(frame[:length])
