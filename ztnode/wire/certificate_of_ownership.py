"""Certificate of ownership (COO): which IP and MAC addresses a member may use as its own.

Source: reference CertificateOfOwnership.hpp.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from ztnode.wire.credential import (
    SIGNING_MARK,
    PublicIdentity,
    SigningIdentity,
    build_signature,
    issued_by_controller,
    parse_signature_from,
    skip_additional_fields,
)
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

MAX_THINGS: Final = 16
THING_VALUE_SIZE: Final = 16
_HEAD: Final = struct.Struct(">QQQIH")


class ThingType(enum.IntEnum):
    """Kinds of what can be owned."""

    NULL = 0
    MAC = 1
    IPV4 = 2
    IPV6 = 3


@dataclass(frozen=True, slots=True)
class CertificateOfOwnership:
    """``things`` are (type, value padded to 16 bytes); ``timestamp`` in milliseconds of the controller's clock."""

    network_id: int
    timestamp: int
    issued_to: int
    id: int
    things: tuple[tuple[int, bytes], ...] = ()
    flags: int = 0
    signed_by: int = 0
    signature: bytes = b""

    @classmethod
    def parse_from(cls, reader: Reader) -> CertificateOfOwnership:
        """Parse at the reader's position. Raises WireError."""
        network_id, timestamp, flags, id_, count = _HEAD.unpack(reader.take(_HEAD.size))
        if count > MAX_THINGS:
            raise WireError(f"certificate of ownership of {count} things")
        things = tuple((reader.u8(), reader.take(THING_VALUE_SIZE)) for _ in range(count))
        issued_to = reader.address()
        signed_by = reader.address()
        signature = parse_signature_from(reader)
        skip_additional_fields(reader)
        return cls(network_id, timestamp, issued_to, id_, things, flags, signed_by, signature)

    def _fields(self) -> bytes:
        return (
            _HEAD.pack(self.network_id, self.timestamp, self.flags, self.id, len(self.things))
            + b"".join(bytes((kind,)) + value for kind, value in self.things)
            + self.issued_to.to_bytes(5, "big")
            + self.signed_by.to_bytes(5, "big")
        )

    def build(self) -> bytes:
        """The wire form."""
        return self._fields() + build_signature(self.signature) + b"\x00\x00"

    def _signed_part(self) -> bytes:
        return SIGNING_MARK + self._fields() + b"\x00\x00" + SIGNING_MARK

    def with_thing(self, thing: IPv4Address | IPv6Address | int) -> CertificateOfOwnership:
        """A copy that also covers an IP address or, given an int, a 48-bit MAC. Raises ValueError when it is full."""
        if len(self.things) >= MAX_THINGS:
            raise ValueError("the certificate of ownership is full")
        kind, value = _thing(thing)
        return replace(self, things=(*self.things, (kind, value.ljust(THING_VALUE_SIZE, b"\x00"))))

    def owns(self, thing: IPv4Address | IPv6Address | int) -> bool:
        """True if it covers an IP address or, given an int, a 48-bit MAC."""
        kind, value = _thing(thing)
        return any(have == kind and stored.startswith(value) for have, stored in self.things)

    def sign(self, controller: SigningIdentity) -> CertificateOfOwnership:
        """A copy signed by ``controller``."""
        unsigned = replace(self, signed_by=controller.address)
        return replace(unsigned, signature=controller.sign(unsigned._signed_part()))

    def verify(self, controller: PublicIdentity) -> bool:
        """True if the network's own ``controller`` signed this."""
        return issued_by_controller(self.network_id, self.signed_by, controller) and controller.verify(
            self._signed_part(), self.signature
        )


def _thing(thing: IPv4Address | IPv6Address | int) -> tuple[ThingType, bytes]:
    if isinstance(thing, IPv4Address):
        return ThingType.IPV4, thing.packed
    if isinstance(thing, IPv6Address):
        return ThingType.IPV6, thing.packed
    return ThingType.MAC, thing.to_bytes(6, "big")
