"""What the stack does with neighbour discovery (RFC 4861 section 7.2)."""

from __future__ import annotations

from ztnode.netstack.port import Port
from ztnode.wire import ethernet, icmpv6, ipv6
from ztnode.wire.wire_error import WireError


def receive(port: Port, header: ipv6.Header, message: icmpv6.Icmpv6) -> None:
    """A neighbour solicitation or advertisement whose checksum is right."""
    if header.hop_limit != 255:
        port.count("bad_ndp")
        return
    try:
        neighbour = icmpv6.parse_neighbour(message)
    except WireError:
        port.count("bad_ndp")
        return
    if message.kind == icmpv6.NEIGHBOUR_SOLICITATION:
        _solicited(port, header, neighbour)
    else:
        _advertised(port, header, neighbour)


def _solicited(port: Port, header: ipv6.Header, solicitation: icmpv6.Neighbour) -> None:
    source = header.source
    probe = source == ipv6.UNSPECIFIED
    if probe and (solicitation.mac is not None or header.destination != ipv6.solicited_node(solicitation.target)):
        port.count("bad_ndp")  # RFC 4861 section 7.1.1
        return
    if solicitation.target not in port.addresses:
        return
    mac = solicitation.mac
    if mac is not None and not ethernet.is_group(mac):
        port.neighbours.heard(source, mac, create=True)
    flags = icmpv6.OVERRIDE
    if probe:
        # Somebody checks whether the address is free (RFC 4862 section 5.4): tell all that it is not.
        destination, mac = ipv6.ALL_NODES, ethernet.ipv6_multicast(ipv6.ALL_NODES)
    else:
        destination = source
        flags |= icmpv6.SOLICITED
        if mac is None:
            known = port.neighbours.get(source)
            if known is None or known.mac == bytes(6):
                port.count("ndp_asker_unknown")
                return
            mac = known.mac
    answer = icmpv6.Neighbour(icmpv6.NEIGHBOUR_ADVERTISEMENT, solicitation.target, port.mac, flags)
    port.send_neighbour(solicitation.target, destination, mac, answer)


def _advertised(port: Port, header: ipv6.Header, advertisement: icmpv6.Neighbour) -> None:
    solicited = bool(advertisement.flags & icmpv6.SOLICITED)
    if solicited and ipv6.is_multicast(header.destination):
        port.count("bad_ndp")  # RFC 4861 section 7.1.2
        return
    if advertisement.target in port.addresses:
        if advertisement.mac != port.mac:
            port.count("address_conflict")
        return
    mac = advertisement.mac
    if mac is not None and ethernet.is_group(mac):
        port.count("bad_ndp")
        return
    port.neighbours.answered(
        advertisement.target, mac, solicited=solicited, override=bool(advertisement.flags & icmpv6.OVERRIDE)
    )
