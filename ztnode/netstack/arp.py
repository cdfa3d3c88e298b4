"""What the stack does with ARP (RFC 826)."""

from __future__ import annotations

from ztnode.netstack.port import Port
from ztnode.wire import arp, ethernet, ipv4
from ztnode.wire.wire_error import WireError


def receive(port: Port, payload: memoryview) -> None:
    """Answer requests for our addresses, learn from what concerns us."""
    try:
        packet = arp.parse(payload)
    except WireError:
        port.count("bad_arp")
        return
    sender = packet.sender
    if sender in port.addresses:
        if packet.sender_mac != port.mac:
            port.count("address_conflict")
        return
    if ethernet.is_group(packet.sender_mac) or ipv4.is_multicast(sender) or sender in port.broadcasts:
        port.count("bad_arp")
        return
    for_us = packet.target in port.addresses
    if packet.operation == arp.REPLY and for_us:
        port.neighbours.answered(sender, packet.sender_mac, solicited=True, override=True)
        return
    if sender != ipv4.UNSPECIFIED:  # an address probe (RFC 5227) teaches nothing
        port.neighbours.heard(sender, packet.sender_mac, create=for_us and packet.operation == arp.REQUEST)
    if packet.operation == arp.REQUEST and for_us:
        reply = arp.Arp(arp.REPLY, port.mac, packet.target, packet.sender_mac, sender)
        port.transmit(packet.sender_mac, ethernet.TYPE_ARP, arp.build(reply))
