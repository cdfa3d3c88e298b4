"""The node's state in the members that the reference's service API has (OneService.cpp, ``_networkToJson``,
``_peerToJson``, ``_moonToJson`` and the handler of ``/status``)."""

from __future__ import annotations

from typing import Any, Final

from ztnode.node.api import JoinState, MoonInfo, NetworkInfo, NodeStatus, PeerInfo
from ztnode.node.network_settings import NAMES
from ztnode.wire.address import format_address, format_nwid
from ztnode.wire.mac import format_mac
from ztnode.wire.world import format_world_id

REFERENCE: Final = (1, 14, 1)
"""The release whose API this is; clients ask for the version to know what they may use."""

STATES: Final = {
    JoinState.REQUESTING: "REQUESTING_CONFIGURATION",
    JoinState.WAITING_FOR_AUTHORIZATION: "ACCESS_DENIED",
    JoinState.NOT_FOUND: "NOT_FOUND",
    JoinState.AUTHENTICATION_REQUIRED: "AUTHENTICATION_REQUIRED",
    JoinState.OK: "OK",
    JoinState.LEFT: "REQUESTING_CONFIGURATION",
}
NO_DEVICE: Final = "ztnode"
"""There is no network device."""

Json = dict[str, Any]


def version(numbers: tuple[int, int, int], *, build: int | None = None) -> Json:
    """Four members, or three without a ``build``."""
    major, minor, revision = numbers
    shown: Json = {"version": f"{major}.{minor}.{revision}", "versionMajor": major}
    shown |= {"versionMinor": minor, "versionRev": revision}
    return shown if build is None else shown | {"versionBuild": build}


def health(status: NodeStatus, clock: int) -> Json:
    """``/health``; ``clock``: Unix time in milliseconds."""
    return {"online": status.online, "clock": clock, **version(REFERENCE, build=0)}


def status(node: NodeStatus, clock: int, home: str, local_conf: Json) -> Json:
    """``/status``."""
    ports = sorted({int(endpoint.rpartition(":")[2]) for endpoint in node.listening})
    given = local_conf.get("settings")
    settings = {
        "allowTcpFallbackRelay": node.tcp_relay_use == "auto",
        "forceTcpRelay": node.tcp_relay_use == "force",
        "portMappingEnabled": node.port_mapping,
        "softwareUpdate": "disable",
        "softwareUpdateChannel": "release",
        **(given if isinstance(given, dict) else {}),
        "homeDir": home,
        "listeningOn": [slashed(endpoint) for endpoint in node.listening],
        "surfaceAddresses": [slashed(endpoint) for endpoint in node.surface_addresses],
        "primaryPort": ports[0] if ports else 0,
        "secondaryPort": 0,
        "tertiaryPort": 0,
    }
    return {
        "address": format_address(node.address),
        "publicIdentity": node.public_identity,
        "online": node.online,
        "tcpFallbackActive": node.tcp_relay,
        "clock": clock,
        "config": {**local_conf, "settings": settings},
        "planetWorldId": node.planet_id,
        "planetWorldTimestamp": node.planet_timestamp,
        **version(REFERENCE, build=0),
    }


def network(info: NetworkInfo) -> Json:
    """``/network/<nwid>``."""
    nwid = format_nwid(info.nwid)
    shown: Json = {
        "id": nwid,
        "nwid": nwid,
        "mac": format_mac(info.mac),
        "name": info.name,
        "status": STATES[info.state],
        "type": "PRIVATE" if info.private else "PUBLIC",
        "mtu": info.mtu,
        "dhcp": False,
        "bridge": False,
        "broadcastEnabled": info.broadcast,
        "portError": 0,
        "netconfRevision": info.revision,
        "portDeviceName": NO_DEVICE,
        "assignedAddresses": list(info.addresses),
        "routes": [
            {"target": route.target, "via": route.via, "flags": 0, "metric": route.metric} for route in info.routes
        ],
        "multicastSubscriptions": [],
        "dns": {"domain": info.dns_domain, "servers": list(info.dns_servers)},
        **{key: getattr(info.settings, name) for name, key in NAMES.items()},
    }
    if info.authentication_url:
        shown |= {"authenticationURL": info.authentication_url, "authenticationExpiryTime": 0, "ssoEnabled": True}
    return shown


def peer(info: PeerInfo, clock: int, port: int) -> Json:
    """``/peer/<address>``; ``port``: the node's own UDP port."""
    known = info.version.split(".") if info.version else ["-1"] * 3
    major, minor, revision = map(int, known[:3])
    return {
        "address": format_address(info.address),
        "latency": round(info.latency_ms) if info.latency_ms >= 0 else -1,
        "role": info.role.upper(),
        "isBonded": False,
        "tunneled": False,
        **version((major, minor, revision)),
        "paths": [
            {
                "address": slashed(path.endpoint),
                "lastSend": _time(path.last_send_age, clock),
                "lastReceive": _time(path.last_receive_age, clock),
                "trustedPathId": 0,
                "active": True,
                "expired": False,
                "preferred": path.preferred,
                "localSocket": 0,
                "localPort": port,
            }
            for path in info.paths
        ],
    }


def moon(info: MoonInfo) -> Json:
    """``/moon/<id>``."""
    waiting = info.seed is not None
    return {
        "id": format_world_id(info.id),
        "timestamp": info.timestamp,
        "signature": None if waiting else info.signature.hex(),
        "updatesMustBeSignedBy": None if waiting else info.updates_signed_by.hex(),
        "roots": [
            {"identity": identity, "stableEndpoints": [slashed(endpoint) for endpoint in endpoints]}
            for _, identity, endpoints in info.roots
        ],
        "waiting": waiting,
    }


def slashed(endpoint: str) -> str:
    """``192.0.2.1:9993`` and ``[2001:db8::1]:9993`` as the reference writes them: with a slash and without brackets."""
    host, _, port = endpoint.rpartition(":")
    return f"{host.strip('[]')}/{port}"


def _time(age: float, clock: int) -> int:
    return 0 if age < 0 else clock - int(age * 1000)
