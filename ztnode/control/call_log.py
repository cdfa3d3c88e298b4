"""Gives each control call an id, by which its lines in the log are found."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc

from ztnode import request_ids

REQUEST_ID: Final = "x-request-id"
"""Metadata: the caller's own id for the call, and with a failure the id that it had here."""
_USABLE: Final = re.compile(r"[0-9A-Za-z._:/+=-]{1,64}")

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_log = logging.getLogger(__name__)


class CallLog(grpc.aio.ServerInterceptor):
    """Takes the caller's id where that can stand in a log, else makes one; a line for each call at the level debug."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        """See grpc.aio.ServerInterceptor."""
        given = next((item[1] for item in handler_call_details.invocation_metadata if item[0] == REQUEST_ID), "")
        usable = isinstance(given, str) and _USABLE.fullmatch(given) is not None
        request_ids.begin(str(given) if usable else secrets.token_hex(4))
        _log.debug("call of %s", handler_call_details.method)
        return await continuation(handler_call_details)
