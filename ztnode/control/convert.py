"""Between the node's values (ztnode.node.api) and the messages of ztnode.v1."""

from __future__ import annotations

import functools
import ipaddress
import math

from ztnode.control.errors import invalid
from ztnode.node.api import Handoff, JoinState, NetworkInfo, NodeStatus, PeerInfo, WorkerInfo
from ztnode.v1 import node_pb2 as pb

_NETWORK_STATES = {
    JoinState.REQUESTING: pb.NETWORK_STATE_REQUESTING,
    JoinState.WAITING_FOR_AUTHORIZATION: pb.NETWORK_STATE_WAITING_FOR_AUTHORISATION,
    JoinState.NOT_FOUND: pb.NETWORK_STATE_NOT_FOUND,
    JoinState.AUTHENTICATION_REQUIRED: pb.NETWORK_STATE_AUTHENTICATION_REQUIRED,
    JoinState.OK: pb.NETWORK_STATE_OK,
    JoinState.LEFT: pb.NETWORK_STATE_LEFT,
}

_PEER_ROLES = {"planet": pb.PEER_ROLE_PLANET, "moon": pb.PEER_ROLE_MOON, "leaf": pb.PEER_ROLE_LEAF}

MAX_TIMEOUT = 3600.0
"""Seconds; longer dial timeouts are cut to this."""


def network_id(text: str) -> int:
    """Read 16 hex digits. Raises RpcFailure(INVALID_ARGUMENT)."""
    if len(text) != 16 or not all(digit in "0123456789abcdefABCDEF" for digit in text):
        raise invalid(f"{text!r} is not a network id: it has 16 hexadecimal digits, such as 9ad07d01093a69e3")
    number = int(text, 16)
    if not number:
        raise invalid("a network id is not all zeros")
    return number


def optional_network_id(text: str) -> int | None:
    """Read 16 hex digits, or nothing. Raises RpcFailure(INVALID_ARGUMENT)."""
    return network_id(text) if text else None


@functools.lru_cache(256)
def ip_address(text: str) -> str:
    """Check a numeric IP and give it in its usual form. Raises RpcFailure(INVALID_ARGUMENT)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise invalid(f"{text!r} is not a numeric IP address; names are not resolved on the overlay") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise invalid(f"{text!r} has a scope; write the address without it")
    return str(address)


def port_number(number: int, *, lowest: int = 1) -> int:
    """Check a port. Raises RpcFailure(INVALID_ARGUMENT)."""
    if not lowest <= number <= 65535:
        raise invalid(f"{number} is not a port: {lowest} to 65535")
    return number


def dial_timeout(seconds: float) -> float:
    """Seconds from a DialRequest; 0 stands for 30. Raises RpcFailure(INVALID_ARGUMENT)."""
    if math.isnan(seconds) or seconds < 0:
        raise invalid(f"{seconds} is not a timeout in seconds")
    return min(seconds, MAX_TIMEOUT) or 30.0


def network(info: NetworkInfo) -> pb.Network:
    """A network as the protocol shows it."""
    return pb.Network(
        network_id=f"{info.nwid:016x}",
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
    )


def managed_addresses(info: NetworkInfo) -> list[pb.ManagedAddress]:
    """The node's addresses on one network."""
    interfaces = [ipaddress.ip_interface(cidr) for cidr in info.addresses]
    return [
        pb.ManagedAddress(
            network_id=f"{info.nwid:016x}", ip=str(interface.ip), prefix_length=interface.network.prefixlen
        )
        for interface in interfaces
    ]


def peer(info: PeerInfo) -> pb.Peer:
    """A peer as the protocol shows it."""
    return pb.Peer(
        address=f"{info.address:010x}",
        role=_PEER_ROLES.get(info.role, pb.PEER_ROLE_UNSPECIFIED),
        version=info.version,
        latency_ms=info.latency_ms,
        direct=info.direct,
        paths=[
            pb.Path(
                endpoint=path.endpoint,
                preferred=path.preferred,
                last_send_age_seconds=path.last_send_age,
                last_receive_age_seconds=path.last_receive_age,
            )
            for path in info.paths
        ],
    )


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
        address=f"{info.address:010x}",
        public_identity=info.public_identity,
        online=info.online,
        version=info.version,
        uptime_seconds=info.uptime,
        planet_id=info.planet_id,
        planet_timestamp_ms=info.planet_timestamp,
        listening=info.listening,
        surface_addresses=info.surface_addresses,
        workers=[worker(one) for one in info.workers],
        counters=info.counters,
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
