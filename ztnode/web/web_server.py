"""Where HTTP is served, and with which tokens."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from ztclient.forms import format_host_port, split_host_port
from ztnode.atomic_file import write_atomically
from ztnode.control.token import load_or_create
from ztnode.node.node import Node
from ztnode.web.access import guard
from ztnode.web.answers import MAX_BODY
from ztnode.web.options import WebOptions
from ztnode.web.service_api import ServiceApi

log = logging.getLogger(__name__)

TOKEN: Final = "authtoken.secret"
METRICS_TOKEN: Final = "metricstoken.secret"
PORT_FILE: Final = "zerotier-one.port"
"""In the home: where zerotier-cli looks for them."""
MAX_CONNECTIONS: Final = 256
"""Open at a time; whoever comes then is hung up on."""
MAX_HEADER: Final = 8190
KEEP_ALIVE: Final = 20.0
"""Seconds that a connection may rest between requests."""
STOP_GRACE: Final = 0.5


class LocalConf:
    """``local.conf`` of the node's home, of which a part is acted on at the start."""

    def __init__(self, node: Node, home: Path) -> None:
        self._node = node
        self.home = str(home)

    def read(self) -> dict[str, Any]:
        """The whole document; an empty one where there is none that can be read."""
        try:
            document = json.loads(self._node.local_conf() or b"{}")
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    async def change(self, settings: Mapping[str, Any]) -> None:
        """See LocalConfiguration."""
        document = self.read()
        before = document.get("settings")
        document["settings"] = {**(before if isinstance(before, dict) else {}), **settings}
        data = json.dumps(document, indent=4, sort_keys=True).encode()
        if len(data) > MAX_BODY:
            raise ValueError(f"local.conf would be larger than {MAX_BODY} bytes")
        await self._node.keep_local_conf(data)


@contextlib.asynccontextmanager
async def serving(options: WebOptions, node: Node, home: Path) -> AsyncIterator[str]:
    """HTTP over ``node`` for as long as the context lasts; gives its URL. ``home``: where the tokens are kept. Raises
    OSError, ValueError."""
    host, port = split_host_port(options.address)
    context = _tls(options)
    if context is None and not options.insecure and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(
            f"--api {options.address} is beyond loopback, where the token would travel in clear: give --tls-cert and "
            "--tls-key, or --insecure"
        )
    # zerotier-cli sends what the file holds as it is, the end of a line too.
    token, metrics_token = (load_or_create(home / name, end="") for name in (TOKEN, METRICS_TOKEN))
    app = web.Application(middlewares=[guard(token, metrics_token)], client_max_size=MAX_BODY, logger=log)
    app.add_routes(ServiceApi(node, LocalConf(node, home)).routes())
    if node.administration is not None:
        from ztnode.web.controller_api import ControllerApi

        app.add_routes(ControllerApi(node.administration, node.status().address).routes())
    runner = web.AppRunner(app, handle_signals=False, access_log=None, keepalive_timeout=KEEP_ALIVE)
    await runner.setup()
    try:
        server = await asyncio.get_running_loop().create_server(_bounded(runner), host, port, ssl=context)
        try:
            bound = server.sockets[0].getsockname()[1]
            write_atomically(home / PORT_FILE, str(bound).encode(), mode=0o644)
            yield f"{'http' if context is None else 'https'}://{format_host_port(host, bound)}"
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _bounded(runner: web.AppRunner) -> Any:
    """The runner's protocol for each connection, up to MAX_CONNECTIONS."""
    serve = runner.server
    assert serve is not None

    def connect() -> asyncio.Protocol:
        return serve() if len(serve.connections) < MAX_CONNECTIONS else _HangUp()

    return connect


class _HangUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _tls(options: WebOptions) -> ssl.SSLContext | None:
    if options.certificate is None or options.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.certificate, options.key)
    except ssl.SSLError as error:
        raise ValueError(f"{options.certificate} and {options.key} are no certificate with its key: {error}") from None
    return context
