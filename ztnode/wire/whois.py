"""WHOIS: asking for the identities behind addresses (reference: Packet.hpp, VERB_WHOIS).

The payloads are sequences without a count: 5-byte addresses in the request, identities in the OK.
"""

from __future__ import annotations

from collections.abc import Iterable

from ztnode.wire.buffer import Buffer
from ztnode.wire.identity import Identity
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError


def build_whois(addresses: Iterable[int]) -> bytes:
    """The payload that asks for these addresses."""
    return b"".join(address.to_bytes(5, "big") for address in addresses)


def parse_whois(payload: Buffer) -> list[int]:
    """The addresses asked for. WireError if there is none; an incomplete last one is ignored, as the reference does."""
    data = bytes(payload)
    addresses = [int.from_bytes(data[at : at + 5], "big") for at in range(0, len(data) - 4, 5)]
    if not addresses:
        raise WireError("a WHOIS for nobody")
    return addresses


def build_ok_whois(identities: Iterable[Identity]) -> bytes:
    """The payload of an OK that answers a WHOIS."""
    return b"".join(identity.build() for identity in identities)


def parse_ok_whois(payload: Buffer) -> list[Identity]:
    """The identities in an OK that answers a WHOIS. WireError. Whether each is valid is for the caller to check: it
    takes a tenth of a second (``Identity.validate``)."""
    reader = Reader(payload)
    identities = []
    while reader.remaining:
        identities.append(Identity.parse_from(reader).without_secret())
    return identities
