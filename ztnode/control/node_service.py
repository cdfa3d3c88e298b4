"""NodeService: the control plane of ztnode.v1 over a NodeApi."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc

from ztclient import times
from ztclient.handoff import TOKEN_BYTES
from ztclient.v1 import node_pb2 as pb
from ztclient.v1 import node_pb2_grpc as rpc
from ztnode.control import convert, datagram_stream, stream
from ztnode.control.failure import Context, RpcFailure, abort, invalid, not_found, streaming, unary
from ztnode.control.paging import page
from ztnode.control.pending import PendingConnections
from ztnode.names import Resolver, racing
from ztnode.node.api import Handoff, NetworkInfo, NodeApi
from ztnode.node.handoffs import claim
from ztnode.wire.address import format_nwid
from ztnode.wire.world import format_world_id

MAX_BACKLOG = 4096
MAX_AUTH_TOKEN_LENGTH = 505
"""With ``token:`` before it, what a controller of the reference reads of it."""


class NodeService(rpc.NodeServiceServicer):
    """Serves one node. All methods run on the node's event loop."""

    def __init__(self, node: NodeApi, resolver: Resolver) -> None:
        self._node = node
        self._resolver = resolver
        self._pending = PendingConnections()

    @unary
    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return convert.status(self._node.status())

    @unary
    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        nwid, token = convert.network_id(request.network_id), request.auth_token
        if len(token.encode()) > MAX_AUTH_TOKEN_LENGTH or not token.isprintable():
            raise invalid(f"an authorization token is printable and has up to {MAX_AUTH_TOKEN_LENGTH} bytes")
        allow_default = request.allow_default if request.HasField("allow_default") else None
        info = await self._node.join(nwid, token, allow_default=allow_default)
        return pb.JoinResponse(network=convert.network(info))

    @unary
    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveResponse:
        nwid = convert.network_id(request.network_id)
        try:
            await self._node.leave(nwid)
        except KeyError:
            raise _not_joined(nwid) from None
        return pb.LeaveResponse()

    @unary
    async def ListNetworks(self, request: pb.ListNetworksRequest, context: Context) -> pb.ListNetworksResponse:
        entries = ((network.nwid.to_bytes(8, "big"), network) for network in self._node.networks())
        networks, following = page(request, "networks", entries, convert.network)
        return pb.ListNetworksResponse(networks=networks, next_page_token=following)

    @unary
    async def GetNetwork(self, request: pb.GetNetworkRequest, context: Context) -> pb.GetNetworkResponse:
        return pb.GetNetworkResponse(network=convert.network(self._network(convert.network_id(request.network_id))))

    @streaming
    async def WatchNetworks(
        self, request: pb.WatchNetworksRequest, context: Context
    ) -> AsyncIterator[pb.WatchNetworksResponse]:
        wanted = convert.optional_network_id(request.network_id)
        async with contextlib.AsyncExitStack() as stack:
            changes = self._node.watch()
            if hasattr(changes, "aclose"):
                stack.push_async_callback(changes.aclose)
            async for info in changes:
                if wanted is None or info.nwid == wanted:
                    yield pb.WatchNetworksResponse(network=convert.network(info))

    @unary
    async def ListAddresses(self, request: pb.ListAddressesRequest, context: Context) -> pb.ListAddressesResponse:
        wanted = convert.optional_network_id(request.network_id)
        networks = self._node.networks() if wanted is None else [self._network(wanted)]
        entries = (entry for network in networks for entry in convert.managed_addresses(network))
        addresses, following = page(request, f"addresses {wanted}", entries, lambda address: address)
        return pb.ListAddressesResponse(addresses=addresses, next_page_token=following)

    @unary
    async def ListPeers(self, request: pb.ListPeersRequest, context: Context) -> pb.ListPeersResponse:
        entries = ((peer.address.to_bytes(5, "big"), peer) for peer in self._node.peers())
        peers, following = page(request, "peers", entries, convert.peer)
        return pb.ListPeersResponse(peers=peers, next_page_token=following)

    @unary
    async def Dial(self, request: pb.DialRequest, context: Context) -> pb.DialResponse:
        handoff = await self._dial(request)
        offered = self._offer(handoff, context)
        return pb.DialResponse(connection=offered, direct=bool(offered.handoff_path) and self._node.direct_dials)

    @streaming
    async def Listen(self, request: pb.ListenRequest, context: Context) -> AsyncIterator[pb.ListenResponse]:
        listener, bound = await self._node.listen(
            convert.ip_address(request.ip) if request.ip else None,
            convert.port_number(request.port, lowest=0),
            nwid=self._joined(request.network_id),
            backlog=min(request.backlog, MAX_BACKLOG) or 128,
            options=convert.stream_options(request),
        )
        try:
            answer = pb.ListenResponse(listener_id=listener, bound=convert.endpoint(bound))
            if context.peer().startswith("unix") and (attended := self._node.attended(listener)) is not None:
                answer.handoff_path, answer.token = attended.path, attended.token
            yield answer
            # The call is the client's lease on the listener; only cancelling ends it.
            await asyncio.get_running_loop().create_future()
        finally:
            with contextlib.suppress(KeyError):
                await self._node.close_listener(listener)

    @unary
    async def Accept(self, request: pb.AcceptRequest, context: Context) -> pb.AcceptResponse:
        try:
            handoff = await self._node.accept(request.listener_id)
        except KeyError:
            raise _no_listener(request.listener_id) from None
        return pb.AcceptResponse(connection=self._offer(handoff, context))

    # The generated signature offers an iterator of requests; read() and write() on the context are the same stream and
    # let both directions run side by side.
    async def Stream(self, request_iterator: AsyncIterator[pb.StreamRequest], context: Context) -> None:  # type: ignore[override]
        try:
            handoff = await self._first(await context.read())
            await stream.carry(context, await claim(handoff), handoff)
        except Exception as error:
            await abort(context, error)

    @streaming
    async def Gateway(self, request: pb.GatewayRequest, context: Context) -> AsyncIterator[pb.GatewayResponse]:
        try:
            gateway = self._node.open_gateway(request.targets, request.excepted, flows=request.flows)
        except ValueError as error:
            raise invalid(str(error)) from None
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._node.close_gateway, gateway)
            changes = self._node.watch()
            if hasattr(changes, "aclose"):
                stack.push_async_callback(changes.aclose)
            last = convert.gateway(self._node.gateway(gateway))
            yield last
            async for _ in changes:
                now = convert.gateway(self._node.gateway(gateway))
                if now != last:
                    last = now
                    yield now
            await asyncio.get_running_loop().create_future()  # the call is the lease, as with Listen

    @unary
    async def OpenUdp(self, request: pb.OpenUdpRequest, context: Context) -> pb.OpenUdpResponse:
        handoff = await self._open_udp(request)
        path = handoff.path if context.peer().startswith("unix") else ""
        return pb.OpenUdpResponse(token=handoff.token, handoff_path=path, local=convert.endpoint(handoff.local))

    @unary
    async def ConfigureUdp(self, request: pb.ConfigureUdpRequest, context: Context) -> pb.ConfigureUdpResponse:
        _check_token(request.token)
        await self._node.configure_udp(request.token, **convert.udp_change(request))
        return pb.ConfigureUdpResponse()

    async def Datagrams(  # type: ignore[override] # as Stream
        self, request_iterator: AsyncIterator[pb.DatagramsRequest], context: Context
    ) -> None:
        try:
            first = await context.read()
            if not isinstance(first, pb.DatagramsRequest) or first.WhichOneof("message") != "open":
                raise invalid("a call for datagrams begins with open")
            handoff = await self._open_udp(first.open)
            await datagram_stream.carry(context, await claim(handoff), handoff)
        except Exception as error:
            await abort(context, error)

    @unary
    async def Ping(self, request: pb.PingRequest, context: Context) -> pb.PingResponse:
        nwid = self._joined(request.network_id)
        ip, is_name = convert.host(request.ip)
        if is_name:
            ip, nwid = await racing.first(self._resolver, ip, nwid)
        timeout = convert.timeout(request.timeout, usual=3.0)
        seconds = await self._node.ping(ip, nwid=nwid, size=request.size, timeout=timeout)
        return pb.PingResponse(round_trip=times.duration(seconds), ip=ip)

    @unary
    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:
        name, is_name = convert.host(request.name)
        nwid = self._joined(request.network_id)
        if not is_name:
            return pb.ResolveResponse(addresses=[pb.ResolvedAddress(ip=name, network_id=request.network_id)])
        family = convert.FAMILIES.get(request.family)
        if family is None:
            raise invalid(f"{request.family} is no address family")
        timeout = convert.timeout(request.timeout, usual=racing.PATIENCE)
        return convert.resolved(await racing.within(timeout, self._resolver, name, nwid, family))

    @streaming
    async def Capture(self, request: pb.CaptureRequest, context: Context) -> AsyncIterator[pb.CaptureResponse]:
        nwid = convert.network_id(request.network_id)
        self._network(nwid)
        async with contextlib.AsyncExitStack() as stack:
            blocks = self._node.capture(nwid, snaplen=min(request.snaplen, 65535) or 65535)
            if hasattr(blocks, "aclose"):
                stack.push_async_callback(blocks.aclose)
            async for block in blocks:
                yield pb.CaptureResponse(pcapng=block)

    @unary
    async def Whois(self, request: pb.WhoisRequest, context: Context) -> pb.WhoisResponse:
        found = await self._node.whois(convert.ip_address(request.ip), nwid=self._joined(request.network_id))
        return convert.whois(found)

    @unary
    async def GetRules(self, request: pb.GetRulesRequest, context: Context) -> pb.GetRulesResponse:
        nwid = convert.network_id(request.network_id)
        self._network(nwid)
        rules = self._node.rules(nwid)
        if rules is None:
            shown = f"network {format_nwid(nwid)} has no configuration yet: ztnode networks says why"
            raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, shown, errno_name="ENETDOWN")
        return convert.rules(rules)

    @unary
    async def ListConnections(self, request: pb.ListConnectionsRequest, context: Context) -> pb.ListConnectionsResponse:
        found = [(convert.connection_key(each), each) for each in await self._node.connections()]
        connections, following = page(request, "connections", found, convert.tcp_connection)
        return pb.ListConnectionsResponse(connections=connections, next_page_token=following)

    def _network(self, nwid: int) -> NetworkInfo:
        info = self._node.network(nwid)
        if info is None:
            raise _not_joined(nwid)
        return info

    @unary
    async def Orbit(self, request: pb.OrbitRequest, context: Context) -> pb.OrbitResponse:
        if request.WhichOneof("moon") == "world":
            if request.seed:
                raise invalid("a seed goes with a moon's id: its file needs none")
            return pb.OrbitResponse(moon=convert.moon(await self._node.orbit_world(request.world)))
        moon = convert.world_id(request.moon_id)
        seed = convert.seed(moon, request.seed)
        return pb.OrbitResponse(moon=convert.moon(await self._node.orbit(moon, seed)))

    @unary
    async def Deorbit(self, request: pb.DeorbitRequest, context: Context) -> pb.DeorbitResponse:
        moon = convert.world_id(request.moon_id)
        try:
            await self._node.deorbit(moon)
        except KeyError:
            raise not_found(
                f"moon {format_world_id(moon)} is not orbited: see `ztnode moons`", "MOON_NOT_ORBITED"
            ) from None
        return pb.DeorbitResponse()

    @unary
    async def ListMoons(self, request: pb.ListMoonsRequest, context: Context) -> pb.ListMoonsResponse:
        entries = ((moon.id.to_bytes(8, "big"), moon) for moon in self._node.moons())
        moons, following = page(request, "moons", entries, convert.moon)
        return pb.ListMoonsResponse(moons=moons, next_page_token=following)

    def _joined(self, network_id: str) -> int | None:
        nwid = convert.optional_network_id(network_id)
        if nwid is not None:
            self._network(nwid)
        return nwid

    async def _dial(self, request: pb.DialRequest) -> Handoff:
        (ip, is_name), port = convert.host(request.ip), convert.port_number(request.port)
        timeout = convert.timeout(request.timeout)
        nwid = self._joined(request.network_id)
        try:
            if is_name:
                return await racing.dial(
                    self._node,
                    self._resolver,
                    ip,
                    port,
                    nwid=nwid,
                    timeout=timeout,
                    options=convert.stream_options(request),
                )
            return await self._node.dial(
                ip,
                port,
                nwid=nwid,
                timeout=timeout,
                options=convert.stream_options(request),
            )
        except KeyError:
            # Left while the attempt was under way.
            raise not_found("the network was left", "NETWORK_NOT_JOINED") from None

    async def _open_udp(self, request: pb.OpenUdpRequest) -> Handoff:
        return await self._node.open_udp(
            convert.ip_address(request.ip) if request.ip else None,
            convert.port_number(request.port, lowest=0),
            nwid=self._joined(request.network_id),
            reuse=request.reuse_address,
        )

    def _offer(self, handoff: Handoff, context: Context) -> pb.Connection:
        self._pending.add(handoff, time.monotonic())
        return convert.connection(handoff, local_client=context.peer().startswith("unix"))

    async def _first(self, request: pb.StreamRequest | object) -> Handoff:
        if not isinstance(request, pb.StreamRequest):
            raise invalid("the stream ended before its first message")
        match request.WhichOneof("message"):
            case "dial":
                return await self._dial(request.dial)
            case "token":
                _check_token(request.token)
                handoff = self._pending.take(request.token, time.monotonic())
                if handoff is None:
                    raise not_found(
                        "no connection waits under this token: it was claimed, or its minute is over", "TOKEN_NOT_FOUND"
                    )
                return handoff
            case _:
                raise invalid("a stream begins with dial or token")


def _not_joined(nwid: int) -> RpcFailure:
    shown = format_nwid(nwid)
    return not_found(f"network {shown} is not joined: join it with `ztnode join {shown}`", "NETWORK_NOT_JOINED")


def _check_token(token: bytes) -> None:
    if len(token) != TOKEN_BYTES:
        raise invalid(f"a connection's token has {TOKEN_BYTES} bytes")


def _no_listener(listener: int) -> RpcFailure:
    return RpcFailure(grpc.StatusCode.NOT_FOUND, f"listener {listener} is closed", errno_name="EBADF")
