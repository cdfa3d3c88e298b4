"""The network controller of a node that was started with ``ztnode serve --controller``."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ztclient.node import Node, network_id

if TYPE_CHECKING:
    from ztnode.v1 import controller_pb2 as pb


class NetworkSettings(TypedDict, total=False):
    """Settings of a network; what is left out keeps its value, or its default in a new network."""

    name: str
    private: bool
    """Members need authorisation. Default: True."""
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
    capabilities: Sequence[dict[str, Any]]
    tags: Sequence[tuple[int, int | None]]
    """Number and default value (None: none)."""
    certificate_window: float
    """Seconds for which two members' certificates agree."""


class MemberSettings(TypedDict, total=False):
    """Settings of a member; what is left out keeps its value."""

    name: str
    active_bridge: bool
    no_auto_assign: bool
    addresses: Sequence[str]
    """Its assigned IPs, in place of those it has."""
    tags: Sequence[tuple[int, int]]
    capabilities: Sequence[int]


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
    authorised_members: int
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
    capabilities: tuple[dict[str, Any], ...]
    tags: tuple[tuple[int, int | None], ...]
    certificate_window: float
    revision: int
    created: float


@dataclass(frozen=True, slots=True)
class ControllerMember:
    """A member, or a node that asked to become one. Times are Unix time in seconds, None for never; ``last_seen_age``
    is seconds since it last asked, None: not since the controller started."""

    nwid: str
    address: str
    name: str
    authorised: bool
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
    identity: str
    authorised_by: str
    created: float | None
    last_authorised: float | None
    last_deauthorised: float | None
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
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        answer: pb.ControllerListNetworksResponse = control.call(
            control.controller_stub.ListNetworks, pb.ControllerListNetworksRequest()
        )
        return [_network(network) for network in answer.networks]

    def network(self, nwid: str | int) -> ControllerNetwork:
        """One network."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerGetNetworkRequest(network_id=network_id(nwid))
        answer: pb.ControllerGetNetworkResponse = control.call(control.controller_stub.GetNetwork, request)
        return _network(answer.network)

    def create_network(self, nwid: str | int | None = None, **settings: Unpack[NetworkSettings]) -> ControllerNetwork:
        """Make a network; ``nwid`` None: with a random id. See ``subnet`` for the usual addresses."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerCreateNetworkRequest(
            network_id="" if nwid is None else network_id(nwid), settings=_network_settings(settings)
        )
        answer: pb.ControllerCreateNetworkResponse = control.call(control.controller_stub.CreateNetwork, request)
        return _network(answer.network)

    def update_network(self, nwid: str | int, **settings: Unpack[NetworkSettings]) -> ControllerNetwork:
        """Change settings; members that are online get them at once."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerUpdateNetworkRequest(network_id=network_id(nwid), settings=_network_settings(settings))
        answer: pb.ControllerUpdateNetworkResponse = control.call(control.controller_stub.UpdateNetwork, request)
        return _network(answer.network)

    def delete_network(self, nwid: str | int) -> None:
        """Delete a network with its members."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerDeleteNetworkRequest(network_id=network_id(nwid))
        control.call(control.controller_stub.DeleteNetwork, request)

    def members(self, nwid: str | int) -> list[ControllerMember]:
        """Everybody who is a member or has asked to become one."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerListMembersRequest(network_id=network_id(nwid))
        answer: pb.ControllerListMembersResponse = control.call(control.controller_stub.ListMembers, request)
        return [_member(member) for member in answer.members]

    def member(self, nwid: str | int, address: str) -> ControllerMember:
        """One member."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerGetMemberRequest(network_id=network_id(nwid), address=address)
        answer: pb.ControllerGetMemberResponse = control.call(control.controller_stub.GetMember, request)
        return _member(answer.member)

    def authorise(self, nwid: str | int, address: str) -> ControllerMember:
        """Let a node in, whether or not it has asked yet."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerAuthoriseMemberRequest(network_id=network_id(nwid), address=address)
        answer: pb.ControllerAuthoriseMemberResponse = control.call(control.controller_stub.AuthoriseMember, request)
        return _member(answer.member)

    def deauthorise(self, nwid: str | int, address: str) -> ControllerMember:
        """Shut a member out."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerDeauthoriseMemberRequest(network_id=network_id(nwid), address=address)
        answer: pb.ControllerDeauthoriseMemberResponse = control.call(
            control.controller_stub.DeauthoriseMember, request
        )
        return _member(answer.member)

    def update_member(self, nwid: str | int, address: str, **settings: Unpack[MemberSettings]) -> ControllerMember:
        """Change settings of a member, or make one known before it asks."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerUpdateMemberRequest(
            network_id=network_id(nwid), address=address, settings=_member_settings(settings)
        )
        answer: pb.ControllerUpdateMemberResponse = control.call(control.controller_stub.UpdateMember, request)
        return _member(answer.member)

    def delete_member(self, nwid: str | int, address: str) -> None:
        """Forget a member and free its addresses."""
        from ztnode.v1 import controller_pb2 as pb

        control = self._node.control
        request = pb.ControllerDeleteMemberRequest(network_id=network_id(nwid), address=address)
        control.call(control.controller_stub.DeleteMember, request)


def _network_settings(settings: NetworkSettings) -> pb.NetworkSettings:
    from ztnode.v1 import controller_pb2 as pb

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
        message.certificate_window_ms = round(settings["certificate_window"] * 1000)
    return message


def _member_settings(settings: MemberSettings) -> pb.MemberSettings:
    from ztnode.v1 import controller_pb2 as pb

    message = pb.MemberSettings(
        name=settings.get("name"),
        active_bridge=settings.get("active_bridge"),
        no_auto_assign=settings.get("no_auto_assign"),
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
        authorised_members=message.authorised_members,
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
        capabilities=tuple(json.loads(settings.capabilities_json or "[]")),
        tags=tuple(
            (tag.id, tag.default_value if tag.HasField("default_value") else None) for tag in settings.tags.tags
        ),
        certificate_window=settings.certificate_window_ms / 1000,
        revision=message.revision,
        created=message.created_ms / 1000,
    )


def _member(message: pb.ControllerMember) -> ControllerMember:
    settings = message.settings
    return ControllerMember(
        nwid=message.network_id,
        address=message.address,
        name=settings.name,
        authorised=message.authorised,
        online=message.online,
        last_seen_age=message.last_seen_age_seconds if message.last_seen_age_seconds >= 0 else None,
        managed_addresses=tuple(message.managed_addresses),
        assigned_addresses=tuple(settings.addresses.addresses),
        version=message.version,
        protocol=message.protocol or None,
        active_bridge=settings.active_bridge,
        no_auto_assign=settings.no_auto_assign,
        tags=tuple((tag.id, tag.value) for tag in settings.tags.tags),
        capabilities=tuple(settings.capabilities.ids),
        identity=message.identity,
        authorised_by=message.authorised_by,
        created=_when(message.created_ms),
        last_authorised=_when(message.last_authorised_ms),
        last_deauthorised=_when(message.last_deauthorised_ms),
        revision=message.revision,
    )


def _when(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds else None
