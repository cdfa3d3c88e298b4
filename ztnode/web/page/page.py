"""The page as one ASGI application beside the API."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ztnode.node.administration import Administration
from ztnode.node.api import NodeApi
from ztnode.web.page.controller_pages import ControllerPages
from ztnode.web.page.gate import STATIC, Gate
from ztnode.web.page.node_pages import NodePages
from ztnode.web.page.recent_logs import RecentLogs
from ztnode.web.page.rendering import HEADERS, PREFIX, Renderer
from ztnode.web.page.throughput import PERIOD
from ztnode.wire.address import format_address

log = logging.getLogger(__name__)

_FILES: Final = {"icon.svg": "image/svg+xml", "page.css": "text/css", "page.js": "text/javascript"}
_TO_PAGE: Final = RedirectResponse(f"{PREFIX}/", 307, HEADERS)
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Page:
    """An ASGI application: ``/`` and what is under PREFIX; everything else is for ``beside``."""

    def __init__(
        self,
        node: NodeApi,
        administration: Administration | None,
        beside: ASGIApp,
        *,
        token: str,
        secrets: Sequence[str],
        port: int,
        secure: bool,
    ) -> None:
        """``token``: what people log in with; ``secrets``: what must never be shown; ``port``: where this is served;
        ``secure``: by HTTPS."""
        self._beside = beside
        self._logs = RecentLogs(secrets)
        self._static = {name: (resources.files("ztnode.web.page") / "static" / name).read_bytes() for name in _FILES}
        self._renderer = Renderer(
            node=format_address(node.status().address),
            controls=administration is not None,
            # Their addresses change with what is in them.
            static={name: f"{STATIC}{name}?{_digest(data)}" for name, data in self._static.items()},
        )
        routes = [Route(f"{STATIC}{{name}}", self._serve_static)]
        self._pages = NodePages(node, self._renderer, self._logs)
        routes += self._pages.routes()
        if administration is not None:
            routes += ControllerPages(administration, node, self._renderer).routes()
        handlers = dict.fromkeys((HTTPException, OSError, Exception), self._answer_failure)
        app = Starlette(routes=routes, exception_handlers=handlers)
        self._gate = Gate(app, token, self._renderer, port=port, secure=secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        path = scope.get("path", "")
        if path in ("/", PREFIX):
            await _TO_PAGE(scope, receive, send)
        else:
            await (self._gate if path.startswith(f"{PREFIX}/") else self._beside)(scope, receive, send)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[Page]:
        """This; for as long as the context lasts log lines and rates are gathered."""
        root = logging.getLogger()
        root.addHandler(self._logs)
        sampling = asyncio.create_task(self._sample())
        sampling.add_done_callback(_tell_failure)
        try:
            yield self
        finally:
            sampling.cancel()
            root.removeHandler(self._logs)

    async def _sample(self) -> None:
        while True:
            self._pages.sample(time.monotonic())
            await asyncio.sleep(PERIOD)

    async def _serve_static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            raise HTTPException(404)
        return Response(self._static[name], media_type=_FILES[name], headers={**HEADERS, "Cache-Control": _FOR_EVER})

    def _answer_failure(self, request: Request, error: Exception) -> Response:
        match error:
            case HTTPException():
                status, reason = error.status_code, error.detail
            case OSError():
                status, reason = 507, error.strerror or str(error)
            case _:
                status, reason = 500, "an error of the node's own, which its log has"
        return self._renderer.page(request, "error.html", status, {"reason": reason})


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the page's charts stand still", exc_info=error)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
