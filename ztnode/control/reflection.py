"""Server reflection, for grpcurl and its like; loaded when the first of them asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc

SERVICE_NAME: Final = "grpc.reflection.v1alpha.ServerReflection"
_METHOD: Final = f"/{SERVICE_NAME}/ServerReflectionInfo"


class LazyReflection(grpc.GenericRpcHandler):
    """Tells which services there are, itself among them, and what their messages are."""

    def __init__(self, services: Sequence[str]) -> None:
        """``services``: the full names of the others."""
        self._services = (*services, SERVICE_NAME)
        self._handler: grpc.RpcMethodHandler[Any, Any] | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See grpc.GenericRpcHandler."""
        if handler_call_details.method != _METHOD:
            return None
        if self._handler is None:
            from grpc_reflection.v1alpha import reflection, reflection_pb2

            self._handler = grpc.stream_stream_rpc_method_handler(
                reflection.aio.ReflectionServicer(self._services).ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        return self._handler
