"""Multicast groups and the verbs about them: MULTICAST_LIKE, MULTICAST_GATHER, MULTICAST_FRAME and what answers them.

Source: reference Packet.hpp, MulticastGroup.hpp, Multicaster.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from ztnode.wire.buffer import Buffer
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.mac import BROADCAST
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

FLAG_COM: Final = 0x01
"""A certificate of membership is attached; in frames only old peers still do that."""
FLAG_GATHER: Final = 0x02
FLAG_SOURCE_MAC: Final = 0x04
FLAG_REPLICATE: Final = 0x08

_LIKE: Final = struct.Struct(">Q6sI")
LIKE_LENGTH: Final = _LIKE.size
"""Bytes of one subscription in a MULTICAST_LIKE."""


class MulticastGroup(NamedTuple):
    """A group MAC and additional distinguishing information (ADI): for ARP the IPv4 address asked for, else 0.

    A named tuple, not a dataclass: it is looked up in dictionaries for every multicast frame, and so hashed in C."""

    mac: int
    adi: int = 0

    @classmethod
    def for_resolution_of(cls, address: IPv4Address | IPv6Address) -> MulticastGroup:
        """The group that asks who has ``address``: for ARP broadcast with the address as ADI, for NDP the
        solicited-node group (RFC 4291, 2.7.1; RFC 2464, 7)."""
        if isinstance(address, IPv4Address):
            return cls(BROADCAST, int(address))
        return cls(0x3333FF000000 | int(address) & 0xFFFFFF)


class Like(NamedTuple):
    """A subscription. A named tuple because thousands of them may come in one packet, each to be looked up."""

    network_id: int
    group: MulticastGroup


def build_likes(likes: Iterable[Like]) -> bytes:
    """The payload of MULTICAST_LIKE."""
    return b"".join(_LIKE.pack(network_id, group.mac.to_bytes(6, "big"), group.adi) for network_id, group in likes)


def parse_likes(payload: Buffer) -> list[Like]:
    """The subscriptions in a MULTICAST_LIKE. Raises WireError."""
    if len(payload) % _LIKE.size:
        raise WireError(f"MULTICAST_LIKE of {len(payload)} bytes")
    return [
        Like(network_id, MulticastGroup(int.from_bytes(mac, "big"), adi))
        for network_id, mac, adi in _LIKE.iter_unpack(payload)
    ]


@dataclass(frozen=True, slots=True)
class Gather:
    """A question for up to ``limit`` members of a group; the COM lets a node that is no member check who asks."""

    network_id: int
    group: MulticastGroup
    limit: int
    certificate: CertificateOfMembership | None = None


def _parse_group_from(reader: Reader) -> MulticastGroup:
    return MulticastGroup(reader.unsigned(6), reader.u32())


def _build_group(network_id: int, flags: bytes, group: MulticastGroup) -> bytes:
    return network_id.to_bytes(8, "big") + flags + group.mac.to_bytes(6, "big") + group.adi.to_bytes(4, "big")


def build_gather(gather: Gather) -> bytes:
    """The payload of MULTICAST_GATHER."""
    certificate = gather.certificate.build() if gather.certificate is not None else b""
    flags = bytes((FLAG_COM if certificate else 0,))
    return _build_group(gather.network_id, flags, gather.group) + gather.limit.to_bytes(4, "big") + certificate


def parse_gather(payload: Buffer) -> Gather:
    """Parse MULTICAST_GATHER. Raises WireError."""
    reader = Reader(payload)
    network_id, flags = reader.u64(), reader.u8()
    group, limit = _parse_group_from(reader), reader.u32()
    certificate = CertificateOfMembership.parse_from(reader) if flags & FLAG_COM else None
    return Gather(network_id, group, limit, certificate)


@dataclass(frozen=True, slots=True)
class Gathered:
    """Members of a group; ``total`` counts those that are known but not listed too."""

    network_id: int
    group: MulticastGroup
    total: int
    members: tuple[int, ...]


def _build_members(total: int, members: Sequence[int]) -> bytes:
    listed = b"".join(member.to_bytes(5, "big") for member in members)
    return total.to_bytes(4, "big") + len(members).to_bytes(2, "big") + listed


def _parse_members_from(reader: Reader) -> tuple[int, tuple[int, ...]]:
    total = reader.u32()
    listed = reader.take(5 * reader.u16())
    return total, tuple(int.from_bytes(listed[at : at + 5], "big") for at in range(0, len(listed), 5))


def build_gathered(reply: Gathered) -> bytes:
    """What follows the in-re fields of OK(MULTICAST_GATHER)."""
    return _build_group(reply.network_id, b"", reply.group) + _build_members(reply.total, reply.members)


def parse_gathered(payload: Buffer) -> Gathered:
    """Parse what follows the in-re fields of OK(MULTICAST_GATHER). Raises WireError."""
    reader = Reader(payload)
    network_id, group = reader.u64(), _parse_group_from(reader)
    return Gathered(network_id, group, *_parse_members_from(reader))


class MulticastFrame(NamedTuple):
    """``source`` is None where it is the sender's standard MAC; ``gather_limit`` asks for as many members in the OK.

    A named tuple because one is made per frame, at a third of a frozen dataclass's cost."""

    network_id: int
    group: MulticastGroup
    ethertype: int
    payload: Buffer
    source: int | None = None
    gather_limit: int = 0
    replicate: bool = False
    certificate: CertificateOfMembership | None = None


def build_multicast_frame(frame: MulticastFrame) -> bytes:
    """The payload of MULTICAST_FRAME."""
    flags = FLAG_REPLICATE if frame.replicate else 0
    optional = b""
    if frame.certificate is not None:
        flags |= FLAG_COM
        optional += frame.certificate.build()
    if frame.gather_limit:
        flags |= FLAG_GATHER
        optional += frame.gather_limit.to_bytes(4, "big")
    if frame.source is not None:
        flags |= FLAG_SOURCE_MAC
        optional += frame.source.to_bytes(6, "big")
    return b"".join(
        (
            _build_group(frame.network_id, bytes((flags,)) + optional, frame.group),
            frame.ethertype.to_bytes(2, "big"),
            frame.payload,
        )
    )


def parse_multicast_frame(payload: Buffer) -> MulticastFrame:
    """Parse MULTICAST_FRAME; the payload is a slice. Raises WireError."""
    reader = Reader(payload)
    network_id, flags = reader.u64(), reader.u8()
    certificate = CertificateOfMembership.parse_from(reader) if flags & FLAG_COM else None
    gather_limit = reader.u32() if flags & FLAG_GATHER else 0
    source = reader.unsigned(6) if flags & FLAG_SOURCE_MAC else None
    group, ethertype = _parse_group_from(reader), reader.u16()
    rest = payload[reader.position :]
    return MulticastFrame(
        network_id, group, ethertype, rest, source, gather_limit, bool(flags & FLAG_REPLICATE), certificate
    )


@dataclass(frozen=True, slots=True)
class MulticastFrameReply:
    """OK(MULTICAST_FRAME): more members of the group, and from old peers their COM."""

    network_id: int
    group: MulticastGroup
    total: int = 0
    members: tuple[int, ...] = ()
    certificate: CertificateOfMembership | None = None


def build_multicast_frame_reply(reply: MulticastFrameReply) -> bytes:
    """What follows the in-re fields of OK(MULTICAST_FRAME) with gather results."""
    flags, certificate = FLAG_GATHER, b""
    if reply.certificate is not None:
        flags |= FLAG_COM
        certificate = reply.certificate.build()
    head = _build_group(reply.network_id, b"", reply.group) + bytes((flags,))
    return head + certificate + _build_members(reply.total, reply.members)


def parse_multicast_frame_reply(payload: Buffer) -> MulticastFrameReply:
    """Parse what follows the in-re fields of OK(MULTICAST_FRAME). Raises WireError."""
    reader = Reader(payload)
    network_id, group = reader.u64(), _parse_group_from(reader)
    flags = reader.u8()
    certificate = CertificateOfMembership.parse_from(reader) if flags & FLAG_COM else None
    total, members = _parse_members_from(reader) if flags & FLAG_GATHER else (0, ())
    return MulticastFrameReply(network_id, group, total, members, certificate)
