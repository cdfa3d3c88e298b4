"""Who may ask what, before anything else is looked at; and what becomes of failures."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ztnode.controller import ControllerError
from ztnode.web.answers import Refused, answer, refusal

log = logging.getLogger(__name__)

OPEN: Final = frozenset(("/health", "/healthz", "/readyz"))
"""Need no token: they say no more than whether the node works (reference: ``noAuthEndpoints``)."""
METRICS: Final = "/metrics"


def _answer_failure(_request: Request, error: Exception) -> Response:
    match error:
        case Refused():
            return error.answer
        case ControllerError():
            return refusal(400, str(error))
        case OSError():
            return refusal(507, error.strerror or str(error))
        case HTTPException():  # of the router: no such path, or not by this method, which is one thing to the reference
            return answer(None, 404 if error.status_code == 405 else error.status_code)
        case _:
            return refusal(500, "an error of the node's own, which its log has")


FAILURES: Final = dict.fromkeys((Refused, ControllerError, OSError, HTTPException, Exception), _answer_failure)
"""For the application's ``exception_handlers``."""


class Guard:
    """Lets through who shows the token, as X-ZT1-Auth, as bearer or as ``auth`` in the query (OneService.cpp,
    ``authCheck``); the metrics' own token opens those alone. Others get 401 and nothing of theirs is read."""

    def __init__(self, app: ASGIApp, token: str, metrics_token: str) -> None:
        self._app = app
        self._token = token
        self._metrics_token = metrics_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        allowed = (self._token, self._metrics_token) if request.url.path == METRICS else (self._token,)
        if request.url.path not in OPEN and not _shows(request, allowed):
            await answer({}, 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class FailureLog:
    """Says in the log what went wrong in an application, which has answered already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await self._app(scope, receive, send)
        except Exception:
            log.exception("%s %s", scope.get("method"), scope.get("path"))


def _shows(request: Request, allowed: Sequence[str]) -> bool:
    given = request.headers.get("X-ZT1-Auth")
    if given is None:
        given = request.query_params.get("auth")
    if given is None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
    # In constant time: how much of a guess was right must not show.
    return any(hmac.compare_digest(given.strip().encode(), each.encode()) for each in allowed)
