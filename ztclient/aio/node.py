"""A running node, from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ztclient import channel as blocking
from ztclient import model
from ztclient.aio import channel, dialling
from ztclient.aio.datagrams import open_udp
from ztclient.aio.listener import Listener
from ztclient.datagrams import DatagramSocket
from ztclient.forms import network_id
from ztclient.overlay_socket import Connection
from ztclient.reach import (
    SLACK,
    NamedNode,
    dial_request,
    joined,
    listen_request,
    not_ready,
    orbit_request,
    ping_request,
    resolve_request,
    resolved,
    udp_request,
)


class Node(NamedNode):
    """A running ztnode, from asyncio. Making one connects to nothing; it can be used on any event loop."""

    @property
    def control(self) -> channel.Control:
        """The channel of the running event loop to the node."""
        return channel.get(self._address, self._credentials)

    async def status(self) -> model.Status:
        """The node as a whole."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return model.status(await control.call(control.stub.Status, pb.StatusRequest()))

    async def networks(self) -> list[model.Network]:
        """All joined networks."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        entries = control.entries(control.stub.ListNetworks, pb.ListNetworksRequest())
        return [model.network(each) async for each in entries]

    async def network(self, nwid: str | int) -> model.Network:
        """One joined network. Raises NotFoundError."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        answer = await control.call(control.stub.GetNetwork, pb.GetNetworkRequest(network_id=network_id(nwid)))
        return model.network(answer.network)

    async def addresses(self, nwid: str | int | None = None) -> list[model.ManagedAddress]:
        """The managed addresses of the node, on one network or on all, with their prefix lengths."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        request = pb.ListAddressesRequest(network_id="" if nwid is None else network_id(nwid))
        return [
            model.ManagedAddress(each.network_id, each.ip, each.prefix_length)
            async for each in control.entries(control.stub.ListAddresses, request)
        ]

    async def ips(self, nwid: str | int | None = None) -> list[str]:
        """The managed IPs of the node, on one network or on all."""
        return [address.ip for address in await self.addresses(nwid)]

    async def peers(self) -> list[model.Peer]:
        """The ZeroTier peers that the node knows."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return [model.peer(each) async for each in control.entries(control.stub.ListPeers, pb.ListPeersRequest())]

    async def orbit(self, moon: str | bytes, seed: str | None = None) -> model.Moon:
        """Orbit a moon; as ``ztclient.Node.orbit``."""
        control = self.control
        answer = await control.call(control.stub.Orbit, orbit_request(moon, seed))
        return model.moon(answer.moon)

    async def deorbit(self, moon: str) -> None:
        """Leave a moon, or give up looking for it. Raises NotFoundError."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        await control.call(control.stub.Deorbit, pb.DeorbitRequest(moon_id=moon))

    async def moons(self) -> list[model.Moon]:
        """The moons that the node orbits or looks for, in the order of their ids."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return [model.moon(each) async for each in control.entries(control.stub.ListMoons, pb.ListMoonsRequest())]

    async def join(
        self,
        nwid: str | int,
        wait: float | None = None,
        *,
        auth_token: str = "",
        on_change: Callable[[model.Network], None] | None = None,
        allow_default: bool | None = None,
    ) -> model.Network:
        """Join a network (nothing happens where it is joined already); as ``ztclient.Node.join``."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        request = pb.JoinRequest(network_id=network_id(nwid), auth_token=auth_token, allow_default=allow_default)
        answer = await control.call(control.stub.Join, request)
        network = model.network(answer.network)
        if wait is None or network.ready:
            return network
        deadline = asyncio.timeout(wait)
        try:
            async with deadline:
                async for network in self.watch(nwid):
                    if on_change is not None:
                        on_change(network)
                    if joined(network):
                        return network
        except TimeoutError:
            if not deadline.expired():
                raise
        raise not_ready(network, wait)

    async def leave(self, nwid: str | int) -> None:
        """Leave a network and forget its configuration. Raises NotFoundError."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        await control.call(control.stub.Leave, pb.LeaveRequest(network_id=network_id(nwid)))

    async def watch(self, nwid: str | int | None = None) -> AsyncGenerator[model.Network, None]:
        """Each network as it is now, then again whenever it changes; close the iterator to end it."""
        from ztclient.v1 import node_pb2 as pb

        request = pb.WatchNetworksRequest(network_id="" if nwid is None else network_id(nwid))
        control = self.control
        call: Any = control.stub.WatchNetworks(request, metadata=control.metadata)
        try:
            with control.translated():
                async for response in call:
                    yield model.network(response.network)
        finally:
            call.cancel()

    async def dial(
        self,
        ip: str,
        port: int,
        timeout: float | None = None,
        *,
        nwid: str | int | None = None,
        delay: bool = False,
        congestion: str = "",
    ) -> Connection:
        """A connected socket, which does not block, to a host on the overlay; as ``ztclient.Node.dial``."""
        request, patience = dial_request(ip, port, timeout, nwid, delay=delay, congestion=congestion)
        return await dialling.dial(self.control, request, patience)

    async def resolve(
        self, name: str, family: int = 0, timeout: float | None = None, *, nwid: str | int | None = None
    ) -> list[str]:
        """The addresses of a name of the overlay; as ``ztclient.Node.resolve``."""
        control = self.control
        request, patience = resolve_request(name, family, timeout, nwid)
        return resolved(name, await control.call(control.stub.Resolve, request, patience))

    async def listen(
        self,
        ip: str = "",
        port: int = 0,
        *,
        backlog: int = 128,
        nwid: str | int | None = None,
        delay: bool = False,
        congestion: str = "",
    ) -> Listener:
        """Listen for TCP connections on a managed address (empty: on all), port 0: any free one; as
        ``ztclient.Node.listen``. Raises OSError."""
        request = listen_request(ip, port, backlog, nwid, delay=delay, congestion=congestion)
        return await Listener.open(self.control, request)

    async def ping(self, ip: str, timeout: float = 3.0, *, size: int = 56, nwid: str | int | None = None) -> float:
        """Seconds from an ICMP echo to its reply; as ``ztclient.Node.ping``."""
        from ztclient import times

        control = self.control
        request = ping_request(ip, timeout, size, nwid)
        answer = await control.call(control.stub.Ping, request, timeout + SLACK)
        return times.seconds(answer.round_trip)

    async def open_udp(
        self, ip: str = "", port: int = 0, *, nwid: str | int | None = None, reuse: bool = False
    ) -> DatagramSocket:
        """A UDP socket, which does not block, bound to a managed address or a multicast group (empty: to all
        addresses), port 0: any free one. ``reuse``: others that say so may have the same one. Its ``setsockopt``, for
        groups and broadcast, asks the node and waits for the answer. Raises OSError."""
        made = await open_udp(self.control, udp_request(ip, port, nwid, reuse))
        made.ask_through(lambda: blocking.get(self._address, self._credentials))
        return made
