"""Between the node's values (ztnode.node.api) and the messages of ztnode.v1."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from ztclient import times
from ztclient.forms import host_name, is_numeric, numeric_ip
from ztclient.v1 import node_pb2 as pb
from ztnode.control.failure import invalid
from ztnode.names import Found
from ztnode.node.api import (
    ConnectionInfo,
    GatewayInfo,
    Handoff,
    JoinState,
    MoonInfo,
    NetworkInfo,
    NetworkRules,
    NodeStatus,
    PathInfo,
    PeerInfo,
    StreamOptions,
    Whois,
    WorkerInfo,
)
from ztnode.wire.address import format_address, format_nwid, parse_address, parse_nwid
from ztnode.wire.mac import format_mac
from ztnode.wire.rules import build_rule_json
from ztnode.wire.world import format_world_id, parse_world_id

_NETWORK_STATES = {
    JoinState.REQUESTING: pb.NETWORK_STATE_REQUESTING,
    JoinState.WAITING_FOR_AUTHORIZATION: pb.NETWORK_STATE_WAITING_FOR_AUTHORIZATION,
    JoinState.NOT_FOUND: pb.NETWORK_STATE_NOT_FOUND,
    JoinState.AUTHENTICATION_REQUIRED: pb.NETWORK_STATE_AUTHENTICATION_REQUIRED,
    JoinState.OK: pb.NETWORK_STATE_OK,
    JoinState.LEFT: pb.NETWORK_STATE_LEFT,
}

FAMILIES = {pb.ADDRESS_FAMILY_UNSPECIFIED: 0, pb.ADDRESS_FAMILY_IPV4: 4, pb.ADDRESS_FAMILY_IPV6: 6}

_PEER_ROLES = {"planet": pb.PEER_ROLE_PLANET, "moon": pb.PEER_ROLE_MOON, "leaf": pb.PEER_ROLE_LEAF}

MAX_TIMEOUT = 3600.0
"""Seconds; longer dial timeouts are cut to this."""


def network_id(text: str) -> int:
    """Read 16 hex digits. Raises RpcFailure(INVALID_ARGUMENT)."""
    try:
        return parse_nwid(text)
    except ValueError as error:
        raise invalid(str(error)) from None


def optional_network_id(text: str) -> int | None:
    """Read 16 hex digits, or nothing. Raises RpcFailure(INVALID_ARGUMENT)."""
    return network_id(text) if text else None


def world_id(text: str) -> int:
    """Read up to 16 hex digits. Raises RpcFailure(INVALID_ARGUMENT)."""
    try:
        return parse_world_id(text)
    except ValueError as error:
        raise invalid(str(error)) from None


def seed(moon: int, text: str) -> int:
    """Read the address of a moon's root; empty: what by convention is the moon's id. Raises
    RpcFailure(INVALID_ARGUMENT)."""
    try:
        return parse_address(text or f"{moon & 0xFFFFFFFFFF:010x}")
    except ValueError as error:
        raise invalid(str(error)) from None


def ip_address(text: str) -> str:
    """Check a numeric IP and give it in its usual form. Raises RpcFailure(INVALID_ARGUMENT)."""
    try:
        address = numeric_ip(text)
    except ValueError:
        raise invalid(f"{text!r} is not a numeric IP address") from None
    if "%" in address:
        raise invalid(f"{text!r} has a scope; write the address without it")
    return address


def host(text: str) -> tuple[str, bool]:
    """Check a numeric IP or a name, give it in its usual form, and say whether it is a name. Raises
    RpcFailure(INVALID_ARGUMENT)."""
    if is_numeric(text):
        return ip_address(text), False
    try:
        return host_name(text), True
    except ValueError as error:
        raise invalid(str(error)) from None


def udp_change(request: pb.ConfigureUdpRequest) -> dict[str, Any]:
    """What ``NodeApi.configure_udp`` takes beside the token. Raises RpcFailure(INVALID_ARGUMENT)."""
    match request.WhichOneof("change"):
        case "join" | "leave" as option:
            membership: pb.GroupMembership = getattr(request, option)
            source = ip_address(membership.interface_ip) if membership.interface_ip else None
            return {"option": option, "address": ip_address(membership.group), "source": source}
        case "multicast_ip":
            address = ip_address(request.multicast_ip) if request.multicast_ip else None
            return {"option": "multicast_source", "address": address}
        case "multicast_hops" | "multicast_loop" | "broadcast" as option:
            return {"option": option, "value": int(getattr(request, option))}
        case _:
            raise invalid("a change of a UDP socket is join, leave, multicast_ip, multicast_hops, ... or broadcast")


def port_number(number: int, *, lowest: int = 1) -> int:
    """Check a port. Raises RpcFailure(INVALID_ARGUMENT)."""
    if not lowest <= number <= 65535:
        raise invalid(f"{number} is not a port: {lowest} to 65535")
    return number


def timeout(message: Duration, usual: float = 30.0) -> float:
    """Seconds from a request; 0 stands for ``usual``. Raises RpcFailure(INVALID_ARGUMENT)."""
    seconds = times.seconds(message)
    if seconds < 0:
        raise invalid(f"{seconds:g} s is not a timeout")
    return min(seconds, MAX_TIMEOUT) or usual


def network(info: NetworkInfo) -> pb.Network:
    """A network as the protocol shows it."""
    return pb.Network(
        network_id=format_nwid(info.nwid),
        name=info.name,
        state=_NETWORK_STATES[info.state],
        detail=info.detail,
        mac=info.mac.to_bytes(6, "big").hex(":"),
        mtu=info.mtu,
        addresses=info.addresses,
        routes=[pb.Route(target=route.target, via=route.via or "", metric=route.metric) for route in info.routes],
        dns_domain=info.dns_domain,
        dns_servers=info.dns_servers,
        private=info.private,
        broadcast=info.broadcast,
        revision=info.revision,
        authentication_url=info.authentication_url,
        from_cache=info.from_cache,
        allow_default=info.settings.allow_default,
        clock_offset=None if info.clock_offset is None else times.duration(info.clock_offset),
    )


def gateway(info: GatewayInfo) -> pb.GatewayResponse:
    """How it stands with a gateway, as a message."""
    return pb.GatewayResponse(
        routes=[
            pb.GatewayRoute(network_id=format_nwid(nwid), target=target, via=via) for nwid, target, via in info.routed
        ],
        unrouted=info.unrouted,
        ping_ipv4=4 in info.ping,
        ping_ipv6=6 in info.ping,
    )


def managed_addresses(info: NetworkInfo) -> Iterator[tuple[bytes, pb.ManagedAddress]]:
    """The node's addresses on one network, each with a key by which all are in order: by networks, and in each as the
    network has them."""
    for place, cidr in enumerate(info.addresses):
        interface = ipaddress.ip_interface(cidr)
        yield (
            info.nwid.to_bytes(8, "big") + place.to_bytes(4, "big"),
            pb.ManagedAddress(
                network_id=format_nwid(info.nwid), ip=str(interface.ip), prefix_length=interface.network.prefixlen
            ),
        )


def resolved(found: Sequence[Found] | None) -> pb.ResolveResponse:
    """The addresses of a name; None: it is foreign."""
    if found is None:
        return pb.ResolveResponse(foreign=True)
    addresses = [
        pb.ResolvedAddress(ip=each.ip, network_id="" if each.nwid is None else format_nwid(each.nwid)) for each in found
    ]
    return pb.ResolveResponse(addresses=addresses)


def peer(info: PeerInfo) -> pb.Peer:
    """A peer as the protocol shows it."""
    return pb.Peer(
        address=format_address(info.address),
        role=_PEER_ROLES.get(info.role, pb.PEER_ROLE_UNSPECIFIED),
        version=info.version,
        latency=_known(info.latency_ms / 1000),
        direct=info.direct,
        paths=[_path(path) for path in info.paths],
    )


def moon(info: MoonInfo) -> pb.Moon:
    """A moon as the protocol shows it."""
    return pb.Moon(
        id=format_world_id(info.id),
        seed="" if info.seed is None else format_address(info.seed),
        signed_at=times.timestamp(info.timestamp),
        roots=[
            pb.MoonRoot(address=format_address(address), public_identity=identity, endpoints=endpoints)
            for address, identity, endpoints in info.roots
        ],
    )


def rules(value: NetworkRules) -> pb.GetRulesResponse:
    """The rules of a network."""
    return pb.GetRulesResponse(
        rules_json=json.dumps([build_rule_json(rule) for rule in value.rules]),
        capabilities_json=json.dumps(
            [{"id": number, "rules": [build_rule_json(rule) for rule in table]} for number, table in value.capabilities]
        ),
        tags=[pb.CarriedTag(id=number, value=each) for number, each in value.tags],
    )


def whois(info: Whois) -> pb.WhoisResponse:
    """Who has an address, as a message."""
    return pb.WhoisResponse(
        network_id=format_nwid(info.nwid),
        address=format_address(info.address),
        mac=format_mac(info.mac),
        public_identity=info.public_identity,
        peer=None if info.peer is None else peer(info.peer),
        member_name=info.name,
        gateway=info.gateway or "",
    )


def connection_key(info: ConnectionInfo) -> bytes:
    """What connections are ordered by, and no two have in common."""
    index: int = info.figures["index"]
    key = bytearray()
    for host, port in (info.figures["local"], info.figures["remote"]):
        key += ipaddress.ip_address(host).packed.rjust(16, b"\0") + port.to_bytes(2, "big")
    return bytes(key) + index.to_bytes(4, "big")


def stream_options(request: pb.DialRequest | pb.ListenRequest) -> StreamOptions:
    """What a client chose of its connections."""
    return StreamOptions(nodelay=not request.delay, congestion=request.congestion)


def tcp_connection(info: ConnectionInfo) -> pb.TcpConnection:
    """A connection with its figures as a message."""
    figures = info.figures
    return pb.TcpConnection(
        local=endpoint(figures["local"]),
        remote=endpoint(figures["remote"]),
        state=figures["state"],
        worker=info.worker,
        congestion=figures["congestion"],
        phase=figures["phase"],
        rtt=times.duration(figures["rtt"]) if figures["rtt"] else None,
        rtt_variation=times.duration(figures["rttvar"]) if figures["rtt"] else None,
        rto=times.duration(figures["rto"]),
        mss=figures["mss"],
        cwnd=int(figures["cwnd"]),
        ssthresh=0 if figures["ssthresh"] >= 1 << 31 else int(figures["ssthresh"]),
        pacing_rate=figures["pacing_rate"],
        send_window=figures["send_window"],
        unsent=figures["unsent"],
        unacked=figures["unacked"],
        receive_window=max(0, figures["receive_window"]),
        retransmits=figures["retransmits"],
        timeouts=figures["timeouts"],
    )


def _path(info: PathInfo) -> pb.Path:
    return pb.Path(
        endpoint=info.endpoint,
        preferred=info.preferred,
        last_send_age=_known(info.last_send_age),
        last_receive_age=_known(info.last_receive_age),
    )


def _known(seconds: float) -> Duration | None:
    """The node says with a negative number that it does not know."""
    return None if seconds < 0 else times.duration(seconds)


def worker(info: WorkerInfo) -> pb.Worker:
    """A worker process as the protocol shows it."""
    return pb.Worker(
        index=info.index,
        pid=info.pid,
        connections=info.connections,
        restarts=info.restarts,
        counters=info.counters,
    )


def status(info: NodeStatus) -> pb.StatusResponse:
    """The node as the protocol shows it."""
    return pb.StatusResponse(
        address=format_address(info.address),
        public_identity=info.public_identity,
        online=info.online,
        version=info.version,
        uptime=times.duration(info.uptime),
        planet_id=info.planet_id,
        planet_signed_at=times.timestamp(info.planet_timestamp),
        listening=info.listening,
        surface_addresses=info.surface_addresses,
        workers=[worker(one) for one in info.workers],
        counters=info.counters,
        identity_conflict=info.identity_conflict,
        transport=info.transport,
        mapped_address=info.mapped_address,
    )


def endpoint(address: tuple[str, int]) -> pb.Endpoint:
    """One end of a connection."""
    return pb.Endpoint(ip=address[0], port=address[1])


def connection(handoff: Handoff, *, local_client: bool) -> pb.Connection:
    """A connection that waits for its client. Only a client on this machine has a use for the hand-off path."""
    return pb.Connection(
        token=handoff.token,
        handoff_path=handoff.path if local_client else "",
        local=endpoint(handoff.local),
        remote=endpoint(handoff.remote),
    )
