"""What the health service says beyond "the process answers": whether the node is online, and each network usable.

The names are ``online`` and ``network/<nwid>``. That of a network that is not joined is unknown, as the protocol wants
it for services that are not there (grpc.health.v1, Check).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from grpc_health.v1 import health, health_pb2

from ztnode.node.api import JoinState, NodeApi
from ztnode.wire.address import format_nwid

ONLINE: Final = "online"
PERIOD: Final = 1.0
"""Seconds between two looks. A look costs some microseconds, and probes ask every few seconds."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def readiness(node: NodeApi) -> dict[str, bool]:
    """Whether the node is online, and whether each joined network can be used, by the names above."""
    state = {ONLINE: node.status().online}
    for network in node.networks():
        state[f"network/{format_nwid(network.nwid)}"] = network.state is JoinState.OK
    return state


async def publish(node: NodeApi, servicers: Sequence[health.aio.HealthServicer]) -> None:
    """Keep the health services as the node is, until cancelled."""
    shown: dict[str, bool] = {}
    while True:
        now = readiness(node)
        for name in shown.keys() | now.keys():
            if shown.get(name) != now.get(name):
                status = _UNKNOWN if name not in now else _SERVING if now[name] else _NOT_SERVING
                for servicer in servicers:
                    await servicer.set(name, status)
        shown = now
        await asyncio.sleep(PERIOD)
