"""``/status``, ``/config``, ``/network``, ``/peer``, ``/moon`` and ``/health`` as zerotier-one 1.14 answers them
(OneService.cpp, ``startHTTPControlPlane``). Where that overlooks what it cannot use, this says 400 and which field."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ztnode.node.api import JoinState, NetworkInfo, NodeApi
from ztnode.node.network_settings import NAMES
from ztnode.node.wall_clock import wall_clock
from ztnode.web import reference_json
from ztnode.web.answers import answer, bad, read_object
from ztnode.wire.address import format_address, format_nwid

ADDRESS: Final = "{address:zt_address}"
NETWORK: Final = "{nwid:zt_network}"
CHANGE: Final = ("POST", "PUT")
DELETE: Final = ("DELETE",)


class _Address(Convertor[int]):
    """The digits of a path, as a number."""

    regex = "[0-9a-fA-F]{10}"

    def convert(self, value: str) -> int:
        return int(value, 16)

    def to_string(self, value: int) -> str:
        return format_address(value)


class _Network(_Address):
    regex = "[0-9a-fA-F]{16}"

    def to_string(self, value: int) -> str:
        return format_nwid(value)


register_url_convertor("zt_address", _Address())
register_url_convertor("zt_network", _Network())

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

    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route("/status", self.status),
            Route("/health", self.health),
            Route("/healthz", self.alive),
            Route("/readyz", self.ready),
            Route("/config", self.config),
            Route("/config/settings", self.configure, methods=CHANGE),
            Route("/network", self.networks),
            Route(f"/network/{NETWORK}", self.network),
            Route(f"/network/{NETWORK}", self.join, methods=CHANGE),
            Route(f"/network/{NETWORK}", self.leave, methods=DELETE),
            Route("/peer", self.peers),
            Route(f"/peer/{ADDRESS}", self.peer),
            Route("/moon", self.moons),
            Route(f"/moon/{ADDRESS}", self.moon),
            Route(f"/moon/{ADDRESS}", self.orbit, methods=CHANGE),
            Route(f"/moon/{ADDRESS}", self.deorbit, methods=DELETE),
        ]

    # The node

    async def status(self, _request: Request) -> Response:
        local_conf = self._configuration.read()
        return answer(reference_json.status(self._node.status(), wall_clock(), self._configuration.home, local_conf))

    async def health(self, _request: Request) -> Response:
        return answer(reference_json.health(self._node.status(), wall_clock()))

    async def alive(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        """Whether a root answers and the networks, or that of ``?network=``, can be used: 200, or 503 and why not."""
        reasons = [] if self._node.status().online else ["no root answers"]
        if "network" in request.query_params:
            reasons += self._unready(request.query_params["network"])
        else:
            reasons += [reason for network in self._node.networks() for reason in _unusable(network)]
        return PlainTextResponse("".join(f"{line}\n" for line in reasons or ["ok"]), 503 if reasons else 200)

    def _unready(self, text: str) -> list[str]:
        try:
            network = self._node.network(int(text, 16))
        except ValueError:
            network = None
        return [f"network {text!r} is not joined"] if network is None else _unusable(network)

    async def config(self, _request: Request) -> Response:
        return answer(self._configuration.read())

    async def configure(self, request: Request) -> Response:
        try:
            await self._configuration.change(await read_object(request))
        except ValueError as error:
            raise bad(str(error)) from None
        return answer({})

    # Networks

    async def networks(self, _request: Request) -> Response:
        return answer([reference_json.network(network) for network in self._node.networks()])

    async def network(self, request: Request) -> Response:
        network = self._node.network(request.path_params["nwid"])
        return answer({}, 404) if network is None else answer(reference_json.network(network))

    async def join(self, request: Request) -> Response:
        settings = _network_settings(await read_object(request))
        if not request.path_params["nwid"]:
            raise bad("no controller has the network 0000000000000000")
        network = await self._node.join(request.path_params["nwid"])
        if settings:
            network = await self._node.set_network(network.nwid, settings)
        return answer(reference_json.network(network))

    async def leave(self, request: Request) -> Response:
        try:
            await self._node.leave(request.path_params["nwid"])
        except KeyError:
            return answer({})
        return answer({"result": True})

    # Peers and moons

    async def peers(self, _request: Request) -> Response:
        clock, port = wall_clock(), self._port()
        return answer([reference_json.peer(peer, clock, port) for peer in self._node.peers()])

    async def peer(self, request: Request) -> Response:
        peer = self._node.peer(request.path_params["address"])
        return answer({} if peer is None else reference_json.peer(peer, wall_clock(), self._port()))

    async def moons(self, _request: Request) -> Response:
        return answer([reference_json.moon(moon) for moon in self._node.moons() if moon.seed is None])

    async def moon(self, request: Request) -> Response:
        wanted = request.path_params["address"]
        found = (moon for moon in self._node.moons() if moon.id == wanted and moon.seed is None)
        return answer(next(map(reference_json.moon, found), {}))

    async def orbit(self, request: Request) -> Response:
        wanted = request.path_params["address"]
        seed = (await read_object(request)).get("seed", "0")
        if not isinstance(seed, str):
            raise bad("seed: not an address, 10 hexadecimal digits")
        for moon in self._node.moons():
            if moon.id == wanted and moon.seed is None:
                return answer(reference_json.moon(moon))
        try:
            value = int(seed, 16)
            if value >> 40:
                raise ValueError
        except ValueError:
            raise bad(f"seed: {seed!r} is no address, 10 hexadecimal digits") from None
        if not value:
            return answer({})
        try:
            return answer(reference_json.moon(await self._node.orbit(wanted, value)))
        except ValueError as error:
            raise bad(str(error)) from None

    async def deorbit(self, request: Request) -> Response:
        with contextlib.suppress(KeyError):  # the reference says the same of one that was never orbited
            await self._node.deorbit(request.path_params["address"])
        return answer({"result": True})

    def _port(self) -> int:
        return int(next(iter(self._node.status().listening), ":0").rpartition(":")[2])


def _network_settings(body: Mapping[str, Any]) -> dict[str, bool]:
    for key in _SETTINGS.keys() & body.keys():
        if not isinstance(body[key], bool):
            raise bad(f"{key}: not true or false")
    return {_SETTINGS[key]: body[key] for key in _SETTINGS.keys() & body.keys()}


def _unusable(network: NetworkInfo) -> list[str]:
    if network.state is JoinState.OK:
        return []
    return [f"network {format_nwid(network.nwid)} is {network.state.value.replace('_', ' ')}"]
