"""Capability: a signed set of rules that lets its holder send what the network's own rules do not allow.

It may be handed on: each holder signs for the next in the chain of custody. What is signed is the same for every link
and does not name the holder; that is how the protocol is, so who holds a capability is only as sure as who sends it.
Source: reference Capability.hpp and .cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ztnode.wire.address import controller_of
from ztnode.wire.credential import (
    SIGNING_MARK,
    PublicIdentity,
    SigningIdentity,
    build_signature,
    parse_signature_from,
    skip_additional_fields,
)
from ztnode.wire.reader import Reader
from ztnode.wire.rules import Rule, build_rules, parse_rules_from
from ztnode.wire.wire_error import WireError

MAX_CUSTODY_CHAIN: Final = 7
MAX_CAPABILITY_RULES: Final = 64
_HEAD: Final = struct.Struct(">QQIH")


@dataclass(frozen=True, slots=True)
class Custody:
    """One link of the chain: ``giver`` signed for ``holder`` (both ZeroTier addresses)."""

    holder: int
    giver: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Capability:
    """``timestamp`` in milliseconds of the controller's clock; ``id`` unsigned 32-bit, also the order of evaluation."""

    network_id: int
    timestamp: int
    id: int
    rules: tuple[Rule, ...]
    max_custody_chain: int = 1
    custody: tuple[Custody, ...] = ()

    @classmethod
    def parse_from(cls, reader: Reader) -> Capability:
        """Parse at the reader's position. Raises WireError."""
        network_id, timestamp, id_, rule_count = _HEAD.unpack(reader.take(_HEAD.size))
        if rule_count > MAX_CAPABILITY_RULES:
            raise WireError(f"capability with {rule_count} rules")
        rules = parse_rules_from(reader, rule_count)
        chain = reader.u8()
        if not 1 <= chain <= MAX_CUSTODY_CHAIN:
            raise WireError(f"capability with a custody chain of {chain}")
        custody: list[Custody] = []
        while holder := reader.address():
            if len(custody) >= chain:
                raise WireError("custody chain longer than permitted")
            giver = reader.address()
            custody.append(Custody(holder, giver, parse_signature_from(reader)))
        skip_additional_fields(reader)
        return cls(network_id, timestamp, id_, rules, chain, tuple(custody))

    @property
    def issued_to(self) -> int:
        """The present holder: the end of the chain; 0 while unsigned."""
        return self.custody[-1].holder if self.custody else 0

    def _fields(self) -> bytes:
        return (
            _HEAD.pack(self.network_id, self.timestamp, self.id, len(self.rules))
            + build_rules(self.rules)
            + bytes((self.max_custody_chain,))
        )

    def build(self) -> bytes:
        """The wire form."""
        links = b"".join(
            link.holder.to_bytes(5, "big") + link.giver.to_bytes(5, "big") + build_signature(link.signature)
            for link in self.custody
        )
        return self._fields() + links + bytes(5) + b"\x00\x00"

    def _signed_part(self) -> bytes:
        return SIGNING_MARK + self._fields() + b"\x00\x00" + SIGNING_MARK

    def sign(self, giver: SigningIdentity, holder: int) -> Capability:
        """A copy with one more link, signed by ``giver`` for ``holder``. Raises ValueError if the chain is full."""
        if len(self.custody) >= self.max_custody_chain:
            raise ValueError("the chain of custody is full")
        link = Custody(holder, giver.address, giver.sign(self._signed_part()))
        return replace(self, custody=(*self.custody, link))

    def verify(self, identity_of: Callable[[int], PublicIdentity | None]) -> bool | None:
        """True if the chain starts at the network's controller and every signature holds; None if ``identity_of``
        does not know one of the givers (yet)."""
        if not self.custody:
            return False
        signed = self._signed_part()
        expected_giver = controller_of(self.network_id)
        for link in self.custody:
            if link.giver != expected_giver:
                return False
            giver = identity_of(link.giver)
            if giver is None:
                return None
            if not giver.verify(signed, link.signature):
                return False
            expected_giver = link.holder
        return True
