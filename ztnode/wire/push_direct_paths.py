"""PUSH_DIRECT_PATHS: a peer tells where else it can be reached (reference: Packet.hpp, VERB_PUSH_DIRECT_PATHS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import Endpoint, build_ip, parse_ip
from ztnode.wire.reader import Reader

FLAG_FORGET_PATH: Final = 0x01
FLAG_CLUSTER_REDIRECT: Final = 0x02

_IPV4: Final = 4
_IPV6: Final = 6
_LENGTHS: Final = {_IPV4: 6, _IPV6: 18}


@dataclass(frozen=True, slots=True)
class DirectPath:
    """An endpoint, and what to do with it."""

    endpoint: Endpoint
    flags: int = 0

    @property
    def forget(self) -> bool:
        """The peer is no longer there."""
        return bool(self.flags & FLAG_FORGET_PATH)

    @property
    def redirect(self) -> bool:
        """To be used in preference to all others."""
        return bool(self.flags & FLAG_CLUSTER_REDIRECT)


def build_push_direct_paths(paths: Sequence[DirectPath]) -> bytes:
    """The payload. ValueError if an endpoint is not a numeric IP address and port."""
    parts = [len(paths).to_bytes(2, "big")]
    for path in paths:
        ip, port = path.endpoint
        packed = build_ip(ip)
        kind = _IPV4 if len(packed) == 4 else _IPV6
        parts.append(bytes((path.flags, 0, 0, kind, _LENGTHS[kind])) + packed + port.to_bytes(2, "big"))
    return b"".join(parts)


def parse_push_direct_paths(payload: Buffer) -> list[DirectPath]:
    """Parse the payload. WireError if truncated; addresses of unknown kinds are passed over."""
    reader = Reader(payload)
    paths = []
    for _ in range(reader.u16()):
        flags = reader.u8()
        reader.skip(reader.u16())
        kind, length = reader.u8(), reader.u8()
        address = reader.take(length)
        if _LENGTHS.get(kind) == length:
            paths.append(DirectPath((parse_ip(address[:-2]), int.from_bytes(address[-2:], "big")), flags))
    return paths
