"""Channels of grpcio to servers on the overlay, by way of a Unix socket of this user's.

from ztclient.integrations.grpc import channel

stub = GreeterStub(channel("10.121.15.99", 50051))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from ztclient import local_way
from ztclient.forms import format_host_port
from ztclient.node import Node


def channel(
    host: str,
    port: int,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    node: Node | str | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """A channel to ``host``; with ``credentials`` over TLS, whose certificate must name it. Raises OSError."""
    target, options = _arguments(host, port, credentials, node, options)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def async_channel(
    host: str,
    port: int,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    node: Node | str | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """As ``channel``, for asyncio."""
    target, options = _arguments(host, port, credentials, node, options)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def _arguments(
    host: str,
    port: int,
    credentials: grpc.ChannelCredentials | None,
    node: Node | str | None,
    options: Sequence[tuple[str, Any]],
) -> tuple[str, list[tuple[str, Any]]]:
    path, _ = local_way.unix_socket(node, host, port)
    if credentials is None:
        named: tuple[str, Any] = ("grpc.default_authority", format_host_port(host, port))
    else:
        named = ("grpc.ssl_target_name_override", host)
    return f"unix:{path}", [named, *options]
