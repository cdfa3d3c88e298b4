"""Networks and members as values, and as the JSON documents that ZeroTier One's controller keeps.

A network is ``controller.d/network/<nwid>.json``, a member ``controller.d/network/<nwid>/member/<address>.json``
(reference: ``controller/FileDB.cpp``, defaults in ``controller/DB.cpp``), so that a home directory moves between the
two programs. Keys that this controller does not act on are kept as they were. The same parser checks what comes from
a file and what comes from an administrator: there is one place that says what a valid network is.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ztnode.controller.controller_error import ControllerError
from ztnode.wire.address import format_address, format_nwid
from ztnode.wire.capability import MAX_CAPABILITY_RULES
from ztnode.wire.network_config import (
    DEFAULT_MTU,
    MAX_CAPABILITIES,
    MAX_DNS_SERVERS,
    MAX_MTU,
    MAX_NAME_LENGTH,
    MAX_ROUTES,
    MAX_STATIC_ADDRESSES,
    MAX_TAGS,
    MIN_MTU,
    Dns,
    IpAddress,
    ManagedRoute,
)
from ztnode.wire.rules import MAX_NETWORK_RULES, Rule, RuleType, build_rule_json, parse_rule_json

Document: TypeAlias = dict[str, Any]

DEFAULT_MULTICAST_LIMIT: Final = 32
MAX_MULTICAST_LIMIT: Final = 65535
MAX_DNS_DOMAIN_LENGTH: Final = 127
MAX_POOLS: Final = 64
MAX_DOCUMENT_BYTES: Final = 1 << 20
DEFAULT_CREDENTIAL_WINDOW: Final = 30 * 60 * 1000
MIN_CREDENTIAL_WINDOW: Final = 5 * 60 * 1000
MAX_CREDENTIAL_WINDOW: Final = 2 * 60 * 60 * 1000
"""Milliseconds within which two members' certificates agree (reference: ``node/NetworkConfig.hpp``)."""

DEFAULT_EPHEMERAL_TIMEOUT: Final = 15 * 60 * 1000
MIN_EPHEMERAL_TIMEOUT: Final = 2 * 60 * 1000
MAX_EPHEMERAL_TIMEOUT: Final = 30 * 24 * 60 * 60 * 1000
"""Milliseconds after which an ephemeral member that is not heard is forgotten. Members ask once a minute."""

ACCEPT_ALL: Final = (Rule(RuleType.ACTION_ACCEPT),)
"""What a network without rules of its own has: everything may pass, as on a flat Ethernet segment."""

NO_DNS: Final = Dns()

MAX_URL_LENGTH: Final = 2047
MAX_CLIENT_ID_LENGTH: Final = 255
MAX_PROVIDER_LENGTH: Final = 63
"""Bytes; the reference's members have no room for more (``node/NetworkConfig.hpp``)."""
MAX_AUTH_TOKENS: Final = 1024
MAX_AUTH_TOKEN_LENGTH: Final = 505
"""Bytes: with ``token:`` before it, what the reference's controller reads of it."""

_PREFIX: Final = "controller.d/network/"
_KEY: Final = re.compile(r"controller\.d/network/([0-9a-f]{16})(?:\.json|/member/([0-9a-f]{10})\.json)")

# Never stored: computed afresh whenever they are shown (reference: DB::cleanNetwork, DB::cleanMember).
_VOLATILE: Final = frozenset(
    (
        "clock",
        "authorizedMemberCount",
        "activeMemberCount",
        "totalMemberCount",
        "lastModified",
        "physicalAddr",
        "recentLog",
        "lastRequestMetaData",
        "authenticationURL",
        "authenticationClientID",
    )
)


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses to assign from, first and last included, of one family."""

    first: IpAddress
    last: IpAddress


@dataclass(frozen=True, slots=True)
class CapabilityGrant:
    """Rules that members with this capability may send by in addition; ``default``: new members get it."""

    id: int
    default: bool
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class SsoSettings:
    """Where members log in: an OpenID Connect provider, and what this network is called there. ``provider``: its make
    (auth0, keycloak, okta, onelogin or default), by which members choose what they ask it for. The reference keeps this
    in a database of its own; the names in the document are those of its web API."""

    enabled: bool = False
    issuer: str = ""
    client_id: str = ""
    provider: str = "default"


@dataclass(frozen=True, slots=True)
class ControlledNetwork:
    """One network's settings. Times are Unix milliseconds."""

    nwid: int
    name: str = ""
    private: bool = True
    enable_broadcast: bool = True
    mtu: int = DEFAULT_MTU
    multicast_limit: int = DEFAULT_MULTICAST_LIMIT
    v4_assign: bool = False
    v6_assign: bool = False
    rfc4193: bool = False
    sixplane: bool = False
    pools: tuple[Pool, ...] = ()
    routes: tuple[ManagedRoute, ...] = ()
    dns: Dns = NO_DNS
    rules: tuple[Rule, ...] = ACCEPT_ALL
    capabilities: tuple[CapabilityGrant, ...] = ()
    tags: tuple[tuple[int, int | None], ...] = ()
    """(tag id, default value or None)."""
    credential_window: int = DEFAULT_CREDENTIAL_WINDOW
    ephemeral_members: bool = False
    """New members are ephemeral; without it, those are that say so themselves."""
    ephemeral_timeout: int = DEFAULT_EPHEMERAL_TIMEOUT
    sso: SsoSettings = SsoSettings()
    auth_tokens: tuple[tuple[str, int], ...] = ()
    """(token, until when it admits whoever shows it, 0: for ever)."""
    creation_time: int = 0
    revision: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ControlledMember:
    """One member of one network. Times are Unix milliseconds, 0 for never. ``version`` is (major, minor, revision,
    protocol), -1 while unknown."""

    nwid: int
    address: int
    identity: str = ""
    """The public identity as text, once the member has been heard; it can then never be another's."""
    authorized: bool = False
    active_bridge: bool = False
    no_auto_assign_ips: bool = False
    ip_assignments: tuple[IpAddress, ...] = ()
    tags: tuple[tuple[int, int], ...] = ()
    capabilities: tuple[int, ...] = ()
    name: str = ""
    ephemeral: bool = False
    """Is forgotten when it says goodbye, or is not heard for the network's ``ephemeral_timeout``."""
    version: tuple[int, int, int, int] = (-1, -1, -1, -1)
    creation_time: int = 0
    last_authorized_time: int = 0
    last_deauthorized_time: int = 0
    authorized_by: str | None = None
    """What authorized it: ``api`` (an administrator), ``public`` (the network lets everyone in), ``token`` (it showed
    one) or ``sso`` (somebody logged in)."""
    sso_exempt: bool = False
    """Needs no log-in on a network where others do."""
    authentication_expiry: int = 0
    """Until when somebody is logged in at it."""
    sso_nonce: str = ""
    """Of that log-in; renewals name it."""
    sso_subject: str = ""
    """Who is logged in, as the provider names them; nobody else can renew it."""
    revision: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


def network_key(nwid: int) -> str:
    """The state-store key of a network's document."""
    return f"{_PREFIX}{format_nwid(nwid)}.json"


def member_key(nwid: int, address: int) -> str:
    """The state-store key of a member's document."""
    return f"{_PREFIX}{format_nwid(nwid)}/member/{format_address(address)}.json"


def parse_key(key: str) -> tuple[int, int | None] | None:
    """(nwid, member address or None for the network itself), or None where the key names no document of ours."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    nwid, member = match.groups()
    return int(nwid, 16), int(member, 16) if member else None


def parse_document(data: bytes) -> Document:
    """The JSON object in ``data``. Raises ControllerError."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ControllerError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ControllerError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ControllerError("not a JSON object")
    return document


def build_document(document: Mapping[str, Any]) -> bytes:
    """One line of JSON with sorted keys, as the reference writes it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


# Networks


def parse_network(document: Mapping[str, Any], nwid: int) -> ControlledNetwork:
    """A network from its document. Missing keys take the reference's defaults. Raises ControllerError."""
    v4, v6 = _v4_mode(document.get("v4AssignMode")), _v6_mode(document.get("v6AssignMode"))
    window = _integer(document, "certificateTimeoutWindowSize", DEFAULT_CREDENTIAL_WINDOW, 0, 1 << 62)
    return ControlledNetwork(
        nwid=nwid,
        name=_string(document, "name", MAX_NAME_LENGTH),
        private=_boolean(document, "private", True),
        enable_broadcast=_boolean(document, "enableBroadcast", True),
        mtu=_integer(document, "mtu", DEFAULT_MTU, MIN_MTU, MAX_MTU),
        multicast_limit=_integer(document, "multicastLimit", DEFAULT_MULTICAST_LIMIT, 0, MAX_MULTICAST_LIMIT),
        v4_assign=v4,
        v6_assign=v6[0],
        rfc4193=v6[1],
        sixplane=v6[2],
        pools=tuple(_pool(item) for item in _items(document, "ipAssignmentPools", MAX_POOLS)),
        routes=tuple(_route(item) for item in _items(document, "routes", MAX_ROUTES)),
        dns=_dns(document.get("dns")),
        rules=_rules(document, "rules", MAX_NETWORK_RULES) if document.get("rules") is not None else ACCEPT_ALL,
        capabilities=tuple(_capability(item) for item in _items(document, "capabilities", MAX_CAPABILITIES)),
        tags=tuple(_network_tag(item) for item in _items(document, "tags", MAX_TAGS)),
        credential_window=max(MIN_CREDENTIAL_WINDOW, min(window, MAX_CREDENTIAL_WINDOW)),
        ephemeral_members=_boolean(document, "ephemeralMembers", False),
        ephemeral_timeout=_integer(
            document, "ephemeralTimeout", DEFAULT_EPHEMERAL_TIMEOUT, MIN_EPHEMERAL_TIMEOUT, MAX_EPHEMERAL_TIMEOUT
        ),
        sso=_sso(document),
        auth_tokens=_auth_tokens(document.get("authTokens")),
        creation_time=_integer(document, "creationTime", 0, 0, 1 << 62),
        revision=_integer(document, "revision", 0, 0, 1 << 62),
        extra={k: v for k, v in document.items() if k not in NETWORK_KEYS and k not in _VOLATILE},
    )


def build_network(network: ControlledNetwork) -> Document:
    """The document of a network, keys as the reference names them."""
    nwid = format_nwid(network.nwid)
    return {
        **network.extra,
        "id": nwid,
        "nwid": nwid,
        "objtype": "network",
        "name": network.name,
        "private": network.private,
        "enableBroadcast": network.enable_broadcast,
        "mtu": network.mtu,
        "multicastLimit": network.multicast_limit,
        "v4AssignMode": {"zt": network.v4_assign},
        "v6AssignMode": {"zt": network.v6_assign, "rfc4193": network.rfc4193, "6plane": network.sixplane},
        "ipAssignmentPools": [{"ipRangeStart": str(p.first), "ipRangeEnd": str(p.last)} for p in network.pools],
        "routes": [{"target": str(r.target), "via": None if r.via is None else str(r.via)} for r in network.routes],
        "dns": {"domain": network.dns.domain, "servers": [str(server) for server in network.dns.servers]},
        "rules": [build_rule_json(rule) for rule in network.rules],
        "capabilities": [
            {"id": grant.id, "default": grant.default, "rules": [build_rule_json(rule) for rule in grant.rules]}
            for grant in network.capabilities
        ],
        "tags": [{"id": tag, "default": default} for tag, default in network.tags],
        "certificateTimeoutWindowSize": network.credential_window,
        "ephemeralMembers": network.ephemeral_members,
        "ephemeralTimeout": network.ephemeral_timeout,
        "ssoEnabled": network.sso.enabled,
        "ssoConfig": {
            "issuer": network.sso.issuer,
            "clientId": network.sso.client_id,
            "provider": network.sso.provider,
        },
        "authTokens": dict(network.auth_tokens),
        "creationTime": network.creation_time,
        "revision": network.revision,
    }


NETWORK_KEYS: Final = frozenset(build_network(ControlledNetwork(0)))
_NETWORK_FIXED: Final = frozenset(("id", "nwid", "objtype", "creationTime", "revision"))
NETWORK_SETTINGS: Final = NETWORK_KEYS - _NETWORK_FIXED
"""What an administrator may set on a network."""


NETWORK_KEPT: Final = frozenset(("remoteTraceTarget", "remoteTraceLevel", "rulesSource"))
"""What an administrator may set and this controller keeps as it was given."""


def change_network(network: ControlledNetwork, settings: Mapping[str, Any]) -> ControlledNetwork:
    """The network with ``settings`` (a part of a document) applied. Raises ControllerError, also for a key that is
    not a setting: a misspelt one must not look as if it had worked."""
    _known(settings, NETWORK_SETTINGS | NETWORK_KEPT, "network")
    changed = parse_network({**build_network(network), **settings}, network.nwid)
    sso = changed.sso
    if sso.enabled and not (sso.client_id and sso.issuer.startswith(("https://", "http://"))):
        raise ControllerError("single sign-on needs the provider's issuer, an https:// URL, and a client id there")
    return changed


# Members


def parse_member(document: Mapping[str, Any], nwid: int, address: int) -> ControlledMember:
    """A member from its document. Raises ControllerError."""
    return ControlledMember(
        nwid=nwid,
        address=address,
        identity=_string(document, "identity", 512),
        authorized=_boolean(document, "authorized", False),
        active_bridge=_boolean(document, "activeBridge", False),
        no_auto_assign_ips=_boolean(document, "noAutoAssignIps", False),
        ip_assignments=_assignments(document),
        tags=tuple(_member_tag(item) for item in _items(document, "tags", MAX_TAGS)),
        capabilities=tuple(
            dict.fromkeys(_uint32(item, "capabilities") for item in _items(document, "capabilities", MAX_CAPABILITIES))
        ),
        name=_string(document, "name", MAX_NAME_LENGTH),
        ephemeral=_boolean(document, "ephemeral", False),
        version=(
            _integer(document, "vMajor", -1, -1, 65535),
            _integer(document, "vMinor", -1, -1, 65535),
            _integer(document, "vRev", -1, -1, 65535),
            _integer(document, "vProto", -1, -1, 65535),
        ),
        creation_time=_integer(document, "creationTime", 0, 0, 1 << 62),
        last_authorized_time=_integer(document, "lastAuthorizedTime", 0, 0, 1 << 62),
        last_deauthorized_time=_integer(document, "lastDeauthorizedTime", 0, 0, 1 << 62),
        authorized_by=_string(document, "lastAuthorizedCredentialType", 32) or None,
        sso_exempt=_boolean(document, "ssoExempt", False),
        authentication_expiry=_integer(document, "authenticationExpiryTime", 0, -1, 1 << 62),
        sso_nonce=_string(document, "ssoNonce", 64),
        sso_subject=_string(document, "ssoSubject", 255),
        revision=_integer(document, "revision", 0, 0, 1 << 62),
        extra={k: v for k, v in document.items() if k not in MEMBER_KEYS and k not in _VOLATILE},
    )


def build_member(member: ControlledMember) -> Document:
    """The document of a member, keys as the reference names them."""
    address = format_address(member.address)
    document = {
        **member.extra,
        "id": address,
        "address": address,
        "nwid": format_nwid(member.nwid),
        "objtype": "member",
        "identity": member.identity,
        "authorized": member.authorized,
        "activeBridge": member.active_bridge,
        "noAutoAssignIps": member.no_auto_assign_ips,
        "ipAssignments": [str(ip) for ip in member.ip_assignments],
        "tags": [list(tag) for tag in member.tags],
        "capabilities": list(member.capabilities),
        "name": member.name,
        "ephemeral": member.ephemeral,
        "vMajor": member.version[0],
        "vMinor": member.version[1],
        "vRev": member.version[2],
        "vProto": member.version[3],
        "creationTime": member.creation_time,
        "lastAuthorizedTime": member.last_authorized_time,
        "lastDeauthorizedTime": member.last_deauthorized_time,
        "lastAuthorizedCredentialType": member.authorized_by,
        "ssoExempt": member.sso_exempt,
        "authenticationExpiryTime": member.authentication_expiry,
        "ssoNonce": member.sso_nonce,
        "ssoSubject": member.sso_subject,
        "revision": member.revision,
    }
    if not member.identity:
        # The reference takes a present but empty identity for a broken one and refuses the member.
        del document["identity"]
    return document


MEMBER_KEYS: Final = frozenset(build_member(ControlledMember(0, 0, identity="known")))
MEMBER_SETTINGS: Final = frozenset(
    (
        "authorized",
        "activeBridge",
        "noAutoAssignIps",
        "ipAssignments",
        "tags",
        "capabilities",
        "name",
        "ephemeral",
        "ssoExempt",
    )
)
"""What an administrator may set on a member."""
MEMBER_KEPT: Final = frozenset(("remoteTraceTarget", "remoteTraceLevel"))
"""What an administrator may set beside and this controller keeps as it was given."""


def change_member(member: ControlledMember, settings: Mapping[str, Any]) -> ControlledMember:
    """The member with ``settings`` applied. Raises ControllerError. Times of authorization are the caller's."""
    _known(settings, MEMBER_SETTINGS | MEMBER_KEPT, "member")
    return parse_member({**build_member(member), **settings}, member.nwid, member.address)


# The parts


def _known(settings: Mapping[str, Any], allowed: frozenset[str], what: str) -> None:
    unknown = sorted(set(settings) - allowed)
    if unknown:
        raise ControllerError(f"no such {what} setting: {', '.join(unknown)}")


_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
"""As forms send them and the reference takes them (OSUtils.cpp, ``jsonBool``)."""


def _boolean(document: Mapping[str, Any], key: str, default: bool) -> bool:
    value = document.get(key)
    if value is None:
        return default
    if isinstance(value, str):
        value = _BOOLEANS.get(value.lower())
    if not isinstance(value, bool):
        raise ControllerError(f"{key} must be true or false")
    return value


def _numeric(value: Any) -> int | None:
    """An integer, as digits too, as forms send it and the reference takes it; None: none."""
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdecimal():
        return int(value)
    return None if isinstance(value, bool) or not isinstance(value, int) else value


def _integer(document: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = document.get(key)
    if value is None:
        return default
    value = _numeric(value)
    if value is None or not low <= value <= high:
        raise ControllerError(f"{key} must be an integer from {low} to {high}")
    return value


def _string(document: Mapping[str, Any], key: str, limit: int) -> str:
    value = document.get(key)
    if value is None:
        return ""
    return _text(value, key, limit)


def _text(value: Any, key: str, limit: int) -> str:
    if not isinstance(value, str):
        raise ControllerError(f"{key} must be text")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise ControllerError(f"{key} is not valid Unicode") from None
    if len(encoded) > limit or "\0" in value:
        raise ControllerError(f"{key} must be at most {limit} bytes without NUL")
    return value


def _items(document: Mapping[str, Any], key: str, limit: int) -> Sequence[Any]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise ControllerError(f"{key} must be a list")
    if len(value) > limit:
        raise ControllerError(f"{key} has more than {limit} entries")
    return value


def _object(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ControllerError(f"{key}: each entry must be an object")
    return value


def _uint32(value: Any, key: str) -> int:
    number = _numeric(value)
    if number is None or not 0 <= number <= 0xFFFFFFFF:
        raise ControllerError(f"{key} must hold integers of 32 bits")
    return number


def _address(value: Any, key: str) -> IpAddress:
    try:
        if isinstance(value, str):
            # An IPv6 scope means nothing on another host; a prefix length is what the routes say.
            return ipaddress.ip_address(value.partition("/")[0].partition("%")[0])
    except ValueError:
        pass
    raise ControllerError(f"{key}: not an IP address: {value!r:.64}")


def _assignments(document: Mapping[str, Any]) -> tuple[IpAddress, ...]:
    items = _items(document, "ipAssignments", MAX_STATIC_ADDRESSES)
    return tuple(dict.fromkeys(_address(item, "ipAssignments") for item in items))


def _route(value: Any) -> ManagedRoute:
    entry = _object(value, "routes")
    try:
        target = ipaddress.ip_network(_text(entry.get("target"), "routes: target", 64), strict=False)
    except ControllerError:
        raise
    except ValueError:
        raise ControllerError(f"routes: not a network in CIDR form: {entry.get('target')!r:.64}") from None
    via = entry.get("via")
    gateway = None if via is None or via == "" else _address(via, "routes: via")
    if gateway is not None and gateway.version != target.version:
        raise ControllerError(f"routes: {target} cannot go via {gateway}")
    return ManagedRoute(target, gateway)


def _pool(value: Any) -> Pool:
    entry = _object(value, "ipAssignmentPools")
    first = _address(entry.get("ipRangeStart"), "ipAssignmentPools")
    last = _address(entry.get("ipRangeEnd"), "ipAssignmentPools")
    if first.version != last.version or int(first) > int(last):
        raise ControllerError(f"ipAssignmentPools: {first} to {last} is not a range")
    return Pool(first, last)


def _v4_mode(value: Any) -> bool:
    if value is None:
        return False
    if isinstance(value, str):  # the reference still takes the old comma-separated form
        return value == "zt"
    return _boolean(_object(value, "v4AssignMode"), "zt", False)


def _v6_mode(value: Any) -> tuple[bool, bool, bool]:
    if value is None:
        return False, False, False
    if isinstance(value, str):
        modes = value.split(",")
        return "zt" in modes, "rfc4193" in modes, "6plane" in modes
    entry = _object(value, "v6AssignMode")
    return _boolean(entry, "zt", False), _boolean(entry, "rfc4193", False), _boolean(entry, "6plane", False)


def _dns(value: Any) -> Dns:
    if not value:  # the reference's default is an empty list
        return NO_DNS
    entry = _object(value, "dns")
    servers = _items(entry, "servers", MAX_DNS_SERVERS)
    return Dns(
        _string(entry, "domain", MAX_DNS_DOMAIN_LENGTH), tuple(_address(item, "dns: servers") for item in servers)
    )


def _sso(document: Mapping[str, Any]) -> SsoSettings:
    entry = _object(document.get("ssoConfig") or {}, "ssoConfig")
    return SsoSettings(
        enabled=_boolean(document, "ssoEnabled", False),
        issuer=_string(entry, "issuer", MAX_URL_LENGTH),
        client_id=_string(entry, "clientId", MAX_CLIENT_ID_LENGTH),
        provider=_string(entry, "provider", MAX_PROVIDER_LENGTH) or "default",
    )


def _auth_tokens(value: Any) -> tuple[tuple[str, int], ...]:
    """As the reference reads them: what is no object holds none, and an expiry that is no time is none."""
    if not isinstance(value, Mapping):
        return ()
    if len(value) > MAX_AUTH_TOKENS:
        raise ControllerError(f"authTokens has more than {MAX_AUTH_TOKENS} entries")
    found = []
    for token, until in value.items():
        if (
            _text(token, "authTokens", MAX_AUTH_TOKEN_LENGTH)
            and isinstance(until, (int, float))
            and 0 <= until < 1 << 62
        ):
            found.append((token, int(until)))
    return tuple(sorted(found))


def _rules(document: Mapping[str, Any], key: str, limit: int) -> tuple[Rule, ...]:
    rules = []
    for item in _items(document, key, limit):
        try:
            rules.append(parse_rule_json(_object(item, key)))
        except (ValueError, TypeError) as error:
            raise ControllerError(f"{key}: {error}") from None
    return tuple(rules)


def _capability(value: Any) -> CapabilityGrant:
    entry = _object(value, "capabilities")
    return CapabilityGrant(
        id=_uint32(entry.get("id"), "capabilities: id"),
        default=_boolean(entry, "default", False),
        rules=_rules(entry, "rules", MAX_CAPABILITY_RULES),
    )


def _network_tag(value: Any) -> tuple[int, int | None]:
    entry = _object(value, "tags")
    default = entry.get("default")
    return _uint32(entry.get("id"), "tags: id"), None if default is None else _uint32(default, "tags: default")


def _member_tag(value: Any) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ControllerError("tags: each entry must be [id, value]")
    return _uint32(value[0], "tags"), _uint32(value[1], "tags")
