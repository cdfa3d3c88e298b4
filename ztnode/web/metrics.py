"""``/metrics``: the reference's and our own, in one answer for Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ztnode.node.api import NodeApi
from ztnode.node.figures import NodeFigures
from ztnode.web import reference_metrics
from ztnode.web.access import METRICS
from ztnode.web.node_metrics import NodeCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The one format in which a counter may be called as the reference calls its own."""


class CountingNode(NodeApi, Protocol):
    """A node whose figures are told."""

    def figures(self) -> NodeFigures: ...


class _Parts(StreamingResponse):
    """As Starlette's, but for its watch over a client that leaves: what that imports at the first answer stops the
    event loop for 200 ms, and these parts are soon written to nobody."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.stream_response(send)


class Metrics:
    """The route over one node."""

    def __init__(self, node: CountingNode) -> None:
        self._node = node
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector(node.status, node.networks, node.figures))
        ProcessCollector(registry=self._registry)

    def routes(self) -> list[Route]:
        """For the application."""
        return [Route(METRICS, self.metrics)]

    async def metrics(self, _request: Request) -> Response:
        return _Parts(self.write(), media_type=CONTENT_TYPE)

    async def write(self) -> AsyncIterator[bytes]:
        """The text that Prometheus reads, in parts."""
        yield generate_latest(self._registry)
        async for part in reference_metrics.write(self._node.figures()):
            yield part
