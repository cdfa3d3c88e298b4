"""The network controller of a node that was started with ``ztnode serve --controller``."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ztclient import times
from ztclient.forms import network_id
from ztclient.node import Node

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from ztclient.v1 import controller_pb2 as pb


class NetworkSettings(TypedDict, total=False):
    """Settings of a network; what is left out keeps its value, or its default in a new network."""

    name: str
    private: bool
    """Members need authorization. Default: True."""
    broadcast: bool
    mtu: int
    multicast_limit: int
    assign_ipv4: bool
    """Give members addresses from the pools. Default: False."""
    assign_ipv6: bool
    rfc4193: bool
    sixplane: bool
    pools: Sequence[tuple[str, str]]
    """First and last address of each range."""
    routes: Sequence[tuple[str, str | None]]
    """Target (CIDR) and gateway (None: on link)."""
    dns: tuple[str, Sequence[str]]
    """Search domain and servers."""
    rules: Sequence[dict[str, Any]]
    """As in ZeroTier One's controller API."""
    rules_source: str
    """The text that rules, capabilities and tags were compiled from; kept as it is."""
    capabilities: Sequence[dict[str, Any]]
    tags: Sequence[tuple[int, int | None]]
    """Number and default value (None: none)."""
    certificate_window: float
    """Seconds for which two members' certificates agree."""
    ephemeral_members: bool
    """New members are ephemeral; without it, those are that say so themselves. Default: False."""
    ephemeral_timeout: float
    """Seconds after which an ephemeral member that is not heard is forgotten, 120 to 2,592,000. Default: 900."""
    sso: SingleSignOn
    """Where members log in. Default: they need not."""
    auth_tokens: Mapping[str, float | None]
    """What admits the nodes that show it, and until when (Unix seconds; None: for ever)."""


@dataclass(frozen=True, slots=True)
class SingleSignOn:
    """An OpenID Connect provider; ``client_id``: what the network is called there, a public client with the redirect
    URI ``http://localhost:9993/sso``. ``provider``: auth0, keycloak, okta, onelogin or default."""

    enabled: bool = False
    issuer: str = ""
    client_id: str = ""
    provider: str = "default"


class MemberSettings(TypedDict, total=False):
    """Settings of a member; what is left out keeps its value."""

    name: str
    active_bridge: bool
    no_auto_assign: bool
    addresses: Sequence[str]
    """Its assigned IPs, in place of those it has."""
    tags: Sequence[tuple[int, int]]
    capabilities: Sequence[int]
    ephemeral: bool
    """It is forgotten when it says goodbye, or is not heard for so long as the network's settings say."""
    sso_exempt: bool
    """Needs no log-in where others do."""


@dataclass(frozen=True, slots=True)
class ControllerRoute:
    """A route that the controller hands out: ``target`` in CIDR form, ``via`` a gateway or None for on-link."""

    target: str
    via: str | None


@dataclass(frozen=True, slots=True)
class ControllerNetwork:
    """A network of the controller. ``created``: Unix time in seconds."""

    nwid: str
    name: str
    private: bool
    members: int
    authorized_members: int
    broadcast: bool
    mtu: int
    multicast_limit: int
    assign_ipv4: bool
    assign_ipv6: bool
    rfc4193: bool
    sixplane: bool
    pools: tuple[tuple[str, str], ...]
    routes: tuple[ControllerRoute, ...]
    dns_domain: str
    dns_servers: tuple[str, ...]
    rules: tuple[dict[str, Any], ...]
    rules_source: str
    capabilities: tuple[dict[str, Any], ...]
    tags: tuple[tuple[int, int | None], ...]
    certificate_window: float
    ephemeral_members: bool
    ephemeral_timeout: float
    sso: SingleSignOn
    auth_tokens: dict[str, float | None]
    revision: int
    created: float


@dataclass(frozen=True, slots=True)
class ControllerMember:
    """A member, or a node that asked to become one. Times are Unix time in seconds, None for never; ``last_seen_age``
    is seconds since it last asked, None: not since the controller started."""

    nwid: str
    address: str
    name: str
    authorized: bool
    online: bool
    last_seen_age: float | None
    managed_addresses: tuple[str, ...]
    """What its configuration names, CIDR."""
    assigned_addresses: tuple[str, ...]
    """What it was given, by the pools or by hand."""
    version: str
    protocol: int | None
    active_bridge: bool
    no_auto_assign: bool
    tags: tuple[tuple[int, int], ...]
    capabilities: tuple[int, ...]
    ephemeral: bool
    identity: str
    authorized_by: str
    sso_exempt: bool
    sso_subject: str
    """Who is logged in, as the provider names them."""
    authentication_expires: float | None
    created: float | None
    last_authorized: float | None
    last_deauthorized: float | None
    revision: int


def subnet(cidr: str) -> NetworkSettings:
    """Settings for a network whose members get addresses of this IPv4 subnet. Raises ValueError."""
    network = ipaddress.IPv4Network(cidr)
    if network.prefixlen > 30:
        raise ValueError(f"{cidr} is too small for a network: give a prefix of 30 bits or less")
    first, last = network.network_address + 1, network.broadcast_address - 1
    return {"assign_ipv4": True, "routes": [(str(network), None)], "pools": [(str(first), str(last))]}


class Controller:
    """The controller of one node. Raises NotFoundError for what does not exist, ValueError with a reason for a
    malformed id or a setting that cannot be."""

    def __init__(self, node: Node | None = None) -> None:
        """``node`` None: the one that is found as ``Node()`` finds it."""
        self._node = node or Node()

    def networks(self) -> list[ControllerNetwork]:
        """All networks of this controller."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceListNetworksRequest()
        return [_network(each) for each in control.entries(control.controller_stub.ListNetworks, request)]

    def network(self, nwid: str | int) -> ControllerNetwork:
        """One network."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceGetNetworkRequest(network_id=network_id(nwid))
        answer: pb.ControllerServiceGetNetworkResponse = control.call(control.controller_stub.GetNetwork, request)
        return _network(answer.network)

    def create_network(self, nwid: str | int | None = None, **settings: Unpack[NetworkSettings]) -> ControllerNetwork:
        """Make a network; ``nwid`` None: with a random id. See ``subnet`` for the usual addresses."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceCreateNetworkRequest(
            network_id="" if nwid is None else network_id(nwid), settings=_network_settings(settings)
        )
        answer: pb.ControllerServiceCreateNetworkResponse = control.call(control.controller_stub.CreateNetwork, request)
        return _network(answer.network)

    def update_network(self, nwid: str | int, **settings: Unpack[NetworkSettings]) -> ControllerNetwork:
        """Change settings; members that are online get them at once."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceUpdateNetworkRequest(
            network_id=network_id(nwid), settings=_network_settings(settings)
        )
        answer: pb.ControllerServiceUpdateNetworkResponse = control.call(control.controller_stub.UpdateNetwork, request)
        return _network(answer.network)

    def delete_network(self, nwid: str | int) -> None:
        """Delete a network with its members."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceDeleteNetworkRequest(network_id=network_id(nwid))
        control.call(control.controller_stub.DeleteNetwork, request)

    def members(self, nwid: str | int) -> list[ControllerMember]:
        """Everybody who is a member or has asked to become one."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceListMembersRequest(network_id=network_id(nwid))
        return [_member(each) for each in control.entries(control.controller_stub.ListMembers, request)]

    def member(self, nwid: str | int, address: str) -> ControllerMember:
        """One member."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceGetMemberRequest(network_id=network_id(nwid), address=address)
        answer: pb.ControllerServiceGetMemberResponse = control.call(control.controller_stub.GetMember, request)
        return _member(answer.member)

    def authorize(self, nwid: str | int, address: str) -> ControllerMember:
        """Let a node in, whether or not it has asked yet."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceAuthorizeMemberRequest(network_id=network_id(nwid), address=address)
        answer: pb.ControllerServiceAuthorizeMemberResponse = control.call(
            control.controller_stub.AuthorizeMember, request
        )
        return _member(answer.member)

    def deauthorize(self, nwid: str | int, address: str) -> ControllerMember:
        """Shut a member out."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceDeauthorizeMemberRequest(network_id=network_id(nwid), address=address)
        answer: pb.ControllerServiceDeauthorizeMemberResponse = control.call(
            control.controller_stub.DeauthorizeMember, request
        )
        return _member(answer.member)

    def update_member(self, nwid: str | int, address: str, **settings: Unpack[MemberSettings]) -> ControllerMember:
        """Change settings of a member, or make one known before it asks."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceUpdateMemberRequest(
            network_id=network_id(nwid), address=address, settings=_member_settings(settings)
        )
        answer: pb.ControllerServiceUpdateMemberResponse = control.call(control.controller_stub.UpdateMember, request)
        return _member(answer.member)

    def delete_member(self, nwid: str | int, address: str) -> None:
        """Forget a member and free its addresses."""
        from ztclient.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerServiceDeleteMemberRequest(network_id=network_id(nwid), address=address)
        control.call(control.controller_stub.DeleteMember, request)


def _refuse_others(settings: Mapping[str, object], known: type) -> None:
    """TypeError for a setting that there is not: to leave it out without a word would look like having set it."""
    if unknown := sorted(settings.keys() - known.__annotations__.keys()):
        raise TypeError(f"no such setting: {', '.join(unknown)}")


def _network_settings(settings: NetworkSettings) -> pb.NetworkSettings:
    _refuse_others(settings, NetworkSettings)
    from ztclient.v1 import controller_pb2 as pb

    message = pb.NetworkSettings(
        name=settings.get("name"),
        private=settings.get("private"),
        broadcast=settings.get("broadcast"),
        mtu=settings.get("mtu"),
        multicast_limit=settings.get("multicast_limit"),
        assign_ipv4=settings.get("assign_ipv4"),
        assign_ipv6=settings.get("assign_ipv6"),
        rfc4193=settings.get("rfc4193"),
        sixplane=settings.get("sixplane"),
        ephemeral_members=settings.get("ephemeral_members"),
        rules_source=settings.get("rules_source"),
    )
    if "pools" in settings:
        pools = [pb.AddressPool(first=first, last=last) for first, last in settings["pools"]]
        message.pools.CopyFrom(pb.AddressPools(pools=pools))
    if "routes" in settings:
        routes = [pb.ControllerRoute(target=target, via=via or "") for target, via in settings["routes"]]
        message.routes.CopyFrom(pb.ControllerRoutes(routes=routes))
    if "dns" in settings:
        domain, servers = settings["dns"]
        message.dns.CopyFrom(pb.ControllerDns(domain=domain, servers=servers))
    if "rules" in settings:
        message.rules_json = json.dumps(list(settings["rules"]))
    if "capabilities" in settings:
        message.capabilities_json = json.dumps(list(settings["capabilities"]))
    if "tags" in settings:
        tags = [pb.NetworkTag(id=tag, default_value=default) for tag, default in settings["tags"]]
        message.tags.CopyFrom(pb.NetworkTags(tags=tags))
    if "certificate_window" in settings:
        message.certificate_window.CopyFrom(times.duration(settings["certificate_window"]))
    if "ephemeral_timeout" in settings:
        message.ephemeral_timeout.CopyFrom(times.duration(settings["ephemeral_timeout"]))
    if "sso" in settings:
        sso = settings["sso"]
        message.sso.CopyFrom(
            pb.SingleSignOn(enabled=sso.enabled, issuer=sso.issuer, client_id=sso.client_id, provider=sso.provider)
        )
    if "auth_tokens" in settings:
        tokens = [
            pb.AuthToken(token=token, expires_at=None if until is None else times.timestamp(round(until * 1000)))
            for token, until in settings["auth_tokens"].items()
        ]
        message.auth_tokens.CopyFrom(pb.AuthTokens(tokens=tokens))
    return message


def _member_settings(settings: MemberSettings) -> pb.MemberSettings:
    _refuse_others(settings, MemberSettings)
    from ztclient.v1 import controller_pb2 as pb

    message = pb.MemberSettings(
        name=settings.get("name"),
        active_bridge=settings.get("active_bridge"),
        no_auto_assign=settings.get("no_auto_assign"),
        ephemeral=settings.get("ephemeral"),
        sso_exempt=settings.get("sso_exempt"),
    )
    if "addresses" in settings:
        message.addresses.CopyFrom(pb.AddressList(addresses=settings["addresses"]))
    if "tags" in settings:
        tags = [pb.MemberTag(id=tag, value=value) for tag, value in settings["tags"]]
        message.tags.CopyFrom(pb.MemberTags(tags=tags))
    if "capabilities" in settings:
        message.capabilities.CopyFrom(pb.CapabilityList(ids=settings["capabilities"]))
    return message


def _network(message: pb.ControllerNetwork) -> ControllerNetwork:
    settings = message.settings
    return ControllerNetwork(
        nwid=message.network_id,
        name=settings.name,
        private=settings.private,
        members=message.members,
        authorized_members=message.authorized_members,
        broadcast=settings.broadcast,
        mtu=settings.mtu,
        multicast_limit=settings.multicast_limit,
        assign_ipv4=settings.assign_ipv4,
        assign_ipv6=settings.assign_ipv6,
        rfc4193=settings.rfc4193,
        sixplane=settings.sixplane,
        pools=tuple((pool.first, pool.last) for pool in settings.pools.pools),
        routes=tuple(ControllerRoute(route.target, route.via or None) for route in settings.routes.routes),
        dns_domain=settings.dns.domain,
        dns_servers=tuple(settings.dns.servers),
        rules=tuple(json.loads(settings.rules_json or "[]")),
        rules_source=settings.rules_source,
        capabilities=tuple(json.loads(settings.capabilities_json or "[]")),
        tags=tuple(
            (tag.id, tag.default_value if tag.HasField("default_value") else None) for tag in settings.tags.tags
        ),
        certificate_window=times.seconds(settings.certificate_window),
        ephemeral_members=settings.ephemeral_members,
        ephemeral_timeout=times.seconds(settings.ephemeral_timeout),
        sso=SingleSignOn(settings.sso.enabled, settings.sso.issuer, settings.sso.client_id, settings.sso.provider),
        auth_tokens={each.token: _when(each.expires_at) for each in settings.auth_tokens.tokens},
        revision=message.revision,
        created=times.milliseconds(message.created_at) / 1000,
    )


def _member(message: pb.ControllerMember) -> ControllerMember:
    settings = message.settings
    return ControllerMember(
        nwid=message.network_id,
        address=message.address,
        name=settings.name,
        authorized=message.authorized,
        online=message.online,
        last_seen_age=times.seconds(message.last_seen_age) if message.HasField("last_seen_age") else None,
        managed_addresses=tuple(message.managed_addresses),
        assigned_addresses=tuple(settings.addresses.addresses),
        version=message.version,
        protocol=message.protocol or None,
        active_bridge=settings.active_bridge,
        no_auto_assign=settings.no_auto_assign,
        tags=tuple((tag.id, tag.value) for tag in settings.tags.tags),
        capabilities=tuple(settings.capabilities.ids),
        ephemeral=settings.ephemeral,
        identity=message.identity,
        authorized_by=message.authorized_by,
        sso_exempt=settings.sso_exempt,
        sso_subject=message.sso_subject,
        authentication_expires=_when(message.authentication_expires_at),
        created=_when(message.created_at),
        last_authorized=_when(message.last_authorized_at),
        last_deauthorized=_when(message.last_deauthorized_at),
        revision=message.revision,
    )


def _when(message: Timestamp) -> float | None:
    return times.milliseconds(message) / 1000 or None
