"""The words of the language and what they stand for."""

from __future__ import annotations

from typing import Final

ACTIONS: Final = {
    "drop": "ACTION_DROP",
    "accept": "ACTION_ACCEPT",
    "break": "ACTION_BREAK",
    "tee": "ACTION_TEE",
    "watch": "ACTION_WATCH",
    "redirect": "ACTION_REDIRECT",
}
PRIORITY: Final = "priority"
"""Is a word of the language, and opens a block; but neither the compiler nor a controller of 1.14 can carry it."""
DEFINITIONS: Final = frozenset(("macro", "tag", "cap"))
OPENERS: Final = DEFINITIONS | ACTIONS.keys() | {PRIORITY}
"""A block begins after these, and a semicolon ends it."""

MATCHES: Final = {
    "ztsrc": "MATCH_SOURCE_ZEROTIER_ADDRESS",
    "ztdest": "MATCH_DEST_ZEROTIER_ADDRESS",
    "vlan": "MATCH_VLAN_ID",
    "vlanpcp": "MATCH_VLAN_PCP",
    "vlandei": "MATCH_VLAN_DEI",
    "ethertype": "MATCH_ETHERTYPE",
    "macsrc": "MATCH_MAC_SOURCE",
    "macdest": "MATCH_MAC_DEST",
    "ipsrc": "MATCH_IPV{}_SOURCE",
    "ipdest": "MATCH_IPV{}_DEST",
    "iptos": "MATCH_IP_TOS",
    "ipprotocol": "MATCH_IP_PROTOCOL",
    "icmp": "MATCH_ICMP",
    "sport": "MATCH_IP_SOURCE_PORT_RANGE",
    "dport": "MATCH_IP_DEST_PORT_RANGE",
    "chr": "MATCH_CHARACTERISTICS",
    "framesize": "MATCH_FRAME_SIZE_RANGE",
    "random": "MATCH_RANDOM",
    "tand": "MATCH_TAGS_BITWISE_AND",
    "tor": "MATCH_TAGS_BITWISE_OR",
    "txor": "MATCH_TAGS_BITWISE_XOR",
    "tdiff": "MATCH_TAGS_DIFFERENCE",
    "teq": "MATCH_TAGS_EQUAL",
    "tseq": "MATCH_TAG_SENDER",
    "treq": "MATCH_TAG_RECEIVER",
}

RESERVED: Final = (
    OPENERS
    | MATCHES.keys()
    | frozenset(("default", "type", "enum", "class", "define", "import", "include", "log"))
    | frozenset(("not", "xor", "or", "and", "set", "var", "let"))
)
"""Are no names, and no arguments of matches."""

CHARACTERISTICS: Final = {
    "inbound": 63,
    "multicast": 62,
    "broadcast": 61,
    "ipauth": 60,
    "macauth": 59,
    "tcp_fin": 0,
    "tcp_syn": 1,
    "tcp_rst": 2,
    "tcp_psh": 3,
    "tcp_ack": 4,
    "tcp_urg": 5,
    "tcp_ece": 6,
    "tcp_cwr": 7,
    "tcp_ns": 8,
    "tcp_rs2": 9,
    "tcp_rs1": 10,
    "tcp_rs0": 11,
}
"""Bits of a mask, 0 the lowest."""

ETHERTYPES: Final = {
    "ipv4": 0x0800,
    "arp": 0x0806,
    "wol": 0x0842,
    "rarp": 0x8035,
    "ipv6": 0x86DD,
    "atalk": 0x809B,
    "aarp": 0x80F3,
    "ipx_a": 0x8137,
    "ipx_b": 0x8138,
}

IP_PROTOCOLS: Final = {
    "icmp": 0x01,
    "icmp4": 0x01,
    "icmpv4": 0x01,
    "igmp": 0x02,
    "ipip": 0x04,
    "tcp": 0x06,
    "egp": 0x08,
    "igp": 0x09,
    "udp": 0x11,
    "rdp": 0x1B,
    "esp": 0x32,
    "ah": 0x33,
    "icmp6": 0x3A,
    "icmpv6": 0x3A,
    "l2tp": 0x73,
    "sctp": 0x84,
    "udplite": 0x88,
}
"""``icmp`` is reserved as the name of a match, and so never an argument: who means it writes ``icmp4``."""
