"""Who may ask what, before anything else is looked at; and what becomes of failures."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ztnode.controller import ControllerError
from ztnode.web.answers import answer, refusal

log = logging.getLogger(__name__)

OPEN: Final = frozenset(("/health", "/healthz", "/readyz"))
"""Need no token: they say no more than whether the node works (reference: ``noAuthEndpoints``)."""
METRICS: Final = "/metrics"


def guard(token: str, metrics_token: str) -> Middleware:
    """Lets through who shows the token, as X-ZT1-Auth, as bearer or as ``auth`` in the query (OneService.cpp,
    ``authCheck``); the metrics' own token opens those alone. Others get 401 and nothing of theirs is read."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = (token, metrics_token) if request.path == METRICS else (token,)
        if request.path not in OPEN and not _shows(request, allowed):
            return answer({}, 401)
        try:
            return await handler(request)
        except web.HTTPException as error:
            # What the router says: no such path, or not by this method; the reference has one answer for both.
            return answer(None, 404 if error.status == 405 else error.status)
        except ControllerError as error:
            return refusal(400, str(error))
        except OSError as error:
            return refusal(507 if error.errno is not None else 500, error.strerror or str(error))
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return refusal(500, "an error of the node's own, which its log has")

    return check


def _shows(request: web.Request, allowed: Sequence[str]) -> bool:
    given = request.headers.get("X-ZT1-Auth")
    if given is None:
        given = request.query.get("auth")
    if given is None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
    # In constant time: how much of a guess was right must not show.
    return any(hmac.compare_digest(given.strip().encode(), each.encode()) for each in allowed)
