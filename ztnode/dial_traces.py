"""Each dial as a span of OpenTelemetry, sent to where the standard's variables say, ``OTEL_EXPORTER_OTLP_ENDPOINT`` and
the others (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Imported only when it
is asked for: the extra ``ztnode[otel]``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from ztnode.node.node import Node
from ztnode.wire.address import format_nwid

PATIENCE: Final = 2.0
"""Seconds that a collector has at the end to take the last spans."""


class DialTraces:
    """Makes the spans; ``Node.trace_dials`` takes it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("ztnode")

    @contextlib.contextmanager
    def __call__(self, host: str, port: int, nwid: int | None) -> Iterator[None]:
        """One dial, for as long as the context lasts; an OSError that leaves it is the span's error."""
        attributes: dict[str, str | int] = {
            "network.transport": "tcp",
            "network.peer.address": host,
            "network.peer.port": port,
        }
        if nwid is not None:
            attributes["zerotier.network"] = format_nwid(nwid)
        with self._tracer.start_as_current_span(
            "dial", kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except OSError as error:
                span.set_attribute("error.type", errno.errorcode.get(error.errno or 0, "other"))
                span.set_status(Status(StatusCode.ERROR, error.strerror or str(error)))
                raise


@contextlib.asynccontextmanager
async def tracing(node: Node) -> AsyncIterator[None]:
    """The dials of ``node`` for as long as the context lasts."""
    # A collector that is not there is a line for each batch otherwise.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    provider = TracerProvider(resource=Resource.create({"service.name": "ztnode"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    node.trace_dials(DialTraces(provider))
    try:
        yield
    finally:
        node.trace_dials(None)
        # A thread that nobody waits for: it would go on asking a collector that is not there.
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        await asyncio.to_thread(last.join, PATIENCE)
