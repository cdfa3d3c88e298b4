"""ControllerService: the administration of networks and members in ztnode.v1 over the node's controller."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from ztclient import times
from ztclient.v1 import controller_pb2 as pb
from ztclient.v1 import controller_pb2_grpc as rpc
from ztnode.control import convert
from ztnode.control.control_server import Service
from ztnode.control.failure import Context, invalid, not_found, streaming, unary
from ztnode.control.paging import ordered_page, page
from ztnode.controller import ControlledNetworkChanged, ControllerEvent
from ztnode.controller.documents import ControlledMember, ControlledNetwork, build_network
from ztnode.node.administration import Administration
from ztnode.wire.address import format_address, format_nwid, parse_address


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
        self, request: pb.ControllerServiceCreateNetworkRequest, context: Context
    ) -> pb.ControllerServiceCreateNetworkResponse:
        nwid = convert.optional_network_id(request.network_id)
        network = self._admin.create_network(network_settings(request.settings, {}), nwid)
        return pb.ControllerServiceCreateNetworkResponse(network=self._network_message(network))

    @unary
    async def UpdateNetwork(
        self, request: pb.ControllerServiceUpdateNetworkRequest, context: Context
    ) -> pb.ControllerServiceUpdateNetworkResponse:
        present = self._network(request.network_id)
        settings = network_settings(request.settings, build_network(present))
        network = self._admin.update_network(present.nwid, settings)
        return pb.ControllerServiceUpdateNetworkResponse(network=self._network_message(network))

    @unary
    async def GetNetwork(
        self, request: pb.ControllerServiceGetNetworkRequest, context: Context
    ) -> pb.ControllerServiceGetNetworkResponse:
        return pb.ControllerServiceGetNetworkResponse(network=self._network_message(self._network(request.network_id)))

    @unary
    async def ListNetworks(
        self, request: pb.ControllerServiceListNetworksRequest, context: Context
    ) -> pb.ControllerServiceListNetworksResponse:
        entries = ((network.nwid.to_bytes(8, "big"), network) for network in self._admin.networks())
        networks, following = page(request, "controller networks", entries, self._network_message)
        return pb.ControllerServiceListNetworksResponse(networks=networks, next_page_token=following)

    @unary
    async def DeleteNetwork(
        self, request: pb.ControllerServiceDeleteNetworkRequest, context: Context
    ) -> pb.ControllerServiceDeleteNetworkResponse:
        self._admin.delete_network(self._network(request.network_id).nwid)
        return pb.ControllerServiceDeleteNetworkResponse()

    # Members

    @unary
    async def ListMembers(
        self, request: pb.ControllerServiceListMembersRequest, context: Context
    ) -> pb.ControllerServiceListMembersResponse:
        nwid = self._network(request.network_id).nwid

        def entries_after(key: bytes | None) -> Iterator[tuple[bytes, ControlledMember]]:
            address = -1 if key is None else int.from_bytes(key, "big")
            return ((each.address.to_bytes(5, "big"), each) for each in self._admin.members_after(nwid, address))

        members, following = ordered_page(request, f"members {nwid}", entries_after, self._member_message)
        return pb.ControllerServiceListMembersResponse(members=members, next_page_token=following)

    @unary
    async def GetMember(
        self, request: pb.ControllerServiceGetMemberRequest, context: Context
    ) -> pb.ControllerServiceGetMemberResponse:
        member = self._member(request.network_id, request.address)
        return pb.ControllerServiceGetMemberResponse(member=self._member_message(member))

    @unary
    async def AuthorizeMember(
        self, request: pb.ControllerServiceAuthorizeMemberRequest, context: Context
    ) -> pb.ControllerServiceAuthorizeMemberResponse:
        member = self._change_member(request.network_id, request.address, {"authorized": True})
        return pb.ControllerServiceAuthorizeMemberResponse(member=self._member_message(member))

    @unary
    async def DeauthorizeMember(
        self, request: pb.ControllerServiceDeauthorizeMemberRequest, context: Context
    ) -> pb.ControllerServiceDeauthorizeMemberResponse:
        present = self._member(request.network_id, request.address)
        member = self._admin.update_member(present.nwid, present.address, {"authorized": False})
        return pb.ControllerServiceDeauthorizeMemberResponse(member=self._member_message(member))

    @unary
    async def UpdateMember(
        self, request: pb.ControllerServiceUpdateMemberRequest, context: Context
    ) -> pb.ControllerServiceUpdateMemberResponse:
        member = self._change_member(request.network_id, request.address, member_settings(request.settings))
        return pb.ControllerServiceUpdateMemberResponse(member=self._member_message(member))

    @unary
    async def DeleteMember(
        self, request: pb.ControllerServiceDeleteMemberRequest, context: Context
    ) -> pb.ControllerServiceDeleteMemberResponse:
        member = self._member(request.network_id, request.address)
        self._admin.delete_member(member.nwid, member.address)
        return pb.ControllerServiceDeleteMemberResponse()

    # Watching

    @streaming
    async def Watch(
        self, request: pb.ControllerServiceWatchRequest, context: Context
    ) -> AsyncIterator[pb.ControllerServiceWatchResponse]:
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
            raise not_found(f"this controller has no network {format_nwid(nwid)}", "NETWORK_NOT_FOUND") from None

    def _member(self, network_text: str, address_text: str) -> ControlledMember:
        network, address = self._network(network_text), member_address(address_text)
        try:
            return self._admin.member(network.nwid, address)
        except KeyError:
            shown = format_nwid(network.nwid), format_address(address)
            raise not_found("the network {} has no member {}".format(*shown), "MEMBER_NOT_FOUND") from None

    def _change_member(self, network_text: str, address_text: str, settings: Mapping[str, Any]) -> ControlledMember:
        network = self._network(network_text)
        return self._admin.update_member(network.nwid, member_address(address_text), settings)

    def _network_message(self, network: ControlledNetwork) -> pb.ControllerNetwork:
        members, authorized = self._admin.count_members(network.nwid)
        return pb.ControllerNetwork(
            network_id=format_nwid(network.nwid),
            settings=_network_settings_message(network),
            revision=network.revision,
            created_at=times.timestamp(network.creation_time),
            members=members,
            authorized_members=authorized,
        )

    def _member_message(self, member: ControlledMember) -> pb.ControllerMember:
        age = self._admin.last_seen_age(member)
        major, minor, revision, protocol = member.version
        return pb.ControllerMember(
            network_id=format_nwid(member.nwid),
            address=format_address(member.address),
            authorized=member.authorized,
            settings=pb.MemberSettings(
                name=member.name,
                active_bridge=member.active_bridge,
                no_auto_assign=member.no_auto_assign_ips,
                addresses=pb.AddressList(addresses=[str(address) for address in member.ip_assignments]),
                tags=pb.MemberTags(tags=[pb.MemberTag(id=tag, value=value) for tag, value in member.tags]),
                capabilities=pb.CapabilityList(ids=member.capabilities),
                ephemeral=member.ephemeral,
                sso_exempt=member.sso_exempt,
            ),
            identity=member.identity,
            managed_addresses=self._admin.managed_addresses(member),
            version=f"{major}.{minor}.{revision}" if major >= 0 else "",
            protocol=max(protocol, 0),
            online=self._admin.is_online(member),
            last_seen_age=None if age is None else times.duration(age),
            created_at=times.timestamp(member.creation_time),
            last_authorized_at=times.timestamp(member.last_authorized_time),
            last_deauthorized_at=times.timestamp(member.last_deauthorized_time),
            authorized_by=member.authorized_by or "",
            revision=member.revision,
            authentication_expires_at=times.timestamp(member.authentication_expiry),
            sso_subject=member.sso_subject,
        )

    def _watch_message(self, event: ControllerEvent) -> pb.ControllerServiceWatchResponse:
        nwid = format_nwid(event.nwid)
        if isinstance(event, ControlledNetworkChanged):
            if event.network is None or event.nwid not in {network.nwid for network in self._admin.networks()}:
                return pb.ControllerServiceWatchResponse(network_deleted=nwid)
            return pb.ControllerServiceWatchResponse(network=self._network_message(event.network))
        if event.member is None:
            deleted = pb.ControllerMemberDeleted(network_id=nwid, address=format_address(event.address))
            return pb.ControllerServiceWatchResponse(member_deleted=deleted)
        return pb.ControllerServiceWatchResponse(member=self._member_message(event.member))


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
        ("rules_source", "rulesSource"),
        ("private", "private"),
        ("broadcast", "enableBroadcast"),
        ("mtu", "mtu"),
        ("multicast_limit", "multicastLimit"),
        ("ephemeral_members", "ephemeralMembers"),
    ):
        if field in given:
            settings[key] = getattr(message, field)
    for field, key in (
        ("certificate_window", "certificateTimeoutWindowSize"),
        ("ephemeral_timeout", "ephemeralTimeout"),
    ):
        if field in given:
            settings[key] = round(times.seconds(getattr(message, field)) * 1000)
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
    if "sso" in given:
        sso = message.sso
        settings["ssoEnabled"] = sso.enabled
        settings["ssoConfig"] = {"issuer": sso.issuer, "clientId": sso.client_id, "provider": sso.provider}
    if "auth_tokens" in given:
        settings["authTokens"] = {
            each.token: times.milliseconds(each.expires_at) if each.HasField("expires_at") else 0
            for each in message.auth_tokens.tokens
        }
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
    if "ephemeral" in given:
        settings["ephemeral"] = message.ephemeral
    if "sso_exempt" in given:
        settings["ssoExempt"] = message.sso_exempt
    return settings


def _json_list(field: str, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{field} is not JSON: {error}") from None
    if not isinstance(value, list):
        raise invalid(f"{field} is not a JSON array")
    return value


def _rules_source(network: ControlledNetwork) -> str:
    """Kept as it was given, which may have been anything."""
    text = network.extra.get("rulesSource")
    return text.encode(errors="replace").decode() if isinstance(text, str) else ""


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
        rules_source=_rules_source(network),
        certificate_window=times.duration(network.credential_window / 1000),
        ephemeral_members=network.ephemeral_members,
        ephemeral_timeout=times.duration(network.ephemeral_timeout / 1000),
        sso=pb.SingleSignOn(
            enabled=network.sso.enabled,
            issuer=network.sso.issuer,
            client_id=network.sso.client_id,
            provider=network.sso.provider,
        ),
        auth_tokens=pb.AuthTokens(
            tokens=[
                pb.AuthToken(token=token, expires_at=times.timestamp(until)) for token, until in network.auth_tokens
            ]
        ),
    )
