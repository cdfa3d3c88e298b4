"""redis-py over the overlay, from its release 5 on, sync and asyncio, by way of a Unix socket of this user's.

from ztclient.integrations.redis import client

print(client("10.121.15.99", 6379).ping())
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from ztclient import local_way
from ztclient.node import Node


def client(host: str, port: int = 6379, *, node: Node | str | None = None, **options: Any) -> redis.Redis:
    """A ``redis.Redis`` for a server on the overlay. ``options`` are those of Redis (``db``, ``password``...), but for
    TLS, which redis-py does not speak over Unix sockets: the overlay encrypts. Raises OSError."""
    return redis.Redis(unix_socket_path=_path(host, port, node, options), **options)


def async_client(host: str, port: int = 6379, *, node: Node | str | None = None, **options: Any) -> redis.asyncio.Redis:
    """As ``client``, for asyncio."""
    return redis.asyncio.Redis(unix_socket_path=_path(host, port, node, options), **options)


def _path(host: str, port: int, node: Node | str | None, options: dict[str, Any]) -> str:
    if options.get("ssl"):
        raise ValueError("redis-py has no TLS over this way: leave ssl out, the overlay encrypts")
    return local_way.unix_socket(node, host, port)[0]
