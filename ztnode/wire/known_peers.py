"""Peers that a node remembers between two runs, as one value: ``peers.d/known.peers`` in the state store.

The reference keeps a file for each peer (``peers.d/<address>.peer``, Peer::serializeForCache). The form here is our
own: one document for all, so that thousands of peers cost one write now and then, in which a record is read when it
is needed, and not before. A record is ``length (2) | identity (71) | last heard (8) | count (1) | endpoints``; numbers
are big-endian, times Unix milliseconds, endpoints as in packets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ztnode.wire.endpoint import Endpoint, build_endpoint, parse_endpoint_from
from ztnode.wire.identity import Identity
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

MAX_KNOWN: Final = 16384
"""Peers remembered; a record has 110 bytes or so."""
MAX_ENDPOINTS: Final = 4
MAX_AGE: Final = 30 * 24 * 3600 * 1000
"""Milliseconds after which a peer that was not heard is forgotten."""
_MAGIC: Final = b"ztnode peers 1\n"


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """Whose address it is, and where it was lately."""

    identity: Identity
    last_heard: int
    """Unix time in milliseconds."""
    endpoints: tuple[Endpoint, ...] = ()


class KnownPeers:
    """The records of the last run by address, unread until they are asked for."""

    def __init__(self, data: bytes = b"", wall: int = 0) -> None:
        """``wall``: the time now. Records that are damaged, or too old, are passed over. WireError if it is no such
        value at all."""
        self._records: dict[int, bytes] = {}
        if not data:
            return
        if not data.startswith(_MAGIC):
            raise WireError("not a list of known peers")
        reader = Reader(data, len(_MAGIC))
        while reader.remaining > 2 and len(self._records) < MAX_KNOWN:
            try:
                record = reader.take(reader.u16())
                head = Reader(record)
                address = head.address()
                head.skip(66)
                last_heard = head.u64()
            except WireError:
                break  # cut off: what came before is whole
            if wall - MAX_AGE < last_heard:
                self._records[address] = record

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, address: int) -> bool:
        return address in self._records

    def get(self, address: int) -> KnownPeer | None:
        """What is remembered of this address; None if nothing is, or nothing that makes sense."""
        record = self._records.get(address)
        if record is None:
            return None
        try:
            reader = Reader(record)
            identity = Identity.parse_from(reader).without_secret()
            last_heard = reader.u64()
            endpoints = [parse_endpoint_from(reader) for _ in range(min(reader.u8(), MAX_ENDPOINTS))]
        except WireError:
            del self._records[address]
            return None
        return KnownPeer(identity, last_heard, tuple(endpoint for endpoint in endpoints if endpoint is not None))

    def latest(self, count: int) -> list[int]:
        """The addresses that come first: those that ``build`` was given first."""
        return [address for _, address in zip(range(count), self._records, strict=False)]

    def build(self, fresh: Iterable[KnownPeer]) -> bytes:
        """The value to be kept: ``fresh`` in its order, and what is remembered of others."""
        records = {known.identity.address: _build_record(known) for known in fresh}
        for address, record in self._records.items():
            records.setdefault(address, record)
        kept = list(records.values())[:MAX_KNOWN]
        return _MAGIC + b"".join(len(record).to_bytes(2, "big") + record for record in kept)


def _build_record(known: KnownPeer) -> bytes:
    endpoints = known.endpoints[:MAX_ENDPOINTS]
    return b"".join(
        (
            known.identity.without_secret().build(),
            known.last_heard.to_bytes(8, "big"),
            bytes((len(endpoints),)),
            *map(build_endpoint, endpoints),
        )
    )
