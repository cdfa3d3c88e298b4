"""The control channel between the node and a stack worker: typed messages in length-prefixed JSON.

A message on the wire is its length (u32, network byte order) and a JSON object whose ``type`` is the class name and
whose other members are the fields; bytes stand there in hexadecimal. Both sides validate all of it: names, types,
bounds. The channel is a stream socket pair; its end is the end of the worker.

Requests carry an ``id`` that the node chose; their one answer carries the same. What is handed to a client (a
connection, a UDP socket) is named by a ``token`` that the client shows on the worker's hand-off socket
(``handoff_server.py``). Addresses are numeric and in their usual form, port numbers in range: who asks the node has
been checked there, and who asks the stack for what it cannot do is told so by an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias, TypeVar, get_args

from ztnode.wire.endpoint import Endpoint

MAX_MESSAGE: Final = 1 << 20
"""Bytes of JSON in one message."""
MAX_TEXT: Final = 4096
"""Characters of one string."""
MAX_ITEMS: Final = 8192
"""Entries of one list or map."""
MAX_OCTETS: Final = 1 << 16
"""In one field of bytes."""
TOKEN_BYTES: Final = 16
LENGTH_BYTES: Final = 4
LANE: Final = 1 << 30
"""In the number of a record of the ring to the node: with that of a lane, a datagram or packet of its peer that the
node is to take."""
LANE_IDS: Final = 1 << 29
"""The same: the ids, 8 bytes each, of packets that the lane has taken."""
LANE_NUMBER: Final = LANE_IDS - 1
"""Mask of the lane's number."""
_V = TypeVar("_V")


class ProtocolError(ValueError):
    """The other side sent what no version of it sends. The channel cannot be used any more."""


PortRoute: TypeAlias = tuple[str, str | None]
"""Target in CIDR form and gateway address; no gateway means on-link."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Node → worker, first of all: be the worker ``index`` of ``workers`` with the hand-off socket at ``path``, which
    nobody else uses, the ephemeral ports from ``first_port`` to ``last_port`` and this congestion control."""

    index: int
    workers: int
    path: str
    first_port: int
    last_port: int
    congestion: str


@dataclass(frozen=True, slots=True)
class PortUp:
    """Node → worker: this network is now as described. An ``index`` that is up already is changed in place."""

    index: int
    nwid: int
    mac: int
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[PortRoute, ...]
    metric: int
    """Of several networks that have a route to an equal prefix, the lowest wins, then the lowest index."""
    multicast: bool = True
    """Whether the network carries multicast."""
    broadcast: bool = True
    """Whether the network carries broadcasts of IP."""


@dataclass(frozen=True, slots=True)
class PortDown:
    """Node → worker: the network is gone."""

    index: int


@dataclass(frozen=True, slots=True)
class LimitNeighbour:
    """Node → worker: IP packets of more than ``mtu`` bytes from the neighbour with this MAC do not get through to us;
    None: all do. Told again now and then for as long as it is so."""

    index: int
    mac: int
    mtu: int | None


@dataclass(frozen=True, slots=True)
class NeighbourReturned:
    """Node → worker: the neighbour with this MAC is heard again after a silence."""

    index: int
    mac: int


@dataclass(frozen=True, slots=True)
class LaneUp:
    """Node → worker, with the descriptor of a UDP socket that is connected to the peer: frames between the port
    ``index`` and the neighbour with ``peer_mac`` are sealed and opened by the worker while LaneTerms say so
    (``worker/lane.py``)."""

    id: int
    index: int
    nwid: int
    own: int
    peer: int
    """ZeroTier addresses."""
    own_mac: int
    peer_mac: int
    mtu: int
    """The longest datagram, bytes of UDP payload."""
    remembered: int
    """Packet ids in a generation of ``SeenIds``."""
    keys: bytes = field(repr=False)
    """Two of AES-GMAC-SIV, 32 bytes each."""
    seen: bytes = field(default=b"", repr=False)
    """Ids of packets that came before, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class LaneTerms:
    """Node → worker: until this moment, monotonic seconds, all frames of these EtherTypes pass, both ways."""

    id: int
    ethertypes: tuple[int, ...]
    until: float


@dataclass(frozen=True, slots=True)
class LaneSeen:
    """Node → worker: frames of the lane's peer that came by another way, such as by a root or in three pieces, and are
    replays when the lane brings them."""

    id: int
    ids: bytes
    """Of packets, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class LaneDown:
    """Node → worker: its frames go by the ring again."""

    id: int


@dataclass(frozen=True, slots=True)
class SetGateway:
    """Node → worker: carry on what comes for these networks (CIDR), in place of those of the last such message, with so
    many flows at a time at most."""

    targets: tuple[str, ...]
    flows: int


@dataclass(frozen=True, slots=True)
class Dial:
    """Node → worker: open a TCP connection. ``index`` None: whichever network has a route. ``timeout`` in
    seconds. ``nodelay`` False: small writes may wait to be joined (Nagle). ``congestion``: the name of its congestion
    control; empty: the worker's. Answer: Dialled or Failed."""

    id: int
    host: str
    port: int
    index: int | None
    timeout: float
    nodelay: bool = True
    congestion: str = ""


@dataclass(frozen=True, slots=True)
class Listen:
    """Node → worker: listen on TCP. ``host`` None: every address. ``nodelay`` and ``congestion``, of what is
    accepted, as in Dial. The listener is known by ``id`` from now on, and to its client, at the hand-off socket, by
    ``token``. Answer: Listening or Failed."""

    id: int
    host: str | None
    port: int
    index: int | None
    backlog: int
    token: bytes
    nodelay: bool = True
    congestion: str = ""


@dataclass(frozen=True, slots=True)
class Accept:
    """Node → worker: the next connection of a listener, when there is one. Answer: Accepted or Failed."""

    id: int
    listener: int


@dataclass(frozen=True, slots=True)
class OpenUdp:
    """Node → worker: a UDP socket; ``host`` None: every address; ``reuse``: others may have the same one. Answer:
    UdpOpened or Failed."""

    id: int
    host: str | None
    port: int
    index: int | None
    reuse: bool = False


@dataclass(frozen=True, slots=True)
class ConfigureUdp:
    """Node → worker: change one thing about the UDP socket that was opened with this ``token``. Answer: UdpConfigured
    or Failed (EBADF when this worker has no such socket).

    ========================  ===================================================================================
    ``join``, ``leave``       a multicast group, which is ``address``; ``source``: on the network on which this
                              address is ours (None: on all that the socket is on)
    ``multicast_source``      send to groups from ``address`` (None: as the routes have it)
    ``multicast_hops``        ``value``: TTL or hop limit of what is sent to groups
    ``multicast_loop``        ``value``: whether this host's own members get that, too
    ``broadcast``             ``value``: whether it may send to broadcast addresses
    ========================  ===================================================================================
    """

    id: int
    token: bytes
    option: str
    address: str | None
    source: str | None
    value: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Node → worker: one ICMP echo. Answer: Pong or Failed."""

    id: int
    host: str
    index: int | None
    size: int
    timeout: float


@dataclass(frozen=True, slots=True)
class FindNeighbour:
    """Node → worker: who is asked for packets to ``host``, within ``timeout`` seconds. Answer: NeighbourFound or
    Failed."""

    id: int
    host: str
    index: int | None
    timeout: float


@dataclass(frozen=True, slots=True)
class ListConnections:
    """Node → worker: the figures of its TCP connections, without the ``first`` ones. Answer: ConnectionList."""

    id: int
    first: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Node → worker: forget request ``id`` if it is not answered yet; close listener ``id``. No answer."""

    id: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Node → worker: what ``token`` names has no client yet; keep it for as long again."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Node → worker: nobody will fetch what ``token`` names."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """End in good order: peers and clients learn of it by a reset. Not by a signal, which a service manager or a
    terminal may send to the whole process group before the node knows that it is to stop."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker → node, first of all: the hand-off socket is open."""

    path: str


@dataclass(frozen=True, slots=True)
class Dialled:
    """Worker → node: connected; the client has a few seconds to fetch it."""

    id: int
    token: bytes
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class Opened:
    """Worker → node, at most once a second where they are few: how many seconds each connection took that its client
    asked the worker for."""

    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Listening:
    """Worker → node: the listener stands; ``local`` is what was bound."""

    id: int
    local: Endpoint


@dataclass(frozen=True, slots=True)
class Accepted:
    """Worker → node: a connection from ``remote``, to be fetched as a dialled one."""

    id: int
    token: bytes
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class UdpOpened:
    """Worker → node: the UDP socket is bound to ``local``."""

    id: int
    token: bytes
    local: Endpoint


@dataclass(frozen=True, slots=True)
class UdpConfigured:
    """Worker → node: it is so now."""

    id: int


@dataclass(frozen=True, slots=True)
class Groups:
    """Worker → node: sockets on the port ``index`` have joined the multicast groups with these ``macs``, and no others,
    beyond those that the managed addresses bring with them."""

    index: int
    macs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pong:
    """Worker → node: the echo came back after ``seconds``."""

    id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NeighbourFound:
    """Worker → node: the way to the host leads over this network, to the neighbour with this ``address`` (the host
    itself, or a gateway) and MAC."""

    id: int
    index: int
    address: str
    mac: int


@dataclass(frozen=True, slots=True)
class ConnectionList:
    """Worker → node: some connections, each as JSON: ``index`` of the network, ``local``, ``remote``, and what
    ``netstack/tcp/connection_info.py`` describes. ``more``: these are not the last ones."""

    id: int
    connections: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker → node: request ``id`` failed; ``errno`` as the kernel would give it, ``reason`` for a person."""

    id: int
    errno: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Worker → node, at most once a second and only after something happened: open connections, all counters, and
    ``gauges``, which go up and down."""

    connections: int
    counters: dict[str, int]
    gauges: dict[str, int]


@dataclass(frozen=True, slots=True)
class LaneUsed:
    """Worker → node, ten times a second at most and only after something happened: what a lane has carried since the
    last one. Bytes of frames include the Ethernet header; times are monotonic seconds."""

    id: int
    sent: int
    octets_sent: int
    received: int
    octets_received: int
    datagrams_sent: int
    datagram_octets_sent: int
    datagrams_received: int
    datagram_octets_received: int
    invalid: int
    """Packets in the peer's name that were not authentic."""
    duplicates: int
    dropped: int
    """Datagrams that the system did not take."""
    last_sent: float
    last_received: float


@dataclass(frozen=True, slots=True)
class LaneRefused:
    """Worker → node: it could not take this lane, such as for want of a descriptor."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Worker → node: something that a person should know; the worker goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dying:
    """Worker → node: why the worker ends; nothing comes after."""

    reason: str


Request: TypeAlias = Dial | Listen | Accept | OpenUdp | ConfigureUdp | Ping | FindNeighbour | ListConnections
ToWorker: TypeAlias = (
    Begin
    | PortUp
    | PortDown
    | LimitNeighbour
    | NeighbourReturned
    | LaneUp
    | LaneTerms
    | LaneSeen
    | LaneDown
    | SetGateway
    | Request
    | Cancel
    | Renew
    | Withdraw
    | Stop
)
Answer: TypeAlias = (
    Dialled | Listening | Accepted | UdpOpened | UdpConfigured | Pong | NeighbourFound | ConnectionList | Failed
)
ToNode: TypeAlias = Ready | Answer | Opened | Groups | Stats | LaneUsed | LaneRefused | Trouble | Dying
Message: TypeAlias = ToWorker | ToNode

_TYPES: Final[dict[str, type[Message]]] = {kind.__name__: kind for kind in get_args(Message)}


def build(message: Message) -> bytes:
    """One message as it goes onto the channel. Raises ProtocolError above ``MAX_MESSAGE``."""
    kind = type(message)
    body: dict[str, Any] = {"type": kind.__name__}
    for name in _VALIDATORS[kind]:
        body[name] = getattr(message, name)
    data = json.dumps(body, separators=(",", ":"), default=bytes.hex).encode()
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"a {kind.__name__} of {len(data)} bytes is too long for the control channel")
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def parse(data: bytes) -> Message:
    """One message from its JSON. Raises ProtocolError."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("control message is not JSON") from error
    if not isinstance(body, dict):
        raise ProtocolError("control message is not an object")
    name = body.pop("type", None)
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(f"unknown control message {str(name)[:40]!r}")
    validators = _VALIDATORS[kind]
    if body.keys() != validators.keys():
        raise ProtocolError(f"{name} with fields {sorted(map(str, body))[:20]}")
    try:
        make: Callable[..., Message] = kind
        return make(**{key: validators[key](value) for key, value in body.items()})
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"{name}: {error}") from error


class MessageStream:
    """Cuts a byte stream into messages; holds at most one message and one read in memory."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Raises ProtocolError."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if length > MAX_MESSAGE:
                raise ProtocolError(f"control message of {length} bytes")
            end = start + LENGTH_BYTES + length
            if end > len(buffer):
                break
            messages.append(parse(bytes(buffer[start + LENGTH_BYTES : end])))
            start = end
        del buffer[:start]
        return messages


def _int(value: object) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
        raise ValueError("an integer was expected")
    return value


def _float(value: object) -> float:
    if type(value) not in (int, float) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise ValueError("a number was expected")
    return float(value)


def _str(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError("a short string was expected")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("a truth value was expected")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * MAX_OCTETS:
        raise ValueError("bytes in hexadecimal digits were expected")
    return bytes.fromhex(value)


def _optional(validator: Callable[[object], _V]) -> Callable[[object], _V | None]:
    return lambda value: None if value is None else validator(value)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise ValueError("a list was expected")
    return value


def _endpoint(value: object) -> Endpoint:
    host, port = _list(value)
    return _str(host), _int(port)


def _strings(value: object) -> tuple[str, ...]:
    return tuple(_str(item) for item in _list(value))


def _ints(value: object) -> tuple[int, ...]:
    return tuple(_int(item) for item in _list(value))


def _floats(value: object) -> tuple[float, ...]:
    return tuple(_float(item) for item in _list(value))


def _routes(value: object) -> tuple[PortRoute, ...]:
    return tuple((_str(target), _optional(_str)(via)) for target, via in _list(value))


def _counters(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise ValueError("a map was expected")
    return {_str(key): _int(count) for key, count in value.items()}


# By the annotation as written: resolving annotations with typing.get_type_hints would cost more at start-up
# than the rest of this module.
_BY_ANNOTATION: Final = {
    "int": _int,
    "float": _float,
    "str": _str,
    "bytes": _bytes,
    "bool": _bool,
    "int | None": _optional(_int),
    "str | None": _optional(_str),
    "bytes | None": _optional(_bytes),
    "Endpoint": _endpoint,
    "tuple[str, ...]": _strings,
    "tuple[int, ...]": _ints,
    "tuple[float, ...]": _floats,
    "tuple[PortRoute, ...]": _routes,
    "dict[str, int]": _counters,
}
_VALIDATORS: Final = {
    kind: {each.name: _BY_ANNOTATION[str(each.type)] for each in fields(kind)} for kind in _TYPES.values()
}
