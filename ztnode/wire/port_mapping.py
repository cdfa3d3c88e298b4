"""Asking a router for a UDP port: PCP (RFC 6887) and NAT-PMP (RFC 6886), which share UDP port 5351. For IPv4.

No library of PyPI speaks PCP, and those for NAT-PMP are kept by nobody.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from ztnode.wire.wire_error import WireError

PORT: Final = 5351
NONCE_BYTES: Final = 12
_PCP: Final = 2
_NAT_PMP: Final = 0
_RESPONSE: Final = 0x80
_MAP: Final = 1
"""The opcode of PCP (section 11) and, by chance, that of NAT-PMP for UDP (section 3.3)."""
_ADDRESS: Final = 0
_UDP: Final = 17
_UNSUPPORTED_VERSION: Final = 1
"""The result of either for the version of the other."""
_PCP_REQUEST: Final = struct.Struct(">BBHI16s12sB3xHH16s")
_PCP_RESPONSE: Final = struct.Struct(">BBxBII12x12sB3xHH16s")
_NAT_PMP_REQUEST: Final = struct.Struct(">BBHHHI")
_NAT_PMP_MAPPED: Final = struct.Struct(">BBHIHHI")
_NAT_PMP_ADDRESS: Final = struct.Struct(">BBHI4s")
_HEAD: Final = struct.Struct(">BBxB")
NO_ADDRESS: Final = "0.0.0.0"
_PCP_RESULTS: Final = {2: "not authorized", 3: "malformed request", 4: "unsupported opcode", 8: "no resources"}
_NAT_PMP_RESULTS: Final = {2: "not authorized", 3: "network failure", 4: "out of resources", 5: "unsupported opcode"}


class OtherVersion(WireError):
    """The router does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a router gave: a UDP port of its own for one of ours."""

    internal_port: int
    external_port: int
    lifetime: int
    """Seconds; 0: it was taken away."""
    address: str = NO_ADDRESS
    """The router's outer address, by PCP alone."""


def build_pcp_map(client: str, nonce: bytes, port: int, wanted: int, lifetime: int) -> bytes:
    """A MAP request by the host with the IPv4 address ``client`` for its UDP ``port``; ``wanted``: the outer port that
    it would like, ``lifetime`` in seconds, 0: take it away. ``nonce`` is the same for all about one mapping."""
    return _PCP_REQUEST.pack(_PCP, _MAP, 0, lifetime, _mapped(client), nonce, _UDP, port, wanted, _mapped(NO_ADDRESS))


def parse_pcp_map(data: bytes, nonce: bytes) -> Mapped:
    """The response to it. OtherVersion where there is no PCP; WireError for a refusal, and for all else."""
    version, opcode, result = _head(data)
    if version == _NAT_PMP or result == _UNSUPPORTED_VERSION:
        raise OtherVersion("the router speaks no PCP")
    if opcode != _RESPONSE | _MAP:
        raise WireError("no response to a MAP request")
    if result:
        raise WireError(f"refused by PCP: {_PCP_RESULTS.get(result, f'result {result}')}")
    if len(data) < _PCP_RESPONSE.size:
        raise WireError("a PCP response that is too short")
    _, _, _, lifetime, _, echoed, protocol, internal, external, address = _PCP_RESPONSE.unpack_from(data)
    if echoed != nonce or protocol != _UDP:
        raise WireError("a PCP response to somebody else")
    if lifetime and not external:
        raise WireError("a PCP response without a port")
    outer = ipaddress.IPv6Address(address).ipv4_mapped
    return Mapped(internal, external, lifetime, NO_ADDRESS if outer is None else str(outer))


def build_nat_pmp_address() -> bytes:
    """A request for the router's outer address."""
    return bytes((_NAT_PMP, _ADDRESS))


def parse_nat_pmp_address(data: bytes) -> str:
    """The response to it. OtherVersion, WireError."""
    _check_nat_pmp(data, _ADDRESS, _NAT_PMP_ADDRESS.size)
    return str(ipaddress.IPv4Address(_NAT_PMP_ADDRESS.unpack_from(data)[4]))


def build_nat_pmp_map(port: int, wanted: int, lifetime: int) -> bytes:
    """A request for a mapping of our UDP ``port``; see ``build_pcp_map``."""
    return _NAT_PMP_REQUEST.pack(_NAT_PMP, _MAP, 0, port, wanted if lifetime else 0, lifetime)


def parse_nat_pmp_map(data: bytes) -> Mapped:
    """The response to it. OtherVersion, WireError."""
    _check_nat_pmp(data, _MAP, _NAT_PMP_MAPPED.size)
    internal, external, lifetime = _NAT_PMP_MAPPED.unpack_from(data)[4:]
    if lifetime and not external:
        raise WireError("a NAT-PMP response without a port")
    return Mapped(internal, external, lifetime)


def _check_nat_pmp(data: bytes, opcode: int, size: int) -> None:
    version, answered, result = _head(data)
    if version == _PCP or result == _UNSUPPORTED_VERSION:
        raise OtherVersion("the router speaks no NAT-PMP")
    if answered != _RESPONSE | opcode:
        raise WireError("no response to this NAT-PMP request")
    if result:
        raise WireError(f"refused by NAT-PMP: {_NAT_PMP_RESULTS.get(result, f'result {result}')}")
    if len(data) < size:
        raise WireError("a NAT-PMP response that is too short")


def _head(data: bytes) -> tuple[int, int, int]:
    if len(data) < _HEAD.size:
        raise WireError("too short for a response")
    version, opcode, result = _HEAD.unpack_from(data)
    if version not in (_PCP, _NAT_PMP) or not opcode & _RESPONSE:
        raise WireError("no response of a router")
    return version, opcode, result


def _mapped(ipv4: str) -> bytes:
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(ipv4).packed
