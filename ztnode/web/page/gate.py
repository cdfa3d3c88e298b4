"""Who may see the page, and whose forms are taken: asked before anything else is looked at."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ztnode.web.answers import Refused
from ztnode.web.page.forms import read_form
from ztnode.web.page.rendering import PREFIX, Renderer, to
from ztnode.web.page.sessions import Attempts, Sessions

log = logging.getLogger(__name__)

LOG_IN: Final = f"{PREFIX}/login"
LOG_OUT: Final = f"{PREFIX}/logout"
STATIC: Final = f"{PREFIX}/static/"
BY_ITSELF: Final = "X-By-Itself"
"""The header of what the page's script fetches: that must not keep a session from ending."""
METHODS: Final = ("GET", "HEAD", "POST")


class Gate:
    """Lets through whoever is logged in; a POST only from this page's own forms, of which the handlers find the fields
    in ``request.state.form``. Logging in and out is done here."""

    def __init__(self, app: ASGIApp, token: str, renderer: Renderer, *, port: int, secure: bool) -> None:
        """``token`` is what people log in with; ``secure``: the page is served by HTTPS."""
        self._app = app
        self._token = token.encode()
        self._renderer = renderer
        self._sessions = Sessions()
        self._attempts = Attempts()
        # Cookies know no ports: two nodes of one host must not take each other's place.
        self._cookie = f"{'__Secure-' if secure else ''}ztnode-{port}"
        self._secure = secure
        self._now: Callable[[], float] = time.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except Refused as error:
            answer = self._error(request, error.answer.status_code, str(error))
        if answer is not None:
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        """None: the pages answer."""
        path = request.url.path
        if request.method not in METHODS:
            return self._error(request, 405, f"{request.method} is not done here")
        if request.method == "POST" and not _is_of_this_page(request):
            return self._error(request, 403, "the form is not of this page")
        if path == LOG_IN:
            return await self._log_in(request)
        if path.startswith(STATIC):
            return None
        name = request.cookies.get(self._cookie, "")
        session = self._sessions.find(name, self._now(), by_hand=BY_ITSELF not in request.headers)
        if session is None:
            return Response(status_code=401) if BY_ITSELF in request.headers else to("/login")
        request.state.csrf = session.csrf
        if request.method == "POST":
            form = await read_form(request)
            if not session.allows(form.pop("csrf", "")):
                return self._error(request, 403, "the form is of another log-in: go back and load the page anew")
            request.state.form = form
            if path == LOG_OUT:
                self._sessions.close(name)
                answer = to("/login")
                answer.delete_cookie(self._cookie, PREFIX, secure=self._secure, httponly=True, samesite="strict")
                return answer
        return None

    async def _log_in(self, request: Request) -> Response:
        if request.method != "POST":
            return self._renderer.page(request, "login.html", values={"error": ""})
        host = request.client.host if request.client is not None else ""
        now = self._now()
        if not self._attempts.admit(host, now):
            error = "Token: too many attempts; try again in a minute"
            return self._renderer.page(request, "login.html", 429, {"error": error}, {"Retry-After": "60"})
        form = await read_form(request)
        # In constant time: how much of a guess was right must not show.
        if not hmac.compare_digest(form.get("token", "").strip().encode(errors="replace"), self._token):
            log.warning("page: a log-in from %s with a wrong token", host)
            return self._renderer.page(request, "login.html", 403, {"error": "Token: this is not the node's token"})
        self._attempts.forget(host)
        answer = to("/")
        name = self._sessions.open(now)
        answer.set_cookie(self._cookie, name, path=PREFIX, secure=self._secure, httponly=True, samesite="strict")
        return answer

    def _error(self, request: Request, status: int, reason: str) -> Response:
        return self._renderer.page(request, "error.html", status, {"reason": reason})


def _is_of_this_page(request: Request) -> bool:
    """Whether a browser says that the form is: a second wall beside the forms' tokens, and the only one around the
    log-in, for which there is no session yet. Whoever is no browser says nothing of it."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host")
