"""RENDEZVOUS: a relay tells two peers where each may find the other (reference: Packet.hpp, VERB_RENDEZVOUS)."""

from __future__ import annotations

from dataclasses import dataclass

from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import Endpoint, build_ip, parse_ip
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The peer ``address`` may be found at ``endpoint``."""

    address: int
    endpoint: Endpoint


def build_rendezvous(rendezvous: Rendezvous) -> bytes:
    """The payload. ValueError if the endpoint is not a numeric IP address and port."""
    ip, port = rendezvous.endpoint
    packed = build_ip(ip)
    return b"".join(
        (b"\0", rendezvous.address.to_bytes(5, "big"), port.to_bytes(2, "big"), bytes((len(packed),)), packed)
    )


def parse_rendezvous(payload: Buffer) -> Rendezvous:
    """Parse the payload. WireError, also for port 0, where nobody can be."""
    reader = Reader(payload)
    reader.skip(1)  # flags without a meaning yet
    address, port = reader.address(), reader.u16()
    if port == 0:
        raise WireError("a rendezvous at port 0")
    return Rendezvous(address, (parse_ip(reader.take(reader.u8())), port))
