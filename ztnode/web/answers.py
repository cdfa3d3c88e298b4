"""JSON out and in, as the reference has it."""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

MAX_BODY: Final = 1 << 20
"""Bytes: as much as a controller's document may have."""


class BadRequest(web.HTTPBadRequest):
    """The client's fault, with one line that says which field and what is wrong with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(body=_encode({"error": 400, "description": reason}), content_type="application/json")


def answer(value: Any, status: int = 200) -> web.Response:
    """``value`` as JSON with sorted keys; None: no body."""
    if value is None:
        return web.Response(status=status)
    return web.Response(body=_encode(value), status=status, content_type="application/json")


def refusal(status: int, reason: str) -> web.Response:
    """One line for a person, in the form of the reference's exception handler."""
    return answer({"error": status, "description": reason}, status)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body; none is an empty one. Raises BadRequest, HTTPRequestEntityTooLarge."""
    body = await request.read()
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    return value


def _encode(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
