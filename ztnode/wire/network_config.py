"""The configuration that a controller issues to one member, as a typed value.

It travels, and is kept on disk in ``networks.d/<nwid>.conf``, as a ``Dictionary``
whose binary values hold lists. Source: reference NetworkConfig.cpp (toDictionary, fromDictionary), DNS.hpp.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import Final, TypeAlias, TypeVar

from ztnode.wire.address import format_address
from ztnode.wire.buffer import Buffer
from ztnode.wire.capability import Capability
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.dictionary import Dictionary
from ztnode.wire.endpoint import Endpoint, build_endpoint, parse_endpoint_from
from ztnode.wire.reader import Reader
from ztnode.wire.rules import MAX_NETWORK_RULES, Rule, RuleType, build_rules, parse_rules
from ztnode.wire.tag import Tag
from ztnode.wire.wire_error import WireError

NETWORK_CONFIG_VERSION: Final = 7
OLDEST_BINARY_VERSION: Final = 6
"""From this version on lists are binary values; older controllers wrote them as text."""

MIN_MTU: Final = 1280
MAX_MTU: Final = 10000
DEFAULT_MTU: Final = 2800
MAX_ROUTES: Final = 128
MAX_STATIC_ADDRESSES: Final = 32
MAX_SPECIALISTS: Final = 256
MAX_CAPABILITIES: Final = 128
MAX_TAGS: Final = 128
MAX_CERTIFICATES_OF_OWNERSHIP: Final = 4
MAX_DNS_SERVERS: Final = 4
MAX_NAME_LENGTH: Final = 127
MAX_URL_LENGTH: Final = 2047
_DNS_DOMAIN_SIZE: Final = 128

FLAG_ENABLE_BROADCAST: Final = 0x02
FLAG_ENABLE_IPV6_NDP_EMULATION: Final = 0x04
FLAG_UNSUPPORTED_MATCH_MATCHES: Final = 0x08
FLAG_DISABLE_COMPRESSION: Final = 0x10

SPECIALIST_ACTIVE_BRIDGE: Final = 1 << 41
SPECIALIST_ANCHOR: Final = 1 << 42
SPECIALIST_MULTICAST_REPLICATOR: Final = 1 << 43
_ADDRESS_MASK: Final = (1 << 40) - 1

IpAddress: TypeAlias = IPv4Address | IPv6Address
IpInterface: TypeAlias = IPv4Interface | IPv6Interface
IpNetwork: TypeAlias = IPv4Network | IPv6Network
_Credential = TypeVar("_Credential")


class NetworkType(enum.IntEnum):
    """A private network admits members by certificate, a public one anybody."""

    PRIVATE = 0
    PUBLIC = 1


@dataclass(frozen=True, slots=True)
class ManagedRoute:
    """A managed route: ``via`` a gateway, or None for on-link."""

    target: IpNetwork
    via: IpAddress | None = None
    flags: int = 0
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Dns:
    """Name servers for names under ``domain``."""

    domain: str = ""
    servers: tuple[IpAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class SingleSignOn:
    """What a person needs to log in at an identity provider; version 0 knows the URL alone, version 1 the OIDC details.

    ``expiry`` in milliseconds of Unix time, 0 if none.
    """

    enabled: bool = False
    version: int = 0
    authentication_url: str = ""
    expiry: int = 0
    issuer_url: str = ""
    central_url: str = ""
    nonce: str = ""
    state: str = ""
    client_id: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One member's configuration. Times in milliseconds of the controller's clock, addresses 40-bit ints.

    ``specialists`` are addresses with ``SPECIALIST_…`` flags above bit 40. ``unknown`` holds every key that is not
    understood here, as it came.
    """

    network_id: int
    issued_to: int
    timestamp: int = 0
    credential_time_max_delta: int = 0
    revision: int = 0
    remote_trace_target: int = 0
    remote_trace_level: int = 0
    flags: int = FLAG_ENABLE_BROADCAST | FLAG_ENABLE_IPV6_NDP_EMULATION
    multicast_limit: int = 32
    type: int = NetworkType.PRIVATE
    name: str = ""
    mtu: int = DEFAULT_MTU
    static_addresses: tuple[IpInterface, ...] = ()
    routes: tuple[ManagedRoute, ...] = ()
    specialists: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = ()
    certificate_of_membership: CertificateOfMembership | None = None
    capabilities: tuple[Capability, ...] = ()
    tags: tuple[Tag, ...] = ()
    certificates_of_ownership: tuple[CertificateOfOwnership, ...] = ()
    dns: Dns = Dns()
    sso: SingleSignOn = SingleSignOn()
    unknown: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def is_private(self) -> bool:
        return self.type == NetworkType.PRIVATE

    @property
    def broadcast(self) -> bool:
        """True if ff:ff:ff:ff:ff:ff reaches the members (ARP works regardless)."""
        return bool(self.flags & FLAG_ENABLE_BROADCAST)

    @property
    def ndp_emulation(self) -> bool:
        """True if solicitations for RFC 4193 and 6PLANE addresses are answered locally."""
        return bool(self.flags & FLAG_ENABLE_IPV6_NDP_EMULATION)

    @property
    def compression(self) -> bool:
        """True if multicast frames may be compressed."""
        return not self.flags & FLAG_DISABLE_COMPRESSION

    def with_role(self, role: int) -> tuple[int, ...]:
        """The addresses of the specialists that have any flag of ``role``."""
        return tuple(specialist & _ADDRESS_MASK for specialist in self.specialists if specialist & role)

    def build(self, *, legacy: bool = False) -> bytes:
        """The dictionary, keys in the reference's order; ``legacy`` adds the text fields that nodes before 1.2 read."""
        return _build_dictionary(self, legacy).build()

    @classmethod
    def parse(cls, data: Buffer) -> NetworkConfig:
        """Parse a dictionary. Raises WireError if it is none, or lacks the network or the member it is for."""
        return _parse_dictionary(Dictionary.parse(data))


def _build_ip(address: IpAddress, number: int = 0) -> bytes:
    return build_endpoint((str(address), number))


def _interface(endpoint: Endpoint) -> IpInterface | None:
    """An address whose prefix length stands where an endpoint has its port; None if that is out of range."""
    address = ip_address(endpoint[0])
    if endpoint[1] > address.max_prefixlen:
        return None
    if isinstance(address, IPv4Address):
        return IPv4Interface((address, endpoint[1]))
    return IPv6Interface((address, endpoint[1]))


def _build_route(route: ManagedRoute) -> bytes:
    target = _build_ip(route.target.network_address, route.target.prefixlen)
    via = b"\x00" if route.via is None else _build_ip(route.via)
    return target + via + route.flags.to_bytes(2, "big") + route.metric.to_bytes(2, "big")


def _parse_routes(data: bytes) -> tuple[ManagedRoute, ...]:
    reader = Reader(data)
    routes: list[ManagedRoute] = []
    while reader.remaining and len(routes) < MAX_ROUTES:
        target, via = parse_endpoint_from(reader), parse_endpoint_from(reader)
        flags, metric = reader.u16(), reader.u16()
        interface = None if target is None else _interface(target)
        if interface is not None:
            gateway = None if via is None else ip_address(via[0])
            routes.append(ManagedRoute(interface.network, gateway, flags, metric))
    return tuple(routes)


def _parse_addresses(data: bytes) -> tuple[IpInterface, ...]:
    reader = Reader(data)
    addresses: list[IpInterface] = []
    while reader.remaining and len(addresses) < MAX_STATIC_ADDRESSES:
        endpoint = parse_endpoint_from(reader)
        interface = None if endpoint is None else _interface(endpoint)
        if interface is not None:
            addresses.append(interface)
    return tuple(addresses)


def _build_dns(dns: Dns) -> bytes:
    domain = dns.domain.encode("utf-8")[: _DNS_DOMAIN_SIZE - 1].ljust(_DNS_DOMAIN_SIZE, b"\x00")
    servers = [_build_ip(server) for server in dns.servers[:MAX_DNS_SERVERS]]
    return domain + b"".join(servers) + b"\x00" * (MAX_DNS_SERVERS - len(servers))


def _parse_dns(data: bytes) -> Dns:
    reader = Reader(data)
    domain = reader.take(_DNS_DOMAIN_SIZE).partition(b"\x00")[0].decode("utf-8", "replace")
    servers = [parse_endpoint_from(reader) for _ in range(MAX_DNS_SERVERS) if reader.remaining]
    return Dns(domain, tuple(ip_address(server[0]) for server in servers if server is not None))


def _parse_credentials(
    data: bytes, parse_from: Callable[[Reader], _Credential], limit: int, order: Callable[[_Credential], int]
) -> tuple[_Credential, ...]:
    """Credentials in ascending order of id; what follows a broken one is lost, as in the reference."""
    reader = Reader(data)
    found: list[_Credential] = []
    while reader.remaining and len(found) < limit:
        try:
            found.append(parse_from(reader))
        except WireError:
            break
    return tuple(sorted(found, key=order))


def _build_dictionary(config: NetworkConfig, legacy: bool) -> Dictionary:
    result = Dictionary()
    result.put_unsigned("v", NETWORK_CONFIG_VERSION)
    result.put_unsigned("nwid", config.network_id)
    result.put_integer("ts", config.timestamp)
    result.put_integer("ctmd", config.credential_time_max_delta)
    result.put_unsigned("r", config.revision)
    result.put_address("id", config.issued_to)
    result.put_address("tt", config.remote_trace_target)
    result.put_unsigned("tl", config.remote_trace_level)
    result.put_unsigned("f", config.flags)
    result.put_unsigned("ml", config.multicast_limit)
    result.put_unsigned("t", config.type)
    result.put("n", config.name.encode("utf-8")[:MAX_NAME_LENGTH])
    result.put_unsigned("mtu", config.mtu)
    if legacy:
        _put_legacy(result, config)
    lists: list[tuple[str, Iterable[bytes]]] = [
        ("C", [config.certificate_of_membership.build()] if config.certificate_of_membership else []),
        ("CAP", (capability.build() for capability in config.capabilities)),
        ("TAG", (tag.build() for tag in config.tags)),
        ("COO", (certificate.build() for certificate in config.certificates_of_ownership)),
        ("S", (specialist.to_bytes(8, "big") for specialist in config.specialists)),
        ("RT", (_build_route(route) for route in config.routes)),
        ("I", (_build_ip(address.ip, address.network.prefixlen) for address in config.static_addresses)),
        ("R", [build_rules(config.rules)]),
        ("DNS", [_build_dns(config.dns)]),
    ]
    for key, parts in lists:
        if value := b"".join(parts):
            result.put(key, value)
    _put_sso(result, config.sso)
    for key, value in config.unknown.items():
        result.put(key, value)
    return result


def _put_sso(result: Dictionary, sso: SingleSignOn) -> None:
    result.put_unsigned("ssov", sso.version)
    result.put_boolean("ssoe", sso.enabled)
    if sso.authentication_url:
        result.put_text("aurl", sso.authentication_url)
    if sso.version == 0:
        if sso.enabled:
            result.put_unsigned("aexpt", sso.expiry)
        return
    for key, value in (
        ("iurl", sso.issuer_url),
        ("ssoce", sso.central_url),
        ("sson", sso.nonce),
        ("ssos", sso.state),
        ("ssocid", sso.client_id),
        ("ssop", sso.provider),
    ):
        result.put_text(key, value)


def _parse_sso(source: Dictionary) -> SingleSignOn:
    def text(key: str) -> str:
        return source.text(key)[:MAX_URL_LENGTH]

    version = source.unsigned("ssov")
    enabled = source.boolean("ssoe")
    if not enabled:
        return SingleSignOn(version=version)
    return SingleSignOn(
        enabled=True,
        version=version,
        authentication_url=text("aurl"),
        expiry=source.integer("aexpt"),
        issuer_url=text("iurl"),
        central_url=text("ssoce"),
        nonce=text("sson"),
        state=text("ssos"),
        client_id=text("ssocid"),
        provider=text("ssop") or ("default" if version else ""),
    )


def _put_legacy(result: Dictionary, config: NetworkConfig) -> None:
    result.put_boolean("eb", config.broadcast)
    result.put_boolean("p", config.is_private)
    for key, family in (("v4s", 4), ("v6s", 6)):
        if text := ",".join(str(address) for address in config.static_addresses if address.version == family):
            result.put_text(key, text)
    if text := ",".join(f"{ethertype:04x}" for ethertype in _accepted_ethertypes(config.rules)):
        result.put_text("et", text)
    if text := ",".join(format_address(address) for address in config.with_role(SPECIALIST_ACTIVE_BRIDGE)):
        result.put_text("ab", text)


def _accepted_ethertypes(rules: Iterable[Rule]) -> Iterable[int]:
    """What an old node, which knows no other rules, may be told: the Ethernet types that are accepted; 0 is any."""
    ethertype = 0
    previous: int = RuleType.ACTION_ACCEPT
    for rule in rules:
        if rule.type == RuleType.MATCH_ETHERTYPE and isinstance(rule.value, int):
            ethertype = rule.value
        elif rule.type == RuleType.ACTION_ACCEPT:
            if previous < 32 or previous == RuleType.MATCH_ETHERTYPE:
                yield ethertype
            ethertype = 0
        previous = rule.type


_UNDERSTOOD: Final = frozenset(
    (
        *("v", "nwid", "ts", "ctmd", "r", "id", "tt", "tl", "f", "ml", "t", "n", "mtu"),
        *("C", "CAP", "TAG", "COO", "S", "RT", "I", "R", "DNS"),
        *("ssov", "ssoe", "aurl", "aexpt", "iurl", "ssoce", "sson", "ssos", "ssocid", "ssop"),
        *("eb", "p", "v4s", "v6s", "et", "ab", "com"),
    )
)


def _parse_dictionary(source: Dictionary) -> NetworkConfig:
    network_id = source.unsigned("nwid")
    issued_to = source.unsigned("id") & _ADDRESS_MASK
    if not network_id or not issued_to:
        raise WireError("network configuration without a network id or a member")
    if source.unsigned("v") < OLDEST_BINARY_VERSION:
        raise WireError("network configuration in the format of controllers older than 1.2, which none sends any more")

    def value(key: str) -> bytes:
        return source.get(key, b"")

    specialists = value("S")
    certificate = value("C")
    return NetworkConfig(
        network_id=network_id,
        issued_to=issued_to,
        timestamp=source.integer("ts"),
        credential_time_max_delta=source.integer("ctmd"),
        revision=source.unsigned("r"),
        remote_trace_target=source.unsigned("tt") & _ADDRESS_MASK,
        remote_trace_level=source.unsigned("tl"),
        flags=source.unsigned("f"),
        multicast_limit=source.unsigned("ml"),
        type=source.unsigned("t", NetworkType.PRIVATE),
        name=source.text("n")[:MAX_NAME_LENGTH],
        mtu=min(max(source.unsigned("mtu", DEFAULT_MTU), MIN_MTU), MAX_MTU),
        static_addresses=_parse_addresses(value("I")),
        routes=_parse_routes(value("RT")),
        specialists=tuple(
            int.from_bytes(specialists[at : at + 8], "big")
            for at in range(0, min(len(specialists) // 8, MAX_SPECIALISTS) * 8, 8)
        ),
        rules=parse_rules(value("R"))[:MAX_NETWORK_RULES],
        certificate_of_membership=CertificateOfMembership.parse(certificate) if certificate else None,
        capabilities=_parse_credentials(value("CAP"), Capability.parse_from, MAX_CAPABILITIES, lambda c: c.id),
        tags=_parse_credentials(value("TAG"), Tag.parse_from, MAX_TAGS, lambda t: t.id),
        certificates_of_ownership=_parse_credentials(
            value("COO"), CertificateOfOwnership.parse_from, MAX_CERTIFICATES_OF_OWNERSHIP, lambda c: c.id
        ),
        dns=_parse_dns(value("DNS")) if value("DNS") else Dns(),
        sso=_parse_sso(source),
        unknown={key: raw for key, raw in source.items() if key not in _UNDERSTOOD},
    )
