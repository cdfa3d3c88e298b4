"""NETWORK_CREDENTIALS: certificates and the like that nodes show each other. Source: reference Packet.hpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ztnode.wire.buffer import Buffer
from ztnode.wire.capability import Capability
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.reader import Reader
from ztnode.wire.revocation import Revocation
from ztnode.wire.tag import Tag

MAX_PAYLOAD: Final = 8192
"""Bytes to put in one packet at most; what the fragments of one packet carry leaves room above it."""

_T = TypeVar("_T")


class _Credential(Protocol):
    def build(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class NetworkCredentials:
    """The credentials of one packet; they may concern several networks."""

    certificates_of_membership: tuple[CertificateOfMembership, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    tags: tuple[Tag, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    certificates_of_ownership: tuple[CertificateOfOwnership, ...] = ()

    @classmethod
    def parse(cls, payload: Buffer) -> NetworkCredentials:
        """Parse the payload; old nodes end it after any of the lists. Raises WireError."""
        reader = Reader(payload)
        memberships = []
        while reader.remaining and payload[reader.position] != 0:
            memberships.append(CertificateOfMembership.parse_from(reader))
        if reader.remaining:
            reader.skip(1)
        return cls(
            tuple(memberships),
            _parse_list_from(reader, Capability.parse_from),
            _parse_list_from(reader, Tag.parse_from),
            _parse_list_from(reader, Revocation.parse_from),
            _parse_list_from(reader, CertificateOfOwnership.parse_from),
        )

    def build(self) -> bytes:
        """The payload."""
        return _join([[credential.build() for credential in kind] for kind in self._kinds()])

    def _kinds(self) -> tuple[Sequence[_Credential], ...]:
        """The lists in the order in which they are written."""
        return (
            self.certificates_of_membership,
            self.capabilities,
            self.tags,
            self.revocations,
            self.certificates_of_ownership,
        )

    def packets(self, limit: int = MAX_PAYLOAD) -> Iterator[bytes]:
        """The payloads to send so that each stays near ``limit`` bytes (a single larger credential goes alone)."""
        lists: list[list[bytes]] = [[], [], [], [], []]
        size = 0
        for kind, credentials in enumerate(self._kinds()):
            for credential in credentials:
                built = credential.build()
                if size and size + len(built) > limit:
                    yield _join(lists)
                    lists = [[], [], [], [], []]
                    size = 0
                lists[kind].append(built)
                size += len(built)
        if size:
            yield _join(lists)


def _join(lists: Sequence[Sequence[bytes]]) -> bytes:
    """The payload: COMs up to a zero byte, then the other kinds, each behind its count."""
    counted = (len(built).to_bytes(2, "big") + b"".join(built) for built in lists[1:])
    return b"".join(lists[0]) + b"\x00" + b"".join(counted)


def _parse_list_from(reader: Reader, parse_from: Callable[[Reader], _T]) -> tuple[_T, ...]:
    if not reader.remaining:
        return ()
    return tuple(parse_from(reader) for _ in range(reader.u16()))
