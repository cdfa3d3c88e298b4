"""Bearer tokens for clients that come by TCP."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc

from ztnode.atomic_file import write_atomically
from ztnode.control.failure import RpcFailure, abort

TOKEN_NAME = "control.token"
"""The token file's name in the state directory."""

MIN_TOKEN = 16
"""Characters; a shorter token can be guessed."""


def load_or_create(path: Path, *, end: str = "\n") -> str:
    """The token kept in ``path``; a new one of 256 bits, readable by the owner alone, where there is no such file, with
    ``end`` after it.

    Raises OSError, also when others may read the file, and ValueError when it holds no usable token.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _create(path, end)
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        mode = os.fstat(descriptor).st_mode & 0o777
        if mode & 0o077:
            raise PermissionError(f"{path} can be read by others (mode {mode:04o}): chmod 600 it or remove it")
        token = file.read(4096).strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{path} holds no usable token: one line of at least {MIN_TOKEN} printable characters")
    return token


def _create(path: Path, end: str) -> str:
    token = secrets.token_urlsafe(32)
    write_atomically(path, f"{token}{end}".encode())
    return token


_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets through the calls that carry ``authorization: Bearer <token>`` and ends the others as UNAUTHENTICATED."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await abort(
                context,
                RpcFailure(
                    grpc.StatusCode.UNAUTHENTICATED,
                    "the bearer token is missing or wrong: it stands in control.token in the node's state directory",
                ),
            )

        self._refuse = refuse

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        """See grpc.aio.ServerInterceptor."""
        for item in handler_call_details.invocation_metadata:
            if item[0] == "authorization":
                given = item[1].encode() if isinstance(item[1], str) else item[1]
                # Constant time: how much of a guess was right must not show.
                if hmac.compare_digest(given, self._expected):
                    return await continuation(handler_call_details)
                break
        return grpc.unary_unary_rpc_method_handler(self._refuse)
