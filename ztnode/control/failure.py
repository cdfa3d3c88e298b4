"""From what a NodeApi raises to a gRPC status with a reason that a person can act on."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ztclient.errors import ERRNO_KEY
from ztnode import request_ids
from ztnode.control.call_log import REQUEST_ID

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata: where gRPC libraries look for a google.rpc.Status with details."""
DOMAIN = "ztnode"
"""Whose reasons the ErrorInfo names."""

_log = logging.getLogger(__name__)

_STATUS_OF_ERRNO: dict[int, grpc.StatusCode] = {
    errno.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    errno.EAFNOSUPPORT: grpc.StatusCode.INVALID_ARGUMENT,
    errno.ENETUNREACH: grpc.StatusCode.FAILED_PRECONDITION,
    errno.ENETDOWN: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EADDRINUSE: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EADDRNOTAVAIL: grpc.StatusCode.FAILED_PRECONDITION,
    errno.ENODEV: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EBADF: grpc.StatusCode.NOT_FOUND,
    errno.ECONNREFUSED: grpc.StatusCode.UNAVAILABLE,
    errno.EHOSTUNREACH: grpc.StatusCode.UNAVAILABLE,
    errno.EHOSTDOWN: grpc.StatusCode.UNAVAILABLE,
    errno.ETIMEDOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    errno.ECONNRESET: grpc.StatusCode.ABORTED,
    errno.ECONNABORTED: grpc.StatusCode.ABORTED,
    errno.EPIPE: grpc.StatusCode.ABORTED,
    errno.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    errno.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    errno.EAGAIN: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EMFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOBUFS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOMEM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOSPC: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EDQUOT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EROFS: grpc.StatusCode.FAILED_PRECONDITION,
}

_NAME_ERRORS = {socket.EAI_NONAME: "EAI_NONAME", socket.EAI_NODATA: "EAI_NODATA", socket.EAI_AGAIN: "EAI_AGAIN"}


class RpcFailure(Exception):
    """Ends an RPC with a status. ``text``: one line for a person. ``reason``: what the ErrorInfo says to a program, one
    of those in node.proto; None: the name of the code. ``errno_name``: such as ``ENOENT``, which is the reason then."""

    def __init__(
        self, code: grpc.StatusCode, text: str, *, reason: str | None = None, errno_name: str | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.errno_name = errno_name
        self.reason = errno_name or reason or code.name

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The trailing metadata: a google.rpc.Status with an ErrorInfo, and the symbolic errno where there is one."""
        detail = AnyMessage()
        detail.Pack(ErrorInfo(reason=self.reason, domain=DOMAIN))
        number: int = self.code.value[0]
        status = Status(code=number, message=self.text, details=[detail])
        details: tuple[str, str | bytes] = (DETAILS_KEY, status.SerializeToString())
        request = request_ids.current()
        return (
            details,
            *(((ERRNO_KEY, self.errno_name),) if self.errno_name is not None else ()),
            *(((REQUEST_ID, request),) if request else ()),
        )


def invalid(text: str) -> RpcFailure:
    """A malformed argument."""
    return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, text)


def not_found(text: str, reason: str) -> RpcFailure:
    """Something that was named and does not exist; ``reason`` as in node.proto, such as ``NETWORK_NOT_JOINED``."""
    return RpcFailure(grpc.StatusCode.NOT_FOUND, text, reason=reason)


def failure_from(error: BaseException) -> RpcFailure:
    """The status for an exception of the node. What no contract foresees becomes INTERNAL and is logged."""
    match error:
        case RpcFailure():
            return error
        case socket.gaierror():
            name = _NAME_ERRORS.get(error.errno or 0, "EAI_FAIL")
            again = name in ("EAI_AGAIN", "EAI_FAIL")
            code = grpc.StatusCode.UNAVAILABLE if again else grpc.StatusCode.NOT_FOUND
            return RpcFailure(code, error.strerror or str(error), errno_name=name)
        case OSError():
            # A TimeoutError raised by asyncio has no errno of its own.
            number = error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
            code = _STATUS_OF_ERRNO.get(number, grpc.StatusCode.INTERNAL)
            text = error.strerror or str(error) or errno.errorcode.get(number, "unknown error")
            if error.filename is not None:
                text = f"{error.filename}: {text}"
            return RpcFailure(code, text, errno_name=errno.errorcode.get(number))
        case DecodeError():
            return invalid("that is no message of this service: do client and node have the same version?")
        case ValueError():
            return invalid(str(error))
        case NotImplementedError():
            return RpcFailure(grpc.StatusCode.UNIMPLEMENTED, str(error) or "this node does not offer it")
        case _:
            _log.error("a control call failed", exc_info=error)
            return RpcFailure(
                grpc.StatusCode.INTERNAL, f"the node failed ({type(error).__name__}: {error}); its log has the details"
            )


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """End the RPC with the status for ``error``; as cancelled where its client is gone and nobody is left to tell."""
    if isinstance(error, grpc.aio.InternalError):
        raise asyncio.CancelledError
    failure = failure_from(error)
    try:
        await context.abort(failure.code, failure.text, failure.metadata())
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
    raise AssertionError("abort() returned")


class ClientsFault(logging.Filter):
    """For gRPC's own log, which tells with a traceback what a client made it raise: a request that is no message, or an
    answer that could not be sent because the client is gone. The status of the call says it to whom it concerns."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return not isinstance(error, DecodeError | grpc.aio.InternalError)


QUIET = ClientsFault()
"""The one filter; adding it to a logger twice does nothing."""


Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def unary(
    method: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """Decorate a service method with one answer: its exceptions become statuses."""

    @functools.wraps(method)
    async def translated(service: Servicer, request: Request, context: Context) -> Response:
        try:
            return await method(service, request, context)
        except Exception as error:
            await abort(context, error)

    return translated


def streaming(
    method: Callable[[Servicer, Request, Context], AsyncIterator[Response]],
) -> Callable[[Servicer, Request, Context], AsyncIterator[Response]]:
    """Decorate a service method with many answers: its exceptions become statuses."""

    @functools.wraps(method)
    async def translated(service: Servicer, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            async for response in method(service, request, context):
                yield response
        except Exception as error:
            await abort(context, error)

    return translated
