"""``/status``, ``/config``, ``/network``, ``/peer``, ``/moon`` and ``/health`` as zerotier-one 1.14 answers them
(OneService.cpp, ``startHTTPControlPlane``). Where that overlooks what it cannot use, this says 400 and which field."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from ztnode.node.api import JoinState, NetworkInfo, NodeApi
from ztnode.node.network_settings import NAMES
from ztnode.node.wall_clock import wall_clock
from ztnode.web import reference_json
from ztnode.web.answers import BadRequest, answer, read_object, refusal
from ztnode.wire.address import format_nwid

ADDRESS: Final = "{address:[0-9a-fA-F]{10}}"
NETWORK: Final = "{nwid:[0-9a-fA-F]{16}}"
_SETTINGS: Final = {key: name for name, key in NAMES.items()}


class LocalConfiguration(Protocol):
    """``local.conf``, and the directory in which it is, for people to read."""

    @property
    def home(self) -> str: ...

    def read(self) -> dict[str, Any]: ...

    async def change(self, settings: Mapping[str, Any]) -> None:
        """Set members of its ``settings``; the next start acts on them. Raises OSError, ValueError."""


class ServiceApi:
    """The routes over one node."""

    def __init__(self, node: NodeApi, configuration: LocalConfiguration) -> None:
        self._node = node
        self._configuration = configuration

    def routes(self) -> list[web.RouteDef]:
        """For ``Application.add_routes``."""
        return [
            web.get("/status", self.status),
            web.get("/health", self.health),
            web.get("/healthz", self.alive),
            web.get("/readyz", self.ready),
            web.get("/config", self.config),
            web.post("/config/settings", self.configure),
            web.put("/config/settings", self.configure),
            web.get("/network", self.networks),
            web.get(f"/network/{NETWORK}", self.network),
            web.post(f"/network/{NETWORK}", self.join),
            web.put(f"/network/{NETWORK}", self.join),
            web.delete(f"/network/{NETWORK}", self.leave),
            web.get("/peer", self.peers),
            web.get(f"/peer/{ADDRESS}", self.peer),
            web.get("/moon", self.moons),
            web.get(f"/moon/{ADDRESS}", self.moon),
            web.post(f"/moon/{ADDRESS}", self.orbit),
            web.put(f"/moon/{ADDRESS}", self.orbit),
            web.delete(f"/moon/{ADDRESS}", self.deorbit),
        ]

    # The node

    async def status(self, _request: web.Request) -> web.Response:
        local_conf = self._configuration.read()
        return answer(reference_json.status(self._node.status(), wall_clock(), self._configuration.home, local_conf))

    async def health(self, _request: web.Request) -> web.Response:
        return answer(reference_json.health(self._node.status(), wall_clock()))

    async def alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        """Whether a root answers and the networks, or that of ``?network=``, can be used: 200, or 503 and why not."""
        reasons = [] if self._node.status().online else ["no root answers"]
        if "network" in request.query:
            reasons += self._unready(request.query["network"])
        else:
            reasons += [reason for network in self._node.networks() for reason in _unusable(network)]
        return web.Response(text="".join(f"{line}\n" for line in reasons or ["ok"]), status=503 if reasons else 200)

    def _unready(self, text: str) -> list[str]:
        try:
            network = self._node.network(int(text, 16))
        except ValueError:
            network = None
        return [f"network {text!r} is not joined"] if network is None else _unusable(network)

    async def config(self, _request: web.Request) -> web.Response:
        return answer(self._configuration.read())

    async def configure(self, request: web.Request) -> web.Response:
        try:
            await self._configuration.change(await read_object(request))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return answer({})

    # Networks

    async def networks(self, _request: web.Request) -> web.Response:
        return answer([reference_json.network(network) for network in self._node.networks()])

    async def network(self, request: web.Request) -> web.Response:
        network = self._node.network(_nwid(request))
        return answer({}, 404) if network is None else answer(reference_json.network(network))

    async def join(self, request: web.Request) -> web.Response:
        settings = _network_settings(await read_object(request))
        network = await self._node.join(_nwid(request))
        if settings:
            network = await self._node.set_network(network.nwid, settings)
        return answer(reference_json.network(network))

    async def leave(self, request: web.Request) -> web.Response:
        try:
            await self._node.leave(_nwid(request))
        except KeyError:
            return answer({})
        return answer({"result": True})

    # Peers and moons

    async def peers(self, _request: web.Request) -> web.Response:
        clock, port = wall_clock(), self._port()
        return answer([reference_json.peer(peer, clock, port) for peer in self._node.peers()])

    async def peer(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["address"], 16)
        for peer in self._node.peers():
            if peer.address == wanted:
                return answer(reference_json.peer(peer, wall_clock(), self._port()))
        return answer({})

    async def moons(self, _request: web.Request) -> web.Response:
        return answer([reference_json.moon(moon) for moon in self._node.moons() if moon.seed is None])

    async def moon(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["address"], 16)
        found = (moon for moon in self._node.moons() if moon.id == wanted and moon.seed is None)
        return answer(next(map(reference_json.moon, found), {}))

    async def orbit(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["address"], 16)
        seed = (await read_object(request)).get("seed", "0")
        if not isinstance(seed, str):
            raise BadRequest("seed: not an address, 10 hexadecimal digits")
        for moon in self._node.moons():
            if moon.id == wanted and moon.seed is None:
                return answer(reference_json.moon(moon))
        try:
            value = int(seed, 16)
            if value >> 40:
                raise ValueError
        except ValueError:
            raise BadRequest(f"seed: {seed!r} is no address, 10 hexadecimal digits") from None
        if not value:
            return answer({})
        try:
            return answer(reference_json.moon(await self._node.orbit(wanted, value)))
        except ValueError as error:
            return refusal(400, str(error))

    async def deorbit(self, request: web.Request) -> web.Response:
        with contextlib.suppress(KeyError):  # the reference says the same of one that was never orbited
            await self._node.deorbit(int(request.match_info["address"], 16))
        return answer({"result": True})

    def _port(self) -> int:
        return int(next(iter(self._node.status().listening), ":0").rpartition(":")[2])


def _nwid(request: web.Request) -> int:
    return int(request.match_info["nwid"], 16)


def _network_settings(body: Mapping[str, Any]) -> dict[str, bool]:
    for key in _SETTINGS.keys() & body.keys():
        if not isinstance(body[key], bool):
            raise BadRequest(f"{key}: not true or false")
    return {_SETTINGS[key]: body[key] for key in _SETTINGS.keys() & body.keys()}


def _unusable(network: NetworkInfo) -> list[str]:
    if network.state is JoinState.OK:
        return []
    return [f"network {format_nwid(network.nwid)} is {network.state.value.replace('_', ' ')}"]
