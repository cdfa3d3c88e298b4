"""``/controller`` as zerotier-one 1.14 answers it (EmbeddedNetworkController.cpp, ``configureHTTPControlPlane``), over
the documents that the controller keeps, which have the reference's names already. What is no setting is overlooked, so
that a client may send back what it got; a setting that cannot be used is 400, where the reference leaves it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ztnode.controller.documents import (
    DEFAULT_CREDENTIAL_WINDOW,
    MEMBER_KEPT,
    MEMBER_SETTINGS,
    NETWORK_KEPT,
    NETWORK_SETTINGS,
    ControlledMember,
    ControlledNetwork,
    build_member,
    build_network,
)
from ztnode.node.administration import Administration
from ztnode.node.wall_clock import wall_clock
from ztnode.web.answers import answer, read_object
from ztnode.web.service_api import ADDRESS, CHANGE, DELETE, NETWORK
from ztnode.wire.address import format_address, format_nwid

API_VERSION: Final = 4
"""ZT_NETCONF_CONTROLLER_API_VERSION."""

_NETWORK_SHOWN: Final = {
    "authorizationEndpoint": "",
    "clientId": "",
    "remoteTraceLevel": 0,
    "remoteTraceTarget": None,
    "rulesSource": "",
    "ssoEnabled": False,
}
_MEMBER_SHOWN: Final = {
    "authenticationExpiryTime": 0,
    "lastAuthorizedCredential": None,
    "remoteTraceLevel": 0,
    "remoteTraceTarget": None,
    "ssoExempt": False,
}
"""What the reference shows of documents that do not have it (controller/DB.cpp, ``initNetwork`` and ``initMember``)."""


class ControllerApi:
    """The routes over one controller, whose own ZeroTier address is ``address``."""

    def __init__(self, administration: Administration, address: int) -> None:
        self._admin = administration
        self._address = address

    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route("/controller", self.controller),
            Route("/controller/network", self.networks),
            Route("/controller/network", self.create_network, methods=CHANGE),
            Route(f"/controller/network/{ADDRESS}______", self.create_network, methods=CHANGE),
            Route(f"/controller/network/{NETWORK}", self.network),
            Route(f"/controller/network/{NETWORK}", self.update_network, methods=CHANGE),
            Route(f"/controller/network/{NETWORK}", self.delete_network, methods=DELETE),
            Route(f"/controller/network/{NETWORK}/member", self.members),
            Route(f"/controller/network/{NETWORK}/member/{ADDRESS}", self.member),
            Route(f"/controller/network/{NETWORK}/member/{ADDRESS}", self.update_member, methods=CHANGE),
            Route(f"/controller/network/{NETWORK}/member/{ADDRESS}", self.delete_member, methods=DELETE),
            Route("/unstable/controller/network", self.networks_whole),
            Route(f"/unstable/controller/network/{NETWORK}/member", self.members_whole),
        ]

    async def controller(self, _request: Request) -> Response:
        return answer({"controller": True, "apiVersion": API_VERSION, "clock": wall_clock(), "databaseReady": True})

    # Networks

    async def networks(self, _request: Request) -> Response:
        return answer([format_nwid(network.nwid) for network in self._admin.networks()])

    async def networks_whole(self, _request: Request) -> Response:
        shown = []
        for network in self._admin.networks():
            total, authorized = self._admin.count_members(network.nwid)
            meta = {"totalMemberCount": total, "authorizedMemberCount": authorized}
            shown.append({**network_json(network), "meta": meta})
        return answer({"data": shown, "meta": {"networkCount": len(shown)}})

    async def network(self, request: Request) -> Response:
        network = self._network(request)
        return answer(None, 404) if network is None else answer(network_json(network))

    async def create_network(self, request: Request) -> Response:
        if request.path_params.get("address", self._address) != self._address:
            return answer(None, 400)
        settings = _taken(await read_object(request), NETWORK_SETTINGS | NETWORK_KEPT)
        return answer(network_json(self._admin.create_network(settings)))

    async def update_network(self, request: Request) -> Response:
        settings = _taken(await read_object(request), NETWORK_SETTINGS | NETWORK_KEPT)
        nwid = request.path_params["nwid"]
        if self._network(request) is None:
            return answer(network_json(self._admin.create_network(settings, nwid)))
        return answer(network_json(self._admin.update_network(nwid, settings)))

    async def delete_network(self, request: Request) -> Response:
        network = self._network(request)
        if network is None:
            return answer(None, 404)
        self._admin.delete_network(network.nwid)
        return answer(network_json(network))

    # Members

    async def members(self, request: Request) -> Response:
        network = self._network(request)
        if network is None:
            return answer(None, 404)
        members = self._admin.members(network.nwid)
        return answer({format_address(member.address): member.revision for member in members})

    async def members_whole(self, request: Request) -> Response:
        network = self._network(request)
        if network is None:
            return answer(None, 404)
        total, authorized = self._admin.count_members(network.nwid)
        shown = [member_json(member) for member in self._admin.members(network.nwid)]
        return answer({"data": shown, "meta": {"totalCount": total, "authorizedCount": authorized}})

    async def member(self, request: Request) -> Response:
        member = self._member(request)
        return answer(None, 404) if member is None else answer(member_json(member))

    async def update_member(self, request: Request) -> Response:
        settings = _taken(await read_object(request), MEMBER_SETTINGS | MEMBER_KEPT)
        network = self._network(request)
        if network is None:
            return answer(None, 404)
        address = request.path_params["address"]
        return answer(member_json(self._admin.update_member(network.nwid, address, settings)))

    async def delete_member(self, request: Request) -> Response:
        member = self._member(request)
        if member is None:
            return answer(None, 404)
        self._admin.delete_member(member.nwid, member.address)
        return answer(member_json(member))

    def _network(self, request: Request) -> ControlledNetwork | None:
        try:
            return self._admin.network(request.path_params["nwid"])
        except KeyError:
            return None

    def _member(self, request: Request) -> ControlledMember | None:
        try:
            return self._admin.member(request.path_params["nwid"], request.path_params["address"])
        except KeyError:
            return None


def network_json(network: ControlledNetwork) -> dict[str, Any]:
    """As the reference shows a network."""
    shown = {**_NETWORK_SHOWN, **build_network(network)}
    if network.credential_window == DEFAULT_CREDENTIAL_WINDOW:
        del shown["certificateTimeoutWindowSize"]
    if not network.dns.domain and not network.dns.servers:
        shown["dns"] = []
    shown["authTokens"] = shown.get("authTokens") or [None]
    return shown


def member_json(member: ControlledMember) -> dict[str, Any]:
    """As the reference shows a member."""
    shown = {**_MEMBER_SHOWN, **build_member(member)}
    if not member.name:
        del shown["name"]
    return shown


def _taken(body: Mapping[str, Any], settings: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key in settings}
