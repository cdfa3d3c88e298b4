"""Dials as spans, as a collector receives them that is made from OpenTelemetry's own protocol."""

from __future__ import annotations

import concurrent.futures
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.system.harness import PORT, Overlay


class Collector(TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: queue.Queue[ExportTraceServiceRequest] = queue.Queue()

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.requests.put(request)
        return ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, int]]:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    made = Collector()
    add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, port
    server.stop(None)


def test_each_dial_is_a_span(overlay: Overlay, collector: tuple[Collector, int]) -> None:
    received, port = collector
    variables = [f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY=100"]
    member = overlay.network.add("traced", "--trace-dials", prefix=["env", *variables])
    try:
        member.wait_online()
        with pytest.raises(OSError, match="no joined network"):
            member.node.create_connection(("10.9.9.9", 1), 5)
        member.node.join(overlay.nwid, 60)
        member.node.create_connection((overlay.ip, PORT), 20).close()
    finally:
        overlay.network.members.pop("traced").stop()
    spans: list[Span] = []
    while len(spans) < 2:
        for resource in received.requests.get(timeout=20).resource_spans:
            assert {each.key: each.value.string_value for each in resource.resource.attributes}[
                "service.name"
            ] == "ztnode"
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    failed, opened = spans
    attributes = {each.key: each.value.string_value or each.value.int_value for each in failed.attributes}
    assert (attributes["network.peer.address"], attributes["network.peer.port"]) == ("10.9.9.9", 1)
    assert attributes["error.type"] == "ENETUNREACH" and failed.status.code == 2 and failed.status.message
    assert opened.status.code == 0 and opened.name == "dial"
    assert opened.end_time_unix_nano > opened.start_time_unix_nano
