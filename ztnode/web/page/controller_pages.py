"""The networks of the controller: settings, rules, members."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ztclient.controller import subnet
from ztnode.controller import ControllerError
from ztnode.controller.documents import ControlledMember, ControlledNetwork
from ztnode.node.administration import Administration
from ztnode.node.api import NodeApi
from ztnode.web.page import rules_field
from ztnode.web.page.forms import (
    MEMBER_FIELDS,
    NETWORK_FIELDS,
    Field,
    FieldError,
    field_of,
    member_settings,
    member_values,
    network_settings,
    network_values,
)
from ztnode.web.page.rendering import PREFIX, Renderer, inside_textarea, part_of, to
from ztnode.web.service_api import ADDRESS, NETWORK
from ztnode.wire.address import format_address, format_nwid

LOOK: Final = ["GET"]
DO: Final = ["POST"]
MAX_RULES_SHOWN: Final = 88 << 10
"""Bytes in one answer; who has more uses the command line."""
MAX_SEARCH: Final = 64
_OF_ADDRESSES: Final = re.compile("[0-9a-f.:/]*")
_NEW: Final = (Field("name", "Name"), Field("subnet", "Subnet"))
_RULES: Final = (Field(rules_field.FIELD, "Rules"),)


@dataclass(frozen=True, slots=True)
class Row:
    """A member in the table. ``age``: seconds since it asked last, None: not since the start; ``way``: how it is
    reached."""

    id: str
    member: ControlledMember
    addresses: tuple[str, ...]
    age: float | None
    online: bool
    way: str

    @property
    def version(self) -> str:
        """Empty while it is unknown."""
        return "" if self.member.version[0] < 0 else ".".join(map(str, self.member.version[:3]))


class ControllerPages:
    """The routes over one controller."""

    def __init__(self, administration: Administration, node: NodeApi, renderer: Renderer) -> None:
        self._admin = administration
        self._node = node
        self._own = node.status().address
        self._render = renderer.page

    def routes(self) -> list[Route]:
        """For the application."""
        network, members = f"{PREFIX}/networks/{NETWORK}", f"{PREFIX}/networks/{NETWORK}/members"
        return [
            Route(f"{PREFIX}/networks", self.networks, methods=LOOK),
            Route(f"{PREFIX}/networks", self.create, methods=DO),
            Route(network, self.network, methods=LOOK),
            Route(network, self.change_network, methods=DO),
            Route(f"{network}/delete", self.delete_network, methods=DO),
            Route(f"{network}/rules", self.rules, methods=LOOK),
            Route(f"{network}/rules", self.change_rules, methods=DO),
            Route(members, self.members, methods=LOOK),
            Route(members, self.admit, methods=DO),
            Route(f"{members}/{ADDRESS}", self.member, methods=LOOK),
            Route(f"{members}/{ADDRESS}", self.change_member, methods=DO),
            Route(f"{members}/{ADDRESS}/delete", self.delete_member, methods=DO),
        ]

    # Networks

    async def networks(self, request: Request) -> Response:
        return self._networks(request)

    def _networks(self, request: Request, error: FieldError | None = None) -> Response:
        part = part_of(self._admin.networks(), request)
        rows = [(network, *self._admin.count_members(network.nwid)) for network in part.rows]
        values = {"part": part, "rows": rows, "error": error, "given": getattr(request.state, "form", {})}
        return self._render(request, "networks.html", 400 if error else 200, values)

    async def create(self, request: Request) -> Response:
        form = request.state.form
        try:
            settings = {"name": form.get("name", ""), "private": True, **_subnet(form.get("subnet", "").strip())}
            network = self._admin.create_network(settings)
        except FieldError as error:
            return self._networks(request, error)
        except ControllerError as error:
            return self._networks(request, field_of(error, _NEW))
        return to(f"/networks/{format_nwid(network.nwid)}", saved=True)

    async def network(self, request: Request) -> Response:
        network = self._network(request)
        return self._show_network(request, network, network_values(network))

    def _show_network(
        self, request: Request, network: ControlledNetwork, given: Mapping[str, Any], error: FieldError | None = None
    ) -> Response:
        total, authorized = self._admin.count_members(network.nwid)
        values = {
            "network": network,
            "fields": NETWORK_FIELDS,
            "given": given,
            "error": error,
            "total": total,
            "authorized": authorized,
        }
        return self._render(request, "network.html", 400 if error else 200, values)

    async def change_network(self, request: Request) -> Response:
        network, form = self._network(request), request.state.form
        try:
            _check_revision(form, network.revision)
            self._admin.update_network(network.nwid, network_settings(form))
        except FieldError as error:
            return self._show_network(request, network, form, error)
        except ControllerError as error:
            return self._show_network(request, network, form, field_of(error, NETWORK_FIELDS))
        return to(f"/networks/{format_nwid(network.nwid)}", saved=True)

    async def delete_network(self, request: Request) -> Response:
        network = self._network(request)
        if "sure" not in request.state.form:
            error = FieldError("sure", "sure: not ticked, so nothing was deleted")
            return self._show_network(request, network, network_values(network), error)
        self._admin.delete_network(network.nwid)
        return to("/networks")

    # Rules

    async def rules(self, request: Request) -> Response:
        network = self._network(request)
        source, says_all = rules_field.show_field(network)
        return self._show_rules(request, network, source, says_all=says_all)

    def _show_rules(
        self,
        request: Request,
        network: ControlledNetwork,
        source: str,
        error: FieldError | None = None,
        *,
        says_all: bool = True,
    ) -> Response:
        too_long = len(inside_textarea(source).encode()) > MAX_RULES_SHOWN
        values = {
            "network": network,
            "source": "" if too_long else source,
            "too_long": too_long,
            "says_all": says_all,
            "lets_pass": rules_field.lets_pass(network),
            "error": error,
        }
        return self._render(request, "rules.html", 400 if error else 200, values)

    async def change_rules(self, request: Request) -> Response:
        network, form = self._network(request), request.state.form
        source = form.get(rules_field.FIELD, "")
        try:
            _check_revision(form, network.revision)
            self._admin.update_network(network.nwid, rules_field.compile_field(source))
        except FieldError as error:
            return self._show_rules(request, network, source, error)
        except ControllerError as error:
            return self._show_rules(request, network, source, field_of(error, _RULES))
        return to(f"/networks/{format_nwid(network.nwid)}/rules", saved=True)

    # Members

    async def members(self, request: Request) -> Response:
        network = self._network(request)
        search = request.query_params.get("search", "")[:MAX_SEARCH].strip()
        members = self._admin.members(network.nwid)
        found = [member for member in members if self._matches(member, search)]
        found.sort(key=lambda member: member.authorized)  # who waits comes first
        part = part_of(found, request)
        values = {
            "network": network,
            "part": part,
            "rows": [self._row(member) for member in part.rows],
            "search": search,
            "query": "&" + urlencode({"search": search}) if search else "",
            "total": len(members),
            "authorized": sum(member.authorized for member in members),
        }
        return self._render(request, "members.html", values=values)

    def _matches(self, member: ControlledMember, search: str) -> bool:
        if search in format_address(member.address) or search.casefold() in member.name.casefold():
            return True
        # Of thousands of members these take long to write out, for what can be no part of them.
        return _OF_ADDRESSES.fullmatch(search) is not None and any(
            search in address for address in self._admin.managed_addresses(member)
        )

    def _row(self, member: ControlledMember) -> Row:
        return Row(
            format_address(member.address),
            member,
            self._admin.managed_addresses(member),
            self._admin.last_seen_age(member),
            self._admin.is_online(member),
            self._way_to(member.address),
        )

    def _way_to(self, address: int) -> str:
        if address == self._own:
            return "this node"
        peer = self._node.peer(address)
        if peer is None:
            return "unknown"
        endpoint = next((path.endpoint for path in peer.paths if path.preferred), "relayed")
        return f"{endpoint}, {peer.latency_ms:.1f} ms" if peer.latency_ms >= 0 else endpoint

    async def admit(self, request: Request) -> Response:
        """The click: who is in ``authorize`` may come in, who is in ``shut-out`` may not any more."""
        network, form = self._network(request), request.state.form
        authorized = "authorize" in form
        member = self._of_digits(network.nwid, form.get("authorize", form.get("shut-out", "")))
        self._admin.update_member(network.nwid, member.address, {"authorized": authorized})
        query = urlencode({key: form[key][:MAX_SEARCH] for key in ("page", "search") if form.get(key)})
        back = f"/networks/{format_nwid(network.nwid)}/members"
        return to(f"{back}?{query}" if query else back, fragment=f"#member-{format_address(member.address)}")

    async def member(self, request: Request) -> Response:
        member = self._member(request)
        return self._show_member(request, member, member_values(member))

    def _show_member(
        self, request: Request, member: ControlledMember, given: Mapping[str, Any], error: FieldError | None = None
    ) -> Response:
        values = {
            "network": self._admin.network(member.nwid),
            "row": self._row(member),
            "fields": MEMBER_FIELDS,
            "given": given,
            "error": error,
        }
        return self._render(request, "member.html", 400 if error else 200, values)

    async def change_member(self, request: Request) -> Response:
        member, form = self._member(request), request.state.form
        try:
            _check_revision(form, member.revision)
            self._admin.update_member(member.nwid, member.address, member_settings(form))
        except FieldError as error:
            return self._show_member(request, member, form, error)
        except ControllerError as error:
            return self._show_member(request, member, form, field_of(error, MEMBER_FIELDS))
        return to(f"/networks/{format_nwid(member.nwid)}/members/{format_address(member.address)}", saved=True)

    async def delete_member(self, request: Request) -> Response:
        member = self._member(request)
        if "sure" not in request.state.form:
            error = FieldError("sure", "sure: not ticked, so nothing was deleted")
            return self._show_member(request, member, member_values(member), error)
        self._admin.delete_member(member.nwid, member.address)
        return to(f"/networks/{format_nwid(member.nwid)}/members")

    def _network(self, request: Request) -> ControlledNetwork:
        try:
            return self._admin.network(request.path_params["nwid"])
        except KeyError:
            raise HTTPException(404, "there is no such network here") from None

    def _member(self, request: Request) -> ControlledMember:
        try:
            return self._admin.member(request.path_params["nwid"], request.path_params["address"])
        except KeyError:
            raise HTTPException(404, "there is no such member") from None

    def _of_digits(self, nwid: int, address: str) -> ControlledMember:
        try:
            return self._admin.member(nwid, int(address[:10], 16))
        except (KeyError, ValueError):
            raise HTTPException(404, f"authorize: there is no such member: {address!r:.32}") from None


def _check_revision(form: Mapping[str, str], revision: int) -> None:
    """What was typed over older settings would take back what somebody else has done meanwhile."""
    if form.get("revision") != str(revision):
        raise FieldError("", "revision: it was changed meanwhile; load the page anew and do it again")


def _subnet(text: str) -> dict[str, Any]:
    """Settings for a network whose members get addresses of this IPv4 subnet; empty: none."""
    if not text:
        return {}
    try:
        settings = subnet(text)
    except ValueError as error:
        raise FieldError("subnet", f"subnet: {error}") from None
    return {
        "v4AssignMode": {"zt": True},
        "routes": [{"target": target, "via": via} for target, via in settings["routes"]],
        "ipAssignmentPools": [{"ipRangeStart": first, "ipRangeEnd": last} for first, last in settings["pools"]],
    }
