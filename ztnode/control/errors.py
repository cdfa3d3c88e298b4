"""From what a NodeApi raises to a gRPC status with a reason that a person can act on."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

ERRNO_KEY = "ztnode-errno"
"""Trailing metadata: the symbolic errno, because the numbers differ between operating systems."""

_log = logging.getLogger(__name__)

_STATUS_OF_ERRNO: dict[int, grpc.StatusCode] = {
    errno.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    errno.EAFNOSUPPORT: grpc.StatusCode.INVALID_ARGUMENT,
    errno.ENETUNREACH: grpc.StatusCode.FAILED_PRECONDITION,
    errno.ENETDOWN: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EADDRINUSE: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EADDRNOTAVAIL: grpc.StatusCode.FAILED_PRECONDITION,
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


class RpcFailure(Exception):
    """Ends an RPC with a status. Raised by the services' own checks; ``errno_name`` such as ``ENOENT`` or None."""

    def __init__(self, code: grpc.StatusCode, reason: str, errno_name: str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.errno_name = errno_name


def invalid(reason: str) -> RpcFailure:
    """A malformed argument."""
    return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, reason)


def not_found(reason: str) -> RpcFailure:
    """Something that was named and does not exist."""
    return RpcFailure(grpc.StatusCode.NOT_FOUND, reason)


def failure_from(error: BaseException) -> RpcFailure:
    """The status for an exception of the node. What no contract foresees becomes INTERNAL and is logged."""
    match error:
        case RpcFailure():
            return error
        case OSError():
            # A TimeoutError raised by asyncio has no errno of its own.
            number = error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
            code = _STATUS_OF_ERRNO.get(number, grpc.StatusCode.INTERNAL)
            reason = error.strerror or str(error) or errno.errorcode.get(number, "unknown error")
            if error.filename is not None:
                reason = f"{error.filename}: {reason}"
            return RpcFailure(code, reason, errno.errorcode.get(number))
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
    metadata = ((ERRNO_KEY, failure.errno_name),) if failure.errno_name else ()
    try:
        await context.abort(failure.code, failure.reason, metadata)
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


Service = TypeVar("Service")
Request = TypeVar("Request")
Response = TypeVar("Response", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def unary(
    method: Callable[[Service, Request, Context], Awaitable[Response]],
) -> Callable[[Service, Request, Context], Awaitable[Response]]:
    """Decorate a service method with one answer: its exceptions become statuses."""

    @functools.wraps(method)
    async def translated(service: Service, request: Request, context: Context) -> Response:
        try:
            return await method(service, request, context)
        except Exception as error:
            await abort(context, error)

    return translated


def streaming(
    method: Callable[[Service, Request, Context], AsyncIterator[Response]],
) -> Callable[[Service, Request, Context], AsyncIterator[Response]]:
    """Decorate a service method with many answers: its exceptions become statuses."""

    @functools.wraps(method)
    async def translated(service: Service, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            async for response in method(service, request, context):
                yield response
        except Exception as error:
            await abort(context, error)

    return translated
