"""Ad-hoc networks: NWIDs that begin with ff have no controller; their configuration follows from the NWID.

Source: reference Network::requestConfiguration.
"""

from __future__ import annotations

from ipaddress import IPv4Interface
from typing import Final

from ztnode.wire import rules
from ztnode.wire.computed_ipv6 import sixplane_address
from ztnode.wire.ethernet import TYPE_IPV6
from ztnode.wire.network_config import (
    FLAG_ENABLE_IPV6_NDP_EMULATION,
    IpInterface,
    NetworkConfig,
    NetworkType,
)
from ztnode.wire.rules import Range, Rule, RuleType

_CREDENTIAL_WINDOW: Final = 2 * 3600 * 1000
_ICMPV6, _UDP, _TCP = 0x3A, 0x11, 0x06


def is_adhoc(nwid: int) -> bool:
    """True for a network without a controller."""
    return nwid >> 56 == 0xFF


def adhoc_config(nwid: int, address: int, wall: int) -> NetworkConfig | None:
    """The configuration of the member ``address``; None if the NWID makes no sense. ``wall``: Unix time in ms.

    ``ffSSSSEEEE000000`` is IPv6 alone, open for the ports SSSS to EEEE; ``ffAAhhhhhhhhhh01`` is open, with an address
    in the IPv4 network AA.0.0.0/8 besides, the node hhhhhhhhhh being of use for multicast (none if zero).
    """
    addresses: tuple[IpInterface, ...] = (sixplane_address(nwid, address),)
    specialists: tuple[int, ...] = ()
    if nwid & 0xFFFFFF == 0:
        ports = Range(nwid >> 40 & 0xFFFF, nwid >> 24 & 0xFFFF)
        if ports.end < ports.start:
            return None
        name = f"adhoc-{ports.start:04x}-{ports.end:04x}"
        table, multicast_limit = _port_rules(ports), 0
    elif nwid & 0xFF == 0x01:
        net = nwid >> 48 & 0xFF
        addresses += (IPv4Interface((net << 24 | address & 0xFFFFFF, 8)),)
        hub = nwid >> 8 & 0xFFFFFFFFFF
        specialists = (hub,) if hub else ()
        name = f"adhoc-{net}.0.0.0"
        table, multicast_limit = (Rule(RuleType.ACTION_ACCEPT),), 1024
    else:
        return None
    return NetworkConfig(
        network_id=nwid,
        issued_to=address,
        timestamp=wall,
        credential_time_max_delta=_CREDENTIAL_WINDOW,
        revision=1,
        flags=FLAG_ENABLE_IPV6_NDP_EMULATION,
        multicast_limit=multicast_limit,
        type=NetworkType.PUBLIC,
        name=name,
        static_addresses=addresses,
        specialists=specialists,
        rules=table,
    )


def _port_rules(ports: Range) -> tuple[Rule, ...]:
    """IPv6 alone; of that ICMP, what goes to one of the ports, and TCP segments that do not open a connection."""
    syn, ack = rules.CHARACTERISTIC_TCP_SYN, rules.CHARACTERISTIC_TCP_ACK
    accept, drop = Rule(RuleType.ACTION_ACCEPT), Rule(RuleType.ACTION_DROP)
    return (
        Rule(RuleType.MATCH_ETHERTYPE, TYPE_IPV6, negate=True),
        drop,
        Rule(RuleType.MATCH_IP_PROTOCOL, _ICMPV6),
        accept,
        Rule(RuleType.MATCH_IP_PROTOCOL, _UDP),
        Rule(RuleType.MATCH_IP_PROTOCOL, _TCP, alternative=True),
        Rule(RuleType.MATCH_IP_DEST_PORT_RANGE, ports),
        accept,
        Rule(RuleType.MATCH_CHARACTERISTICS, syn, negate=True),
        accept,
        Rule(RuleType.MATCH_CHARACTERISTICS, syn),
        Rule(RuleType.MATCH_CHARACTERISTICS, ack),
        accept,
        drop,
    )
