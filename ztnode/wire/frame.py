"""FRAME and EXT_FRAME: Ethernet between members. Source: reference Packet.hpp.

FRAME goes between the standard MACs of sender and receiver and leaves them out; EXT_FRAME carries both. The hot path
packs and unpacks these headers itself with the structs here.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ztnode.wire.buffer import Buffer
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

FRAME_HEADER: Final = struct.Struct(">QH")
"""NWID, Ethernet type."""

EXT_FRAME_HEADER: Final = struct.Struct(">QB6s6sH")
"""NWID, flags, destination MAC, source MAC, Ethernet type; a COM may stand between the flags and the MACs."""

EXT_FLAG_COM: Final = 0x01
EXT_FLAG_TEE: Final = 0x02
EXT_FLAG_REDIRECT: Final = 0x04
EXT_FLAG_INBOUND: Final = 0x08
"""TEE or REDIRECT by the receiver of the frame rather than its sender."""
EXT_FLAG_ACK_REQUESTED: Final = 0x10

MAX_FRAME_PAYLOAD: Final = 10000


class ExtFrame(NamedTuple):
    """``certificate`` is None unless an old peer sent its COM along; ``payload`` is a slice of what was parsed.

    A named tuple because one is made per frame, at a third of a frozen dataclass's cost."""

    network_id: int
    flags: int
    destination: int
    source: int
    ethertype: int
    payload: Buffer
    certificate: CertificateOfMembership | None = None


def parse_ext_frame(payload: Buffer) -> ExtFrame:
    """Parse EXT_FRAME. Raises WireError."""
    reader = Reader(payload)
    network_id, flags = reader.u64(), reader.u8()
    certificate = CertificateOfMembership.parse_from(reader) if flags & EXT_FLAG_COM else None
    destination, source, ethertype = reader.unsigned(6), reader.unsigned(6), reader.u16()
    if reader.remaining > MAX_FRAME_PAYLOAD:
        raise WireError("Ethernet frame too long")
    return ExtFrame(network_id, flags, destination, source, ethertype, payload[reader.position :], certificate)


def build_ext_frame(frame: ExtFrame) -> bytes:
    """The payload of EXT_FRAME."""
    certificate = frame.certificate.build() if frame.certificate is not None else b""
    return b"".join(
        (
            frame.network_id.to_bytes(8, "big"),
            bytes((frame.flags,)),
            certificate,
            frame.destination.to_bytes(6, "big"),
            frame.source.to_bytes(6, "big"),
            frame.ethertype.to_bytes(2, "big"),
            frame.payload,
        )
    )
