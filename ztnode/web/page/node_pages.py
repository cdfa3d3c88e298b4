"""The node itself: networks, peers, connections, log lines."""

from __future__ import annotations

import io
import logging
import time
from typing import Any, Final

import segno
from markupsafe import escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ztnode.node.api import DialError, NetworkInfo, NodeApi, PeerInfo
from ztnode.node.network_settings import NAMES
from ztnode.web.page.forms import FieldError
from ztnode.web.page.forms import nwid as nwid_field
from ztnode.web.page.recent_logs import LogLine, RecentLogs
from ztnode.web.page.rendering import HEADERS, PREFIX, Renderer, part_of, to
from ztnode.web.page.throughput import Throughput, Watched
from ztnode.web.service_api import NETWORK
from ztnode.wire.address import format_nwid

NETWORKS_A_PAGE: Final = 20
LEVELS: Final = ("debug", "info", "warning", "error")
LOG_ROOM: Final = 48 << 10
"""Bytes of log lines, escaped, in one answer."""
PHONE_LINK: Final = "https://joinzt.com/addnetwork?nwid={nwid}&v=1"
"""What ZeroTier's programs for phones read from a code."""
MAX_AUTH_TOKEN: Final = 505
LABELS: Final = {
    "allow_managed": "Have its addresses and routes",
    "allow_global": "… those of the public internet too",
    "allow_default": "Follow its default routes",
    "allow_dns": "Ask its name servers",
}
_ROLES: Final = {"planet": 0, "moon": 1}


class NodePages:
    """The routes over one node."""

    def __init__(self, node: NodeApi, renderer: Renderer, logs: RecentLogs) -> None:
        self._node = node
        self._render = renderer.page
        self._throughput = Throughput()
        self._peers = Watched(node.peer_traffic, 10.0)
        self._networks = Watched(node.network_traffic, 1024.0)
        self._logs = logs

    def sample(self, now: float) -> None:
        """Once in ``throughput.PERIOD``; ``now``: monotonic seconds."""
        self._throughput.sample(self._node.status().counters, now)
        self._peers.sample(now)
        self._networks.sample(now)

    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route(f"{PREFIX}/", self.overview),
            Route(f"{PREFIX}/join", self.join, methods=["POST"]),
            Route(f"{PREFIX}/allow", self.allow, methods=["POST"]),
            Route(f"{PREFIX}/leave", self.leave, methods=["POST"]),
            Route(f"{PREFIX}/code/{NETWORK}.svg", self.code),
            Route(f"{PREFIX}/peers", self.peers),
            Route(f"{PREFIX}/connections", self.connections),
            Route(f"{PREFIX}/logs", self.logs),
        ]

    async def overview(self, request: Request) -> Response:
        return self._overview(request)

    def _overview(self, request: Request, error: FieldError | None = None) -> Response:
        networks = part_of([_Joined(network) for network in self._node.networks()], request, NETWORKS_A_PAGE)
        values: dict[str, Any] = {
            "status": self._node.status(),
            "networks": networks,
            "chart": self._throughput.chart(),
            "charts": self._networks.charts([network.info.nwid for network in networks.rows], time.monotonic()),
            "error": error,
            "given": getattr(request.state, "form", {}),
        }
        return self._render(request, "overview.html", 400 if error else 200, values)

    async def join(self, request: Request) -> Response:
        form = request.state.form
        try:
            nwid, token = nwid_field(form, "nwid"), form.get("token", "").strip()
            if len(token.encode()) > MAX_AUTH_TOKEN:
                raise FieldError("token", f"the token is longer than {MAX_AUTH_TOKEN} bytes")
            await self._node.join(nwid, token)
        except FieldError as error:
            return self._overview(request, error)
        except UnicodeEncodeError:
            return self._overview(request, FieldError("token", "the token is not valid Unicode"))
        return to("/", fragment=f"#network-{format_nwid(nwid)}")

    async def allow(self, request: Request) -> Response:
        """What the user lets a joined network do."""
        form = request.state.form
        try:
            nwid = nwid_field(form, "nwid")
            await self._node.set_network(nwid, {name: key in form for name, key in NAMES.items()})
        except FieldError as error:
            return self._overview(request, error)
        except KeyError:
            return self._overview(request, FieldError("nwid", f"nwid: network {form['nwid']} is not joined"))
        return to("/", saved=True, fragment=f"#network-{format_nwid(nwid)}")

    async def leave(self, request: Request) -> Response:
        try:
            await self._node.leave(nwid_field(request.state.form, "nwid"))
        except FieldError as error:
            return self._overview(request, error)
        except KeyError:
            pass  # it is left already
        return to("/")

    async def code(self, request: Request) -> Response:
        """The network's id for a phone's camera, SVG."""
        image = io.BytesIO()
        code = segno.make(PHONE_LINK.format(nwid=format_nwid(request.path_params["nwid"])), error="m")
        code.save(image, kind="svg", scale=4, light="#fff", xmldecl=False)
        return Response(image.getvalue(), media_type="image/svg+xml", headers=HEADERS)

    async def peers(self, request: Request) -> Response:
        peers = part_of(sorted(self._node.peers(), key=_by_nearness), request)
        charts = self._peers.charts([peer.address for peer in peers.rows], time.monotonic())
        values = {"peers": peers, "chart": self._throughput.chart(), "charts": charts}
        return self._render(request, "peers.html", values=values)

    async def connections(self, request: Request) -> Response:
        error = ""
        try:
            found = list(await self._node.connections())
        except DialError as failure:
            found, error = [], failure.strerror or str(failure)
        found.sort(key=lambda each: (-each.figures["unacked"] - each.figures["unsent"], each.figures["remote"]))
        return self._render(request, "connections.html", values={"found": part_of(found, request), "error": error})

    async def logs(self, request: Request) -> Response:
        level = request.query_params.get("level", "info")
        if level not in LEVELS:
            level = "info"
        lines = self._logs.lines(logging.getLevelNamesMapping()[level.upper()], time.time())
        shown = _as_many_as_fit(lines)
        values = {"lines": shown, "more": len(lines) - len(shown), "level": level, "levels": LEVELS}
        return self._render(request, "logs.html", values=values)


class _Joined:
    """A joined network as its template needs it."""

    def __init__(self, info: NetworkInfo) -> None:
        self.info = info
        self.id = format_nwid(info.nwid)
        self.state = info.state.value.replace("_", " ")
        # A controller can say anything, javascript: too.
        self.allowed = [(NAMES[name], label, getattr(info.settings, name)) for name, label in LABELS.items()]
        self.log_in = info.authentication_url if info.authentication_url.startswith(("https://", "http://")) else ""


def _by_nearness(peer: PeerInfo) -> tuple[int, bool, int]:
    return _ROLES.get(peer.role, 2), not peer.direct, peer.address


def _as_many_as_fit(lines: list[LogLine]) -> list[LogLine]:
    room = LOG_ROOM
    for number, line in enumerate(lines):
        room -= len(escape(line.text).encode()) + 120  # with the row's own markup
        if room < 0:
            return lines[:number]
    return lines
