"""psycopg 3 over the overlay, sync and asyncio.

from ztclient.integrations.psycopg import connect

with connect("host=10.121.15.99 dbname=app user=me") as connection:
    print(connection.execute("select 1").fetchone())

libpq makes its own socket: it is given a port on loopback (``hostaddr``), with ``host`` as it was, so that TLS is used
and the certificate checked against the real name, all as ``sslmode`` and ``sslrootcert`` have it; with
``sslmode=disable`` it gets a Unix socket of this user's.
"""

from __future__ import annotations

import os
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ztclient import local_way
from ztclient.node import Node

PORT: Final = 5432


def connect(conninfo: str = "", *, node: Node | str | None = None, **options: Any) -> psycopg.Connection[Any]:
    """As ``psycopg.connect``, to one host on the overlay. Raises psycopg.OperationalError with the overlay's reason."""
    text, options, way = _arguments(conninfo, node, options)
    try:
        return psycopg.connect(text, **options)
    except psycopg.OperationalError as error:
        raise _explained(error, way) from error


async def async_connect(
    conninfo: str = "", *, node: Node | str | None = None, **options: Any
) -> psycopg.AsyncConnection[Any]:
    """As ``psycopg.AsyncConnection.connect``."""
    text, options, way = _arguments(conninfo, node, options)
    try:
        return await psycopg.AsyncConnection.connect(text, **options)
    except psycopg.OperationalError as error:
        raise _explained(error, way) from error


def overlay_conninfo(conninfo: str = "", *, node: Node | str | None = None, **options: Any) -> str:
    """A connection string for whatever makes connections by itself, such as psycopg_pool. Raises OSError."""
    text, rest, _ = _arguments(conninfo, node, options)
    return make_conninfo(text, **rest)


def _arguments(
    conninfo: str, node: Node | str | None, options: dict[str, Any]
) -> tuple[str, dict[str, Any], local_way.LocalWay]:
    known = conninfo_to_dict(conninfo)
    settings: dict[str, Any] = {
        **known,
        **{name: options.pop(name) for name in ("host", "hostaddr", "port") if name in options},
    }
    host = str(settings.get("hostaddr") or settings.get("host") or "")
    if not host or "," in host or host.startswith("/"):
        raise ValueError("one host on the overlay must be named")
    port = int(settings.get("port") or PORT)
    tls = str(options.get("sslmode") or settings.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer")
    if tls == "disable":
        path, way = local_way.unix_socket(node, host, port, f".s.PGSQL.{port}")
        settings.pop("hostaddr", None)
        settings.update(host=os.path.dirname(path), port=port)  # noqa: PTH120
    else:  # libpq never tries TLS on a Unix socket, and many servers let nobody in without
        ip, local_port, way = local_way.loopback(node, host, port)
        settings.update(host=settings.get("host") or host, hostaddr=ip, port=local_port)
    return make_conninfo(**settings), options, way


def _explained(error: psycopg.OperationalError, way: local_way.LocalWay) -> psycopg.OperationalError:
    if way.failure is None:
        return error
    return type(error)(f"{way.failure.strerror or way.failure} ({error})")
