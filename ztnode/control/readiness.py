"""What the health service says beyond "the process answers": whether the node is online, its identity its own, and each
network usable.

The names are ``online``, ``identity`` and ``network/<nwid>``. That of a network that is not joined is unknown, as the
protocol wants it for services that are not there (grpc.health.v1, Check).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from grpc_health.v1 import health, health_pb2

from ztnode.node.api import JoinState, NodeApi
from ztnode.wire.address import format_nwid

ONLINE: Final = "online"
IDENTITY: Final = "identity"

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def publish(node: NodeApi, servicers: Sequence[health.aio.HealthServicer]) -> None:
    """Keep the health services as the node is, until it closes or this is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_publish_online(node, servicers))
        group.create_task(_publish_identity(node, servicers))
        group.create_task(_publish_networks(node, servicers))


async def _publish_online(node: NodeApi, servicers: Sequence[health.aio.HealthServicer]) -> None:
    async for online in node.watch_online():
        await _set(servicers, ONLINE, _SERVING if online else _NOT_SERVING)


async def _publish_identity(node: NodeApi, servicers: Sequence[health.aio.HealthServicer]) -> None:
    async for conflict in node.watch_identity():
        await _set(servicers, IDENTITY, _NOT_SERVING if conflict else _SERVING)


async def _publish_networks(node: NodeApi, servicers: Sequence[health.aio.HealthServicer]) -> None:
    shown: dict[int, int] = {}
    async for network in node.watch():
        left = network.state is JoinState.LEFT
        status = _UNKNOWN if left else _SERVING if network.state is JoinState.OK else _NOT_SERVING
        if shown.get(network.nwid, _UNKNOWN) != status:
            shown[network.nwid] = status
            await _set(servicers, f"network/{format_nwid(network.nwid)}", status)
        if left:
            shown.pop(network.nwid, None)


async def _set(servicers: Sequence[health.aio.HealthServicer], name: str, status: int) -> None:
    for servicer in servicers:
        await servicer.set(name, status)
