"""What a node says of itself, as plain values. Forms are those of ``proto/ztnode/v1/node.proto``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ztclient import times

if TYPE_CHECKING:
    from ztclient.v1 import node_pb2 as pb

NETWORK_STATES = (
    "unspecified",
    "requesting",
    "waiting_for_authorization",
    "not_found",
    "authentication_required",
    "ok",
    "left",
)
"""``Network.state`` by the number of NetworkState in the protocol."""

PEER_ROLES = ("unspecified", "planet", "moon", "leaf")
"""``Peer.role`` by the number of PeerRole in the protocol."""


@dataclass(frozen=True, slots=True)
class Route:
    """A managed route: ``target`` in CIDR form, ``via`` a gateway or None for on-link."""

    target: str
    via: str | None
    metric: int


@dataclass(frozen=True, slots=True)
class Network:
    """A joined network. ``state`` is one of NETWORK_STATES; ``detail`` one line on it that a person can act on."""

    nwid: str
    name: str
    state: str
    detail: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    """Managed addresses of this node, CIDR."""
    routes: tuple[Route, ...]
    dns_domain: str
    dns_servers: tuple[str, ...]
    private: bool
    broadcast: bool
    revision: int
    authentication_url: str
    from_cache: bool
    """True while the configuration is the one kept on disk and the controller has not confirmed it yet."""
    allow_default: bool = False
    """True where the node follows default routes of the network."""
    clock_offset: float | None = field(default=None, compare=False)
    """Seconds by which the controller's clock was ahead of this node's when the last configuration came; None: none
    has come since the node started."""

    @property
    def ready(self) -> bool:
        """True once the network is configured and can be used."""
        return self.state == "ok"


@dataclass(frozen=True, slots=True)
class GatewayRoute:
    """A managed route by which members reach this node as a gateway: ``via`` is its address there."""

    nwid: str
    target: str
    via: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """How it stands with a gateway. ``unrouted``: those of its targets that no managed route covers whole;
    ``ping_ipv4`` and ``ping_ipv6``: whether the host's kernel lets pings be passed on."""

    routes: tuple[GatewayRoute, ...]
    unrouted: tuple[str, ...]
    ping_ipv4: bool
    ping_ipv6: bool


@dataclass(frozen=True, slots=True)
class ManagedAddress:
    """An address that the node holds on a network."""

    nwid: str
    ip: str
    prefix_length: int


@dataclass(frozen=True, slots=True)
class Path:
    """A physical path to a peer. Ages in seconds, None: never."""

    endpoint: str
    preferred: bool
    last_send_age: float | None
    last_receive_age: float | None


@dataclass(frozen=True, slots=True)
class Peer:
    """Another ZeroTier node. ``latency_ms`` is None while unknown; ``direct`` False where a root relays."""

    address: str
    role: str
    version: str
    latency_ms: float | None
    direct: bool
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class MoonRoot:
    """A root of a moon; without ``endpoints`` it is looked for through other roots."""

    address: str
    public_identity: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moon:
    """A moon that is orbited or looked for: then ``seed`` is whom the node asks for it, ``timestamp`` 0 and ``roots``
    empty. ``timestamp`` is in milliseconds of Unix time."""

    id: str
    seed: str | None
    timestamp: int
    roots: tuple[MoonRoot, ...]

    @property
    def known(self) -> bool:
        """True once the node has the moon."""
        return self.seed is None


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection of the overlay with its figures: times in milliseconds, None while unknown, sizes in bytes;
    ``ssthresh`` None: none yet; ``pacing_rate`` in bytes a second, 0: the window alone decides."""

    local: tuple[str, int]
    remote: tuple[str, int]
    state: str
    worker: int
    congestion: str
    phase: str
    rtt_ms: float | None
    rtt_variation_ms: float | None
    rto_ms: float
    mss: int
    cwnd: int
    ssthresh: int | None
    pacing_rate: float
    send_window: int
    unsent: int
    unacked: int
    receive_window: int
    retransmits: int
    timeouts: int


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The rules of a network as in ZeroTier One's controller API, the capabilities of this node (objects with ``id``
    and ``rules``), and its tags (number and value)."""

    rules: tuple[dict[str, Any], ...]
    capabilities: tuple[dict[str, Any], ...]
    tags: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Whois:
    """Who has an overlay address. ``public_identity`` is empty and ``peer`` None while the node has not met it;
    ``gateway`` is the next hop whose member this is, where a managed route leads over one, else None; ``name`` is what
    the network's controller calls the member, empty on every other node."""

    ip: str
    nwid: str
    address: str
    mac: str
    name: str
    gateway: str | None
    public_identity: str
    peer: Peer | None


@dataclass(frozen=True, slots=True)
class Worker:
    """One stack worker process."""

    index: int
    pid: int
    connections: int
    restarts: int
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """The node as a whole. ``uptime`` in seconds, ``planet_timestamp`` in milliseconds of Unix time."""

    address: str
    public_identity: str
    online: bool
    version: str
    uptime: float
    planet_id: int
    planet_timestamp: int
    listening: tuple[str, ...]
    surface_addresses: tuple[str, ...]
    workers: tuple[Worker, ...]
    counters: dict[str, int]
    identity_conflict: str = ""
    """One line that a person can act on, while another host seems to use this node's identity."""
    transport: str = "udp"
    """What carries packets into the internet now: ``udp``, ``tcp://HOST:PORT`` (a TCP relay), ..."""
    mapped_address: str = ""
    """Where a router forwards to the node; empty where none does."""


def network(message: pb.Network) -> Network:
    """A Network from its message."""
    return Network(
        nwid=message.network_id,
        name=message.name,
        state=_name(NETWORK_STATES, message.state),
        detail=message.detail,
        mac=message.mac,
        mtu=message.mtu,
        addresses=tuple(message.addresses),
        routes=tuple(Route(route.target, route.via or None, route.metric) for route in message.routes),
        dns_domain=message.dns_domain,
        dns_servers=tuple(message.dns_servers),
        private=message.private,
        broadcast=message.broadcast,
        revision=message.revision,
        authentication_url=message.authentication_url,
        from_cache=message.from_cache,
        allow_default=message.allow_default,
        clock_offset=times.seconds(message.clock_offset) if message.HasField("clock_offset") else None,
    )


def gateway(message: pb.GatewayResponse) -> Gateway:
    """A Gateway from its message."""
    return Gateway(
        tuple(GatewayRoute(route.network_id, route.target, route.via) for route in message.routes),
        tuple(message.unrouted),
        message.ping_ipv4,
        message.ping_ipv6,
    )


def peer(message: pb.Peer) -> Peer:
    """A Peer from its message."""
    return Peer(
        address=message.address,
        role=_name(PEER_ROLES, message.role),
        version=message.version,
        latency_ms=round(times.seconds(message.latency) * 1e3, 6) if message.HasField("latency") else None,
        direct=message.direct,
        paths=tuple(_path(path) for path in message.paths),
    )


def moon(message: pb.Moon) -> Moon:
    """A Moon from its message."""
    return Moon(
        id=message.id,
        seed=message.seed or None,
        timestamp=times.milliseconds(message.signed_at),
        roots=tuple(MoonRoot(root.address, root.public_identity, tuple(root.endpoints)) for root in message.roots),
    )


def connection(message: pb.TcpConnection) -> Connection:
    """A Connection from its message."""
    known = message.HasField("rtt")
    return Connection(
        local=(message.local.ip, message.local.port),
        remote=(message.remote.ip, message.remote.port),
        state=message.state,
        worker=message.worker,
        congestion=message.congestion,
        phase=message.phase,
        rtt_ms=round(times.seconds(message.rtt) * 1e3, 6) if known else None,
        rtt_variation_ms=round(times.seconds(message.rtt_variation) * 1e3, 6) if known else None,
        rto_ms=round(times.seconds(message.rto) * 1e3, 6),
        mss=message.mss,
        cwnd=message.cwnd,
        ssthresh=message.ssthresh or None,
        pacing_rate=message.pacing_rate,
        send_window=message.send_window,
        unsent=message.unsent,
        unacked=message.unacked,
        receive_window=message.receive_window,
        retransmits=message.retransmits,
        timeouts=message.timeouts,
    )


def network_rules(message: pb.GetRulesResponse) -> NetworkRules:
    """NetworkRules from their message."""
    return NetworkRules(
        rules=tuple(json.loads(message.rules_json)),
        capabilities=tuple(json.loads(message.capabilities_json)),
        tags=tuple((tag.id, tag.value) for tag in message.tags),
    )


def whois(ip: str, message: pb.WhoisResponse) -> Whois:
    """A Whois from its message."""
    return Whois(
        ip=ip,
        nwid=message.network_id,
        address=message.address,
        mac=message.mac,
        name=message.member_name,
        gateway=message.gateway or None,
        public_identity=message.public_identity,
        peer=peer(message.peer) if message.HasField("peer") else None,
    )


def _path(message: pb.Path) -> Path:
    return Path(
        endpoint=message.endpoint,
        preferred=message.preferred,
        last_send_age=times.seconds(message.last_send_age) if message.HasField("last_send_age") else None,
        last_receive_age=times.seconds(message.last_receive_age) if message.HasField("last_receive_age") else None,
    )


def status(message: pb.StatusResponse) -> Status:
    """A Status from its message."""
    return Status(
        address=message.address,
        public_identity=message.public_identity,
        online=message.online,
        version=message.version,
        uptime=times.seconds(message.uptime),
        planet_id=message.planet_id,
        planet_timestamp=times.milliseconds(message.planet_signed_at),
        listening=tuple(message.listening),
        surface_addresses=tuple(message.surface_addresses),
        workers=tuple(
            Worker(worker.index, worker.pid, worker.connections, worker.restarts, dict(worker.counters))
            for worker in message.workers
        ),
        counters=dict(message.counters),
        identity_conflict=message.identity_conflict,
        transport=message.transport or "udp",
        mapped_address=message.mapped_address,
    )


def _name(names: tuple[str, ...], number: int) -> str:
    # A newer node may know states that this client does not.
    return names[number] if 0 <= number < len(names) else names[0]
