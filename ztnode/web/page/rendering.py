"""Templates to answers, and what every answer of the page tells the browser not to do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ztclient.forms import format_host_port
from ztnode.wire.address import format_address, format_nwid
from ztnode.wire.mac import format_mac

PREFIX: Final = "/ui"
PAGE_ROWS: Final = 50
"""Of a table; with longer ones no answer would stay below 100 KB."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOT_KEPT: Final = {"Cache-Control": "no-store"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """One page of a long table. ``number`` and ``count`` are of pages, from 1 on; ``total`` of rows."""

    rows: Sequence[T]
    number: int
    count: int
    total: int


def part_of(rows: Sequence[T], request: Request, size: int = PAGE_ROWS) -> Part[T]:
    """Those that ``?page=`` asks for; the nearest page that there is."""
    count = max(1, -(-len(rows) // size))
    text = request.query_params.get("page", "1")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 1
    number = max(1, min(number, count))
    return Part(rows[(number - 1) * size : number * size], number, count, len(rows))


def age(seconds: float | None) -> str:
    """``5 s``, ``3 min``, ``2 h``, ``4 d``; None and negative: ``never``."""
    if seconds is None or seconds < 0:
        return "never"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def rate(bytes_a_second: float) -> str:
    """With the unit that leaves up to three digits before the point."""
    for unit in ("B/s", "kB/s", "MB/s"):
        if bytes_a_second < 1000:
            return f"{bytes_a_second:.0f} {unit}" if unit == "B/s" else f"{bytes_a_second:.1f} {unit}"
        bytes_a_second /= 1000
    return f"{bytes_a_second:.1f} GB/s"


def packets(a_second: float) -> str:
    """Of packets."""
    return f"{a_second:.0f}/s"


def inside_textarea(text: str) -> Markup:
    """Escaped as far as a text area needs it: quotation marks, of which JSON is full, stay one byte."""
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ztnode.web.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        address=format_address,
        age=age,
        clock=lambda seconds: time.strftime("%H:%M:%S", time.localtime(seconds)),
        endpoint=lambda pair: format_host_port(*pair),
        inside_textarea=inside_textarea,
        mac=format_mac,
        nwid=format_nwid,
        packets=packets,
        rate=rate,
    )
    environment.globals.update(ui=PREFIX)
    return environment


class Renderer:
    """The templates, with what they all show. ``node``: its address; ``controls``: whether it is a controller;
    ``static``: addresses of files by their names."""

    def __init__(self, *, node: str, controls: bool, static: Mapping[str, str]) -> None:
        self._environment = _environment()
        self._environment.globals.update(node=node, controls=controls, static=static)

    def page(
        self,
        request: Request,
        template: str,
        status: int = 200,
        values: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """``template`` with ``values``."""
        text = self._environment.get_template(template).render(
            csrf=getattr(request.state, "csrf", ""),
            here=request.url.path,
            saved="saved" in request.query_params,
            **(values or {}),
        )
        return HTMLResponse(text, status, {**HEADERS, **NOT_KEPT, **(headers or {})})


def to(path: str, *, saved: bool = False, fragment: str = "") -> Response:
    """After a POST: look at ``path``, below the page's own prefix, which says then whether it was ``saved``."""
    mark = ("&" if "?" in path else "?") + "saved" if saved else ""
    return RedirectResponse(f"{PREFIX}{path}{mark}{fragment}", 303, {**HEADERS, **NOT_KEPT})
