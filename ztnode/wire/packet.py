"""The VL1 packet header (reference: Packet.hpp, class Packet).

::

    0               8              13             18      19              27         28
    +---------------+--------------+--------------+-------+---------------+----------+---------------
    | packet id, IV | destination  | source       | FFCCC | MAC           | verb and | payload
    | 8             | 5            | 5            | HHH 1 | 8             | flags  1 |
    +---------------+--------------+--------------+-------+---------------+----------+---------------
                                                          ^ encrypted and authenticated from byte 27 on

``FF`` are flags, ``CCC`` the cipher suite and ``HHH`` the hop count, the one field that a relay may change and
that no MAC covers. The flags are authenticated, so whether a packet is going to be fragmented must be known when
it is sealed.

The constants are plain integers, not enumerations: they are compared for every packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.wire_error import WireError

PROTOCOL_VERSION: Final = 12
PROTOCOL_VERSION_MIN: Final = 4
"""Peers below this are refused (ZT_PROTO_VERSION_MIN)."""
PROTOCOL_VERSION_AES: Final = 12
"""From this protocol version on a peer understands AES-GMAC-SIV (Peer::aesKeysIfSupported)."""

DEFAULT_PHYSICAL_MTU: Final = 1432
"""UDP payload, bytes, that is assumed to reach every peer unfragmented (ZT_DEFAULT_PHYSMTU)."""
MAX_PACKET_FRAGMENTS: Final = 7
"""Fragments of one packet, its head included (ZT_MAX_PACKET_FRAGMENTS). The format could say 15."""
MAX_PACKET_LENGTH: Final = MAX_PACKET_FRAGMENTS * DEFAULT_PHYSICAL_MTU
"""Bytes of a whole packet, fragments reassembled (ZT_PROTO_MAX_PACKET_LENGTH)."""
MAX_HOPS: Final = 7
"""What three bits can count."""
RELAY_MAX_HOPS: Final = 3
"""A packet that has come this far is relayed no further (ZT_RELAY_MAX_HOPS)."""

OFFSET_DESTINATION: Final = 8
OFFSET_SOURCE: Final = 13
OFFSET_FLAGS: Final = 18
OFFSET_MAC: Final = 19
OFFSET_VERB: Final = 27
OFFSET_PAYLOAD: Final = 28
MIN_PACKET_LENGTH: Final = OFFSET_PAYLOAD

FLAG_FRAGMENTED: Final = 0x40
FLAG_ENCRYPTED_LEGACY: Final = 0x80
"""Set along with Salsa20/12 for peers older than 1.0.3, and authenticated like every flag (Packet::setCipher)."""
FLAGS_HOPS_MASK: Final = 0x07
FLAGS_AUTHENTICATED_MASK: Final = 0xF8

CIPHER_POLY1305_NONE: Final = 0
"""Authenticated, in the clear: HELLO alone."""
CIPHER_POLY1305_SALSA2012: Final = 1
CIPHER_NO_CRYPTO_TRUSTED_PATH: Final = 2
"""Neither encrypted nor authenticated: refused, unless the path is configured as a trusted one."""
CIPHER_AES_GMAC_SIV: Final = 3

VERB_MASK: Final = 0x1F
VERB_FLAG_COMPRESSED: Final = 0x80

VERB_NOP: Final = 0x00
VERB_HELLO: Final = 0x01
VERB_ERROR: Final = 0x02
VERB_OK: Final = 0x03
VERB_WHOIS: Final = 0x04
VERB_RENDEZVOUS: Final = 0x05
VERB_FRAME: Final = 0x06
VERB_EXT_FRAME: Final = 0x07
VERB_ECHO: Final = 0x08
VERB_MULTICAST_LIKE: Final = 0x09
VERB_NETWORK_CREDENTIALS: Final = 0x0A
VERB_NETWORK_CONFIG_REQUEST: Final = 0x0B
VERB_NETWORK_CONFIG: Final = 0x0C
VERB_MULTICAST_GATHER: Final = 0x0D
VERB_MULTICAST_FRAME: Final = 0x0E
VERB_PUSH_DIRECT_PATHS: Final = 0x10
VERB_ACK: Final = 0x12
VERB_QOS_MEASUREMENT: Final = 0x13
VERB_USER_MESSAGE: Final = 0x14
VERB_REMOTE_TRACE: Final = 0x15
VERB_PATH_NEGOTIATION_REQUEST: Final = 0x16

ERROR_NONE: Final = 0x00
ERROR_INVALID_REQUEST: Final = 0x01
ERROR_BAD_PROTOCOL_VERSION: Final = 0x02
ERROR_OBJ_NOT_FOUND: Final = 0x03
ERROR_IDENTITY_COLLISION: Final = 0x04
ERROR_UNSUPPORTED_OPERATION: Final = 0x05
ERROR_NEED_MEMBERSHIP_CERTIFICATE: Final = 0x06
ERROR_NETWORK_ACCESS_DENIED: Final = 0x07
ERROR_UNWANTED_MULTICAST: Final = 0x08
ERROR_NETWORK_AUTHENTICATION_REQUIRED: Final = 0x09

_INCREMENT_HOPS: Final = bytes((flags & 0xF8) | min((flags & 7) + 1, 7) for flags in range(256))


def build_trusted(
    packet_ids: Buffer, destination: int, source: int, messages: Sequence[Sequence[Buffer]], path_id: int, mtu: int
) -> list[bytes]:
    """Packets for a trusted path, with its number in the place of the MAC (Packet::setTrusted); ``packet_ids`` holds 8
    bytes for each, ``messages`` the parts of each plaintext, verb byte first. ValueError for one that is too long."""
    packets = []
    for index, parts in enumerate(messages):
        length = sum(map(len, parts)) + OFFSET_VERB
        if not OFFSET_VERB < length <= MAX_PACKET_LENGTH:
            raise ValueError(f"a packet of {length} bytes cannot be sent")
        flags = CIPHER_NO_CRYPTO_TRUSTED_PATH << 3 | (FLAG_FRAGMENTED if length > mtu else 0)
        fields = (destination << 48 | source << 8 | flags).to_bytes(11, "big")
        packets.append(b"".join((packet_ids[8 * index : 8 * index + 8], fields, path_id.to_bytes(8, "big"), *parts)))
    return packets


def trusted_path_id(data: Buffer) -> int | None:
    """The number of the trusted path on which this packet claims to come; None for one that is protected. ``data``
    holds ≥ 28 bytes."""
    if data[OFFSET_FLAGS] >> 3 & 7 != CIPHER_NO_CRYPTO_TRUSTED_PATH:
        return None
    return int.from_bytes(data[OFFSET_MAC:OFFSET_VERB], "big")


def packet_id(data: Buffer) -> int:
    """The id by which OK and ERROR refer to this packet, as it stands on the wire. ``data`` holds ≥ 8 bytes."""
    return int.from_bytes(data[:8], "big")


def destination(data: Buffer) -> int:
    """The 40-bit destination; in the same place in a packet and in a fragment. ``data`` holds ≥ 13 bytes."""
    return int.from_bytes(data[8:13], "big")


def source(data: Buffer) -> int:
    """The 40-bit source of a packet that is no fragment. ``data`` holds ≥ 18 bytes."""
    return int.from_bytes(data[13:18], "big")


def hops(data: Buffer) -> int:
    """How often this packet was relayed. ``data`` holds ≥ 19 bytes."""
    return data[OFFSET_FLAGS] & FLAGS_HOPS_MASK


def with_hop_added(data: Buffer) -> bytes:
    """The packet as a relay passes it on: one hop more, all else as it was. WireError if it is too short."""
    if len(data) < MIN_PACKET_LENGTH:
        raise WireError("shorter than a packet header")
    return b"".join((data[:OFFSET_FLAGS], bytes((_INCREMENT_HOPS[data[OFFSET_FLAGS]],)), data[OFFSET_MAC:]))
