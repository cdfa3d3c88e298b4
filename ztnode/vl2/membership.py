"""What we know about one other member of one network: its credentials, and what we have shown it of ours.

Source: reference Membership.hpp and Membership.cpp.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol, TypeAlias, TypeVar

from ztnode.vl1 import Message
from ztnode.wire.address import controller_of
from ztnode.wire.capability import Capability
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.computed_ipv6 import RFC4193_BITS, SIXPLANE_BITS, rfc4193_address, sixplane_address
from ztnode.wire.credential import CredentialType, PublicIdentity
from ztnode.wire.network_config import NetworkConfig
from ztnode.wire.revocation import Revocation
from ztnode.wire.tag import Tag

MAX_CREDENTIALS: Final = 128
"""Tags, capabilities or certificates of ownership kept per member, each."""
MAX_REVOCATIONS: Final = 256
MAX_HELD: Final = 16
"""Frames kept per member until its certificate arrives."""

_NEVER: Final = float("-inf")

IdentityOf: TypeAlias = Callable[[int], PublicIdentity | None]
"""Looks an identity up by its address; None while it is unknown."""


class Verdict(enum.Enum):
    """What became of a credential."""

    REJECTED = enum.auto()
    NEW = enum.auto()
    REDUNDANT = enum.auto()
    DEFERRED = enum.auto()
    """Whoever signed it is not known yet: try again later."""


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def timestamp(self) -> int: ...


_C = TypeVar("_C", bound=_Numbered)


class Membership:
    """One other member. The network forgets it when VL1 forgets the peer."""

    __slots__ = (
        "_capabilities",
        "_certificate",
        "_com_threshold",
        "_ownerships",
        "_revoked",
        "_tags",
        "announced_at",
        "credentials_sent_at",
        "held",
        "held_at",
        "refused_at",
    )

    def __init__(self) -> None:
        self._certificate: CertificateOfMembership | None = None
        self._com_threshold = 0
        self._revoked: dict[tuple[int, int], int] = {}
        self._tags: dict[int, Tag] = {}
        self._capabilities: dict[int, Capability] = {}
        self._ownerships: dict[int, CertificateOfOwnership] = {}
        self.announced_at = _NEVER
        """When we last told this member our multicast groups."""
        self.credentials_sent_at = _NEVER
        self.refused_at = _NEVER
        """When we last asked this member for its certificate."""
        self.held: list[Message] = []
        """Frames that wait for its certificate of membership, from ``held_at`` on."""
        self.held_at = _NEVER

    def allowed(self, config: NetworkConfig, identity: PublicIdentity) -> bool:
        """True if this member may send us anything at all."""
        if not config.is_private:
            return True
        ours, theirs = config.certificate_of_membership, self._certificate
        return (
            ours is not None
            and theirs is not None
            and theirs.timestamp > self._com_threshold
            and ours.agrees_with(theirs, identity)
        )

    def tag(self, config: NetworkConfig, tag_id: int) -> int | None:
        """The value of one of its tags, None if it has shown none that is valid now."""
        tag = self._tags.get(tag_id)
        return tag.value if tag is not None and self._current(config, CredentialType.TAG, tag) else None

    def capabilities(self, config: NetworkConfig) -> Iterator[Capability]:
        """Its capabilities that are valid now."""
        for capability in self._capabilities.values():
            if self._current(config, CredentialType.CAPABILITY, capability):
                yield capability

    def owns(self, config: NetworkConfig, thing: IPv4Address | IPv6Address | int) -> bool:
        """True if it may use an IP address or (an int) MAC as its own."""
        for certificate in self._ownerships.values():
            if certificate.owns(thing) and self._current(config, CredentialType.OWNERSHIP, certificate):
                return True
        return isinstance(thing, IPv6Address) and _is_emulated(config, thing)

    def add_membership(self, certificate: CertificateOfMembership, identity_of: IdentityOf) -> Verdict:
        """Take a certificate of membership that was issued to this member."""
        present = self._certificate
        if certificate.timestamp <= self._com_threshold:
            return Verdict.REJECTED
        if present is not None:
            if certificate.timestamp < present.timestamp:
                return Verdict.REJECTED
            if certificate == present:
                return Verdict.REDUNDANT
        controller = identity_of(controller_of(certificate.network_id))
        if controller is None:
            return Verdict.DEFERRED
        if not certificate.verify(controller):
            return Verdict.REJECTED
        self._certificate = certificate
        return Verdict.NEW

    def add_tag(self, tag: Tag, identity_of: IdentityOf) -> Verdict:
        """Take a tag that was issued to this member."""
        return self._add(self._tags, CredentialType.TAG, tag, lambda: _verify(tag, identity_of))

    def add_capability(self, capability: Capability, identity_of: IdentityOf) -> Verdict:
        """Take a capability that this member holds."""
        kind = CredentialType.CAPABILITY
        return self._add(self._capabilities, kind, capability, lambda: capability.verify(identity_of))

    def add_ownership(self, certificate: CertificateOfOwnership, identity_of: IdentityOf) -> Verdict:
        """Take a certificate of ownership that was issued to this member."""
        kind = CredentialType.OWNERSHIP
        return self._add(self._ownerships, kind, certificate, lambda: _verify(certificate, identity_of))

    def _add(
        self, known: dict[int, _C], kind: CredentialType, credential: _C, verify: Callable[[], bool | None]
    ) -> Verdict:
        """``verify`` comes last, for it alone is expensive; it gives None while the signer is unknown."""
        present = known.get(credential.id)
        if present is not None:
            if present.timestamp > credential.timestamp:
                return Verdict.REJECTED
            if present == credential:
                return Verdict.REDUNDANT
        elif len(known) >= MAX_CREDENTIALS:
            return Verdict.REJECTED
        if self._revoked.get((kind, credential.id), -1) >= credential.timestamp:
            return Verdict.REJECTED
        verified = verify()
        if verified is None:
            return Verdict.DEFERRED
        if not verified:
            return Verdict.REJECTED
        known[credential.id] = credential
        return Verdict.NEW

    def add_revocation(self, revocation: Revocation, identity_of: IdentityOf) -> Verdict:
        """Void credentials of this member."""
        controller = identity_of(controller_of(revocation.network_id))
        if controller is None:
            return Verdict.DEFERRED
        if not revocation.verify(controller):
            return Verdict.REJECTED
        kind = revocation.credential_type
        if kind == CredentialType.COM:
            if revocation.threshold <= self._com_threshold:
                return Verdict.REDUNDANT
            self._com_threshold = revocation.threshold
            return Verdict.NEW
        if kind not in (CredentialType.CAPABILITY, CredentialType.TAG, CredentialType.OWNERSHIP):
            return Verdict.REJECTED
        key = (kind, revocation.credential_id)
        if revocation.threshold <= self._revoked.get(key, -1):
            return Verdict.REDUNDANT
        if len(self._revoked) >= MAX_REVOCATIONS and key not in self._revoked:
            return Verdict.REJECTED
        self._revoked[key] = revocation.threshold
        return Verdict.NEW

    def forget_expired(self, config: NetworkConfig) -> None:
        """Drop what has become invalid."""
        self._prune(self._tags, config, CredentialType.TAG)
        self._prune(self._capabilities, config, CredentialType.CAPABILITY)
        self._prune(self._ownerships, config, CredentialType.OWNERSHIP)

    def _prune(self, known: dict[int, _C], config: NetworkConfig, kind: CredentialType) -> None:
        for expired in [id_ for id_, item in known.items() if not self._current(config, kind, item)]:
            del known[expired]

    def _current(self, config: NetworkConfig, kind: CredentialType, credential: _Numbered) -> bool:
        """True if the credential was issued near enough to our own configuration, and not revoked."""
        timestamp = credential.timestamp
        return abs(timestamp - config.timestamp) <= config.credential_time_max_delta and timestamp > self._revoked.get(
            (kind, credential.id), -1
        )


def _verify(credential: Tag | CertificateOfOwnership, identity_of: IdentityOf) -> bool | None:
    controller = identity_of(controller_of(credential.network_id))
    return None if controller is None else credential.verify(controller)


def _is_emulated(config: NetworkConfig, address: IPv6Address) -> bool:
    """True if ``address`` is of a family whose members are known without asking, and so is one of ours."""
    if not config.ndp_emulation:
        return False
    for make, bits in ((sixplane_address, SIXPLANE_BITS), (rfc4193_address, RFC4193_BITS)):
        own = make(config.network_id, config.issued_to).ip
        if any(assigned.ip == own for assigned in config.static_addresses):
            shift = 128 - bits
            if int(address) >> shift == int(own) >> shift:
                return True
    return False
