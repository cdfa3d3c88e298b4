"""JSON out and in, as the reference has it."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

MAX_BODY: Final = 1 << 20
"""Bytes: as much as a controller's document may have."""


class Refused(Exception):
    """The client's fault, with one line that says which field and what is wrong with it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.answer = refusal(status, reason)


def bad(reason: str) -> Refused:
    """400."""
    return Refused(400, reason)


def answer(value: Any, status: int = 200) -> Response:
    """``value`` as JSON with sorted keys; None: no body."""
    if value is None:
        return Response(status_code=status)
    body = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


def refusal(status: int, reason: str) -> Response:
    """One line for a person, in the form of the reference's exception handler."""
    return answer({"error": status, "description": reason}, status)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object in the body; none is an empty one. Raises Refused."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad("the body is not a JSON object")
    return value
