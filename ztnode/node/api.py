"""The node as control/ sees it: values to show and one interface to act on. Nothing here does I/O."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ztnode.node.network_settings import DEFAULTS, NetworkSettings
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.network_config import SingleSignOn
from ztnode.wire.rules import Rule


class JoinState(enum.Enum):
    """Where a membership stands, as a person reads it."""

    REQUESTING = "requesting"
    WAITING_FOR_AUTHORIZATION = "waiting_for_authorization"
    NOT_FOUND = "not_found"
    AUTHENTICATION_REQUIRED = "authentication_required"
    OK = "ok"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A managed route: ``target`` in CIDR form; ``via`` a gateway address or None for on-link."""

    target: str
    via: str | None
    metric: int = 0


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One joined network. ``addresses`` are managed IPs in CIDR form. ``detail`` is one line a person can act on."""

    nwid: int
    name: str
    state: JoinState
    detail: str
    mac: int
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[RouteInfo, ...]
    dns_domain: str
    dns_servers: tuple[str, ...]
    private: bool
    broadcast: bool
    revision: int
    authentication_url: str
    """Where a person logs in; empty while there is no URL, and ``detail`` says why."""
    from_cache: bool
    """True while the configuration is the one kept on disk, not yet confirmed by the controller."""
    settings: NetworkSettings = DEFAULTS
    """What the user lets it do; ``addresses`` and ``routes`` are what that leaves."""
    multicast_limit: int = 32
    """Members that one multicast frame reaches at most; 0: there is no multicast."""
    sign_on: SingleSignOn = field(default_factory=SingleSignOn)
    """What a URL is made from where the controller gives none."""
    clock_offset: float | None = field(default=None, compare=False)
    """Seconds by which the controller's clock was ahead of this host's when the last configuration came; None: none has
    come since the start."""


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The rules of a network, and what this node has beside: its capabilities (number and rules of each) and tags
    (number and value)."""

    rules: tuple[Rule, ...]
    capabilities: tuple[tuple[int, tuple[Rule, ...]], ...]
    tags: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """What a gateway of this node leads to. ``routed``: the network, target and gateway of each managed route by which
    members reach some of it; ``unrouted``: what was named and no such route covers. ``ping``: versions of IP in which
    the host lets pings be passed on."""

    routed: tuple[tuple[int, str, str], ...]
    unrouted: tuple[str, ...]
    ping: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PathInfo:
    """A physical path. Ages in seconds, negative: never."""

    endpoint: str
    preferred: bool
    last_send_age: float
    last_receive_age: float


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One peer. ``role`` is planet, moon or leaf; ``latency_ms`` is negative while unknown."""

    address: int
    role: str
    version: str
    latency_ms: float
    direct: bool
    paths: tuple[PathInfo, ...]


@dataclass(frozen=True, slots=True)
class Whois:
    """Who has an overlay address. ``gateway``: the managed route's next hop, whose member this is then; None where it
    is the address's own. ``public_identity`` and ``peer`` are empty and None while the node has not met it; ``name`` is
    what this node, where it is the network's controller, knows the member by."""

    ip: str
    gateway: str | None
    nwid: int
    mac: int
    address: int
    public_identity: str
    peer: PeerInfo | None
    name: str


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One TCP connection of the overlay: the worker that has it, and ``figures`` of
    ``netstack/tcp/connection_info.py``, with ``local`` and ``remote`` (IP and port) and ``index`` of the network."""

    worker: int
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One stack worker process."""

    index: int
    pid: int
    connections: int
    restarts: int
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    """TCP connections by state (``tcp_established`` and the like), and of their round trips the sum, the longest and
    how many there are: ``rtt_sum`` and ``rtt_max`` in microseconds, ``rtt_count``."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The node as a whole. ``uptime`` in seconds."""

    address: int
    public_identity: str
    online: bool
    version: str
    uptime: float
    planet_id: int
    planet_timestamp: int
    listening: tuple[str, ...]
    surface_addresses: tuple[str, ...]
    workers: tuple[WorkerInfo, ...]
    counters: dict[str, int]
    identity_conflict: str = ""
    """One line that a person can act on, while another host seems to use this node's identity."""
    transport: str = "udp"
    """What carries packets into the internet now."""
    mapped_address: str = ""
    """Where a router forwards to the node, as ``listening``."""
    tcp_relay: bool = False
    """Packets go by a TCP relay now."""
    tcp_relay_use: str = "off"
    """Whether they ever do: auto, force, off."""
    port_mapping: bool = False
    """The router before us is asked for a port where a NAT is between."""


@dataclass(frozen=True, slots=True)
class MoonInfo:
    """One moon. ``seed``: who is asked for it, while it is not known yet; then ``timestamp`` is 0 and there are no
    ``roots``: address, public identity and stable endpoints of each."""

    id: int
    seed: int | None
    timestamp: int
    roots: tuple[tuple[int, str, tuple[str, ...]], ...]
    signature: bytes = b""
    """96 bytes, by the key that the version before this one named."""
    updates_signed_by: bytes = b""
    """64 bytes: the public key that must sign the next version."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """Where a local client fetches its connected socket: connect to the Unix socket ``path``, send ``token``,
    receive one file descriptor (SCM_RIGHTS). ``local`` and ``remote`` are the overlay endpoints."""

    path: str
    token: bytes
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a client may choose of a TCP connection."""

    nodelay: bool = True
    """False: small writes may wait for the peer's acknowledgment, to be joined (Nagle)."""
    congestion: str = ""
    """The name of its congestion control, one of ``netstack.tcp.congestion``; empty: the node's."""


DEFAULT_STREAM: Final = StreamOptions()


class DialError(OSError):
    """A dial, listen or accept that failed; ``errno`` as the kernel would give it, ``strerror`` for a person."""


class NodeApi(Protocol):
    """What the control plane may ask of a running node. All methods run on the node's event loop."""

    def status(self) -> NodeStatus: ...
    def networks(self) -> Sequence[NetworkInfo]: ...
    def network(self, nwid: int) -> NetworkInfo | None: ...
    def peers(self) -> Sequence[PeerInfo]: ...

    def peer(self, address: int) -> PeerInfo | None:
        """The one with this ZeroTier address; None while the node does not know it."""

    def peer_traffic(self, address: int) -> tuple[int, int] | None:
        """Packets that came from a peer and that went to it so far; None while the node does not know it."""

    def network_traffic(self, nwid: int) -> tuple[int, int] | None:
        """Bytes of the Ethernet frames that came from members of a network and that went to them so far; None: it is
        not joined."""

    def moons(self) -> Sequence[MoonInfo]: ...

    async def orbit(self, moon: int, seed: int) -> MoonInfo:
        """Orbit the moon with this world id, which its root ``seed`` is asked for. Returns at once with what is known
        of it. Raises ValueError for one too many, OSError if it cannot be kept on disk."""

    async def orbit_world(self, data: bytes) -> MoonInfo:
        """Orbit the moon of a moon file, in place of an older one too. Raises ValueError, OSError."""

    async def deorbit(self, moon: int) -> None:
        """Leave a moon. Raises KeyError if there is none."""

    async def join(self, nwid: int, auth_token: str = "", *, allow_default: bool | None = None) -> NetworkInfo:
        """Join (idempotent); returns at once with the state so far. ``auth_token``: what the controller may let us in
        for, kept until the network is left. ``allow_default``: whether to follow default routes of the network from now
        on (None: as before). Raises OSError if it cannot be kept on disk."""

    async def set_network(self, nwid: int, settings: Mapping[str, bool]) -> NetworkInfo:
        """Change what the user lets a joined network do: fields of NetworkSettings. Raises KeyError if it is not
        joined, OSError if that cannot be kept on disk."""

    async def leave(self, nwid: int) -> None:
        """Leave and forget. Raises KeyError if not joined."""

    def watch(self) -> AsyncIterator[NetworkInfo]:
        """Every network as it is now, then each again whenever it changes (one that was left: state LEFT);
        a slow reader gets the newest state only."""

    def watch_online(self) -> AsyncIterator[bool]:
        """Whether a root answers: as it is now, then again whenever it changes."""

    def watch_identity(self) -> AsyncIterator[str]:
        """``NodeStatus.identity_conflict`` as it is now, then again whenever it changes."""

    @property
    def direct_dials(self) -> bool:
        """Whether clients of this machine may ask the stack worker itself for connections: where there is one worker,
        and nobody wants to see each dial."""

    async def dial(
        self,
        host: str,
        port: int,
        *,
        nwid: int | None = None,
        timeout: float = 30.0,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> Handoff:
        """Open a TCP connection to a numeric address. ``host`` is in its usual form and ``port`` in range: that is for
        whoever takes them from outside to check. Raises DialError (EINVAL for a congestion control that there is
        not)."""

    async def listen(
        self,
        host: str | None,
        port: int,
        *,
        nwid: int | None = None,
        backlog: int = 128,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> tuple[int, Endpoint]:
        """Listen on a managed address (None, "0.0.0.0" or "::": all of them); returns a listener id and what was bound.
        ``options``: of what is accepted. Raises DialError as ``dial`` does."""

    def open_gateway(self, targets: Sequence[str], excepted: Sequence[str] = (), *, flows: int = 0) -> int:
        """Carry on what members send to these networks (CIDR) but for those ``excepted``, as the gateway of managed
        routes, with the host's own sockets and ``flows`` of them at a time at most (0: the usual number). Returns a
        number for it. Raises ValueError."""

    def gateway(self, gateway: int) -> GatewayInfo:
        """How it stands with one. Raises KeyError if unknown."""

    def close_gateway(self, gateway: int) -> None:
        """Lead there no more; flows that only this one allowed end. Raises KeyError if unknown."""

    async def whois(self, ip: str, *, nwid: int | None = None) -> Whois:
        """Who has an address on a network. Raises DialError when nobody answers for it."""

    def rules(self, nwid: int) -> NetworkRules | None:
        """Those of the configuration in force; None while there is none. Raises KeyError if the network is not
        joined."""

    async def connections(self) -> Sequence[ConnectionInfo]:
        """The TCP connections of the overlay, in no order. Raises DialError."""

    def attended(self, listener: int) -> Handoff | None:
        """By which path and token a client of this machine has the stack worker itself bring it the listener's
        connections, ``remote`` meaning nothing; None: it asks ``accept`` for each. Raises KeyError if unknown."""

    async def accept(self, listener: int) -> Handoff:
        """The next connection, waiting for it. Raises DialError when the listener is closed, KeyError if unknown."""

    async def close_listener(self, listener: int) -> None:
        """Stop listening. Raises KeyError if unknown."""

    async def open_udp(self, host: str | None, port: int, *, nwid: int | None = None, reuse: bool = False) -> Handoff:
        """A UDP socket on a managed address, a multicast group, or (None, "0.0.0.0" or "::") all addresses; others that
        say ``reuse`` may have the same one. ``Handoff.remote`` means nothing. Raises DialError."""

    async def configure_udp(
        self, token: bytes, option: str, *, address: str | None = None, source: str | None = None, value: int = 0
    ) -> None:
        """Change the UDP socket that was opened with ``token``: ``option`` and what it takes are those of
        ``ztnode.worker.protocol.ConfigureUdp``. Raises DialError."""

    async def ping(self, host: str, *, nwid: int | None = None, size: int = 56, timeout: float = 3.0) -> float:
        """Seconds from an ICMP echo with ``size`` bytes of payload to its reply. Raises DialError, ValueError."""

    def capture(self, nwid: int, *, snaplen: int = 65535) -> AsyncIterator[bytes]:
        """The network's decrypted Ethernet frames as pcapng blocks, from now on."""
