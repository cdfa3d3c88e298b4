"""ControllerService: the administration of networks and members in ztnode.v1 over the node's controller."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from ztnode.control import convert
from ztnode.control.errors import Context, invalid, not_found, streaming, unary
from ztnode.control.server import Service
from ztnode.controller import ControlledNetworkChanged, ControllerEvent
from ztnode.controller.documents import ControlledMember, ControlledNetwork, build_network
from ztnode.node.administration import Administration
from ztnode.v1 import controller_pb2 as pb
from ztnode.v1 import controller_pb2_grpc as rpc
from ztnode.wire.address import parse_address


class ControllerHost(Protocol):
    """A node that runs a controller."""

    @property
    def administration(self) -> Administration | None:
        """The controller, None on a node that is none."""


def controller_service(node: ControllerHost) -> Service:
    """ControllerService over ``node``. Raises ValueError on a node without a controller."""
    if node.administration is None:
        raise ValueError("this node runs no controller")
    servicer = ControllerService(node.administration)
    name = pb.DESCRIPTOR.services_by_name["ControllerService"].full_name
    return Service(name, lambda server: rpc.add_ControllerServiceServicer_to_server(servicer, server))


class ControllerService(rpc.ControllerServiceServicer):
    """Serves one controller. All methods run on the node's event loop."""

    def __init__(self, administration: Administration) -> None:
        self._admin = administration

    # Networks

    @unary
    async def CreateNetwork(
        self, request: pb.ControllerCreateNetworkRequest, context: Context
    ) -> pb.ControllerCreateNetworkResponse:
        nwid = convert.optional_network_id(request.network_id)
        network = self._admin.create_network(network_settings(request.settings, {}), nwid)
        return pb.ControllerCreateNetworkResponse(network=self._network_message(network))

    @unary
    async def UpdateNetwork(
        self, request: pb.ControllerUpdateNetworkRequest, context: Context
    ) -> pb.ControllerUpdateNetworkResponse:
        present = self._network(request.network_id)
        settings = network_settings(request.settings, build_network(present))
        network = self._admin.update_network(present.nwid, settings)
        return pb.ControllerUpdateNetworkResponse(network=self._network_message(network))

    @unary
    async def GetNetwork(
        self, request: pb.ControllerGetNetworkRequest, context: Context
    ) -> pb.ControllerGetNetworkResponse:
        return pb.ControllerGetNetworkResponse(network=self._network_message(self._network(request.network_id)))

    @unary
    async def ListNetworks(
        self, request: pb.ControllerListNetworksRequest, context: Context
    ) -> pb.ControllerListNetworksResponse:
        networks = [self._network_message(network) for network in self._admin.networks()]
        return pb.ControllerListNetworksResponse(networks=networks)

    @unary
    async def DeleteNetwork(
        self, request: pb.ControllerDeleteNetworkRequest, context: Context
    ) -> pb.ControllerDeleteNetworkResponse:
        self._admin.delete_network(self._network(request.network_id).nwid)
        return pb.ControllerDeleteNetworkResponse()

    # Members

    @unary
    async def ListMembers(
        self, request: pb.ControllerListMembersRequest, context: Context
    ) -> pb.ControllerListMembersResponse:
        members = self._admin.members(self._network(request.network_id).nwid)
        return pb.ControllerListMembersResponse(members=[self._member_message(member) for member in members])

    @unary
    async def GetMember(
        self, request: pb.ControllerGetMemberRequest, context: Context
    ) -> pb.ControllerGetMemberResponse:
        member = self._member(request.network_id, request.address)
        return pb.ControllerGetMemberResponse(member=self._member_message(member))

    @unary
    async def AuthoriseMember(
        self, request: pb.ControllerAuthoriseMemberRequest, context: Context
    ) -> pb.ControllerAuthoriseMemberResponse:
        member = self._change_member(request.network_id, request.address, {"authorized": True})
        return pb.ControllerAuthoriseMemberResponse(member=self._member_message(member))

    @unary
    async def DeauthoriseMember(
        self, request: pb.ControllerDeauthoriseMemberRequest, context: Context
    ) -> pb.ControllerDeauthoriseMemberResponse:
        present = self._member(request.network_id, request.address)
        member = self._admin.update_member(present.nwid, present.address, {"authorized": False})
        return pb.ControllerDeauthoriseMemberResponse(member=self._member_message(member))

    @unary
    async def UpdateMember(
        self, request: pb.ControllerUpdateMemberRequest, context: Context
    ) -> pb.ControllerUpdateMemberResponse:
        member = self._change_member(request.network_id, request.address, member_settings(request.settings))
        return pb.ControllerUpdateMemberResponse(member=self._member_message(member))

    @unary
    async def DeleteMember(
        self, request: pb.ControllerDeleteMemberRequest, context: Context
    ) -> pb.ControllerDeleteMemberResponse:
        member = self._member(request.network_id, request.address)
        self._admin.delete_member(member.nwid, member.address)
        return pb.ControllerDeleteMemberResponse()

    # Watching

    @streaming
    async def Watch(
        self, request: pb.ControllerWatchRequest, context: Context
    ) -> AsyncIterator[pb.ControllerWatchResponse]:
        nwid = self._network(request.network_id).nwid if request.network_id else None
        async with aclosing(self._admin.watch(nwid)) as changes:
            async for event in changes:
                yield self._watch_message(event)

    # Between requests, the administration and messages

    def _network(self, text: str) -> ControlledNetwork:
        nwid = convert.network_id(text)
        try:
            return self._admin.network(nwid)
        except KeyError:
            raise not_found(f"this controller has no network {nwid:016x}") from None

    def _member(self, network_text: str, address_text: str) -> ControlledMember:
        network, address = self._network(network_text), member_address(address_text)
        try:
            return self._admin.member(network.nwid, address)
        except KeyError:
            raise not_found(f"the network {network.nwid:016x} has no member {address:010x}") from None

    def _change_member(self, network_text: str, address_text: str, settings: Mapping[str, Any]) -> ControlledMember:
        network = self._network(network_text)
        return self._admin.update_member(network.nwid, member_address(address_text), settings)

    def _network_message(self, network: ControlledNetwork) -> pb.ControllerNetwork:
        members, authorised = self._admin.count_members(network.nwid)
        return pb.ControllerNetwork(
            network_id=f"{network.nwid:016x}",
            settings=_network_settings_message(network),
            revision=network.revision,
            created_ms=network.creation_time,
            members=members,
            authorised_members=authorised,
        )

    def _member_message(self, member: ControlledMember) -> pb.ControllerMember:
        age = self._admin.last_seen_age(member)
        major, minor, revision, protocol = member.version
        return pb.ControllerMember(
            network_id=f"{member.nwid:016x}",
            address=f"{member.address:010x}",
            authorised=member.authorized,
            settings=pb.MemberSettings(
                name=member.name,
                active_bridge=member.active_bridge,
                no_auto_assign=member.no_auto_assign_ips,
                addresses=pb.AddressList(addresses=[str(address) for address in member.ip_assignments]),
                tags=pb.MemberTags(tags=[pb.MemberTag(id=tag, value=value) for tag, value in member.tags]),
                capabilities=pb.CapabilityList(ids=member.capabilities),
            ),
            identity=member.identity,
            managed_addresses=self._admin.managed_addresses(member),
            version=f"{major}.{minor}.{revision}" if major >= 0 else "",
            protocol=max(protocol, 0),
            online=self._admin.is_online(member),
            last_seen_age_seconds=-1.0 if age is None else age,
            created_ms=member.creation_time,
            last_authorised_ms=member.last_authorized_time,
            last_deauthorised_ms=member.last_deauthorized_time,
            authorised_by=member.authorized_by or "",
            revision=member.revision,
        )

    def _watch_message(self, event: ControllerEvent) -> pb.ControllerWatchResponse:
        nwid = f"{event.nwid:016x}"
        if isinstance(event, ControlledNetworkChanged):
            if event.network is None or event.nwid not in {network.nwid for network in self._admin.networks()}:
                return pb.ControllerWatchResponse(network_deleted=nwid)
            return pb.ControllerWatchResponse(network=self._network_message(event.network))
        if event.member is None:
            deleted = pb.ControllerMemberDeleted(network_id=nwid, address=f"{event.address:010x}")
            return pb.ControllerWatchResponse(member_deleted=deleted)
        return pb.ControllerWatchResponse(member=self._member_message(event.member))


def member_address(text: str) -> int:
    """Read 10 hex digits. Raises RpcFailure(INVALID_ARGUMENT)."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise invalid(str(error)) from None


def network_settings(message: pb.NetworkSettings, present: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a request names, in the words of the controller's documents. ``present`` is the document to be
    changed: address modes are one object there. Raises RpcFailure(INVALID_ARGUMENT) for text that is not JSON."""
    given = {field.name for field, _ in message.ListFields()}
    settings: dict[str, Any] = {}
    for field, key in (
        ("name", "name"),
        ("private", "private"),
        ("broadcast", "enableBroadcast"),
        ("mtu", "mtu"),
        ("multicast_limit", "multicastLimit"),
        ("certificate_window_ms", "certificateTimeoutWindowSize"),
    ):
        if field in given:
            settings[key] = getattr(message, field)
    if "assign_ipv4" in given:
        settings["v4AssignMode"] = {"zt": message.assign_ipv4}
    six = {
        key: getattr(message, field)
        for field, key in (("assign_ipv6", "zt"), ("rfc4193", "rfc4193"), ("sixplane", "6plane"))
        if field in given
    }
    if six:
        settings["v6AssignMode"] = {**present.get("v6AssignMode", {}), **six}
    if "pools" in given:
        settings["ipAssignmentPools"] = [
            {"ipRangeStart": pool.first, "ipRangeEnd": pool.last} for pool in message.pools.pools
        ]
    if "routes" in given:
        settings["routes"] = [{"target": route.target, "via": route.via or None} for route in message.routes.routes]
    if "dns" in given:
        settings["dns"] = {"domain": message.dns.domain, "servers": list(message.dns.servers)}
    if "rules_json" in given:
        settings["rules"] = _json_list("rules_json", message.rules_json)
    if "capabilities_json" in given:
        settings["capabilities"] = _json_list("capabilities_json", message.capabilities_json)
    if "tags" in given:
        settings["tags"] = [
            {"id": tag.id, "default": tag.default_value if tag.HasField("default_value") else None}
            for tag in message.tags.tags
        ]
    return settings


def member_settings(message: pb.MemberSettings) -> dict[str, Any]:
    """The settings that a request names, in the words of the controller's documents."""
    given = {field.name for field, _ in message.ListFields()}
    settings: dict[str, Any] = {}
    if "name" in given:
        settings["name"] = message.name
    if "active_bridge" in given:
        settings["activeBridge"] = message.active_bridge
    if "no_auto_assign" in given:
        settings["noAutoAssignIps"] = message.no_auto_assign
    if "addresses" in given:
        settings["ipAssignments"] = list(message.addresses.addresses)
    if "tags" in given:
        settings["tags"] = [[tag.id, tag.value] for tag in message.tags.tags]
    if "capabilities" in given:
        settings["capabilities"] = list(message.capabilities.ids)
    return settings


def _json_list(field: str, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{field} is not JSON: {error}") from None
    if not isinstance(value, list):
        raise invalid(f"{field} is not a JSON array")
    return value


def _network_settings_message(network: ControlledNetwork) -> pb.NetworkSettings:
    document = build_network(network)
    return pb.NetworkSettings(
        name=network.name,
        private=network.private,
        broadcast=network.enable_broadcast,
        mtu=network.mtu,
        multicast_limit=network.multicast_limit,
        assign_ipv4=network.v4_assign,
        assign_ipv6=network.v6_assign,
        rfc4193=network.rfc4193,
        sixplane=network.sixplane,
        pools=pb.AddressPools(
            pools=[pb.AddressPool(first=str(pool.first), last=str(pool.last)) for pool in network.pools]
        ),
        routes=pb.ControllerRoutes(
            routes=[
                pb.ControllerRoute(target=str(route.target), via="" if route.via is None else str(route.via))
                for route in network.routes
            ]
        ),
        dns=pb.ControllerDns(domain=network.dns.domain, servers=[str(server) for server in network.dns.servers]),
        rules_json=json.dumps(document["rules"]),
        capabilities_json=json.dumps(document["capabilities"]),
        tags=pb.NetworkTags(tags=[pb.NetworkTag(id=tag, default_value=default) for tag, default in network.tags]),
        certificate_window_ms=network.credential_window,
    )
