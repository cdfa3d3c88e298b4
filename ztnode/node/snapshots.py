"""From the layers' own objects to the values that the control plane shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from ztnode.node.api import JoinState, MoonInfo, NetworkInfo, NetworkRules, PathInfo, PeerInfo, RouteInfo
from ztnode.node.network_settings import DEFAULTS, NetworkSettings
from ztnode.vl1 import Path, Peer
from ztnode.vl2 import NetworkSnapshot
from ztnode.wire.endpoint import format_endpoint
from ztnode.wire.network_config import NetworkConfig
from ztnode.wire.world import World

_MOST_SECONDS = 1e10


def prefixed(layer: str, counters: Mapping[str, int]) -> dict[str, int]:
    """Counters with the layer's name in front of each."""
    return {f"{layer}.{name}": count for name, count in sorted(counters.items())}


def network(snapshot: NetworkSnapshot, now: float, wall: int, settings: NetworkSettings = DEFAULTS) -> NetworkInfo:
    """One joined network, with as much of its addresses and routes as the user lets it have. ``now``: monotonic
    seconds; ``wall``: Unix milliseconds."""
    offset = None
    if snapshot.received_at is not None:
        offset = snapshot.issued_at / 1000 - (wall / 1000 - (now - snapshot.received_at))
        offset = max(-_MOST_SECONDS, min(offset, _MOST_SECONDS))  # a controller can say anything
    return NetworkInfo(
        nwid=snapshot.nwid,
        name=snapshot.name,
        state=JoinState(snapshot.status.value),
        detail=snapshot.detail,
        mac=snapshot.mac,
        mtu=snapshot.mtu,
        addresses=tuple(filter(settings.allows_address, map(str, snapshot.addresses))),
        routes=tuple(
            RouteInfo(str(route.target), None if route.via is None else str(route.via), route.metric)
            for route in snapshot.routes
            if settings.allows_route(str(route.target))
        ),
        dns_domain=snapshot.dns.domain,
        dns_servers=tuple(str(server) for server in snapshot.dns.servers),
        private=snapshot.private,
        broadcast=snapshot.broadcast,
        revision=snapshot.revision,
        authentication_url=snapshot.sso.authentication_url,
        from_cache=snapshot.from_cache,
        settings=settings,
        multicast_limit=snapshot.multicast_limit,
        sign_on=snapshot.sso,
        clock_offset=offset,
    )


def rules(config: NetworkConfig) -> NetworkRules:
    """What a configuration has of rules."""
    return NetworkRules(
        config.rules,
        tuple((each.id, each.rules) for each in config.capabilities),
        tuple((tag.id, tag.value) for tag in config.tags),
    )


def with_log_in(info: NetworkInfo, url: str, detail: str) -> NetworkInfo:
    """A network whose controller leaves it to us to say where to log in."""
    if info.state is not JoinState.AUTHENTICATION_REQUIRED or info.sign_on.version != 1:
        return info
    if not url:
        detail = detail or f"asking {info.sign_on.issuer_url} where to log in"
    return dataclasses.replace(info, authentication_url=url, detail=detail or info.detail)


def left(info: NetworkInfo) -> NetworkInfo:
    """The last that watchers see of a network."""
    return dataclasses.replace(info, state=JoinState.LEFT, detail="left", addresses=(), routes=())


def peer(value: Peer, roots: Collection[int], moon_roots: Collection[int], now: float) -> PeerInfo:
    """One peer; ``roots`` and ``moon_roots`` are the addresses of those that have these roles."""
    role = "planet" if value.address in roots else "moon" if value.address in moon_roots else "leaf"
    known = value.version != (0, 0, 0)
    return PeerInfo(
        address=value.address,
        role=role,
        version=".".join(map(str, value.version)) if known else "",
        latency_ms=-1.0 if value.latency is None else value.latency * 1000,
        direct=value.path is not None,
        paths=tuple(_path(path, value.path, now) for path in value.paths.values()),
    )


def moon(value: World) -> MoonInfo:
    """One moon that is known."""
    return MoonInfo(
        id=value.id,
        seed=None,
        timestamp=value.timestamp,
        roots=tuple(
            (root.identity.address, root.identity.build_text(), tuple(map(format_endpoint, root.endpoints)))
            for root in value.roots
        ),
        signature=value.signature,
        updates_signed_by=value.updates_signed_by,
    )


def _path(value: Path, preferred: Path | None, now: float) -> PathInfo:
    return PathInfo(
        endpoint=format_endpoint(value.endpoint),
        preferred=value is preferred,
        last_send_age=max(0.0, now - value.last_send),
        last_receive_age=max(0.0, now - value.last_receive),
    )
