"""Where HTTP is served, and with which tokens."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from ztclient.forms import format_host_port, split_host_port
from ztnode.atomic_file import write_atomically
from ztnode.control.token import load_or_create
from ztnode.node.node import Node
from ztnode.web.access import FAILURES, FailureLog, Guard
from ztnode.web.answers import MAX_BODY
from ztnode.web.connections import TimedProtocol, accept
from ztnode.web.metrics import Metrics
from ztnode.web.options import WebOptions
from ztnode.web.service_api import ServiceApi

TOKEN: Final = "authtoken.secret"
METRICS_TOKEN: Final = "metricstoken.secret"
PORT_FILE: Final = "zerotier-one.port"
"""In the home: where zerotier-cli looks for them."""
KEEP_ALIVE: Final = 20
"""Seconds that a connection may rest between requests."""
STOP_GRACE: Final = 1


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


class Web:
    """What is served."""

    def __init__(self, options: WebOptions) -> None:
        """Raises OSError, ValueError."""
        self._options = options
        self.context = _tls(options)
        """For the connections that come from now on; None: without TLS."""
        self.url = ""

    def reload(self) -> bool:
        """Take the TLS files as they are now; False if there are none. Raises OSError, ValueError; the old ones stay in
        use then."""
        self.context = _tls(self._options)
        return self.context is not None


@contextlib.asynccontextmanager
async def serving(options: WebOptions, node: Node, home: Path) -> AsyncIterator[Web]:
    """HTTP over ``node`` for as long as the context lasts. ``home``: where the tokens are kept. Raises OSError,
    ValueError."""
    host, port = split_host_port(options.address)
    web = Web(options)
    if web.context is None and not options.insecure and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(
            f"--api {options.address} is beyond loopback, where the token would travel in clear: give --tls-cert and "
            "--tls-key, or --insecure"
        )
    # zerotier-cli sends what the file holds as it is, the end of a line too.
    token, metrics_token = (load_or_create(home / name, end="") for name in (TOKEN, METRICS_TOKEN))
    routes = ServiceApi(node, LocalConf(node, home)).routes() + Metrics(node).routes()
    if node.administration is not None:
        from ztnode.web.controller_api import ControllerApi

        routes += ControllerApi(node.administration, node.status().address).routes()
    api = Guard(Starlette(routes=routes, exception_handlers=FAILURES), token, metrics_token)
    async with contextlib.AsyncExitStack() as stack:
        sock = stack.enter_context(_bound(host, port))
        port = sock.getsockname()[1]
        app: ASGIApp = api
        if options.page:
            from ztnode.web.page.page import Page

            page = Page(
                node,
                node.administration,
                api,
                token=token,
                secrets=(token, metrics_token),
                port=port,
                secure=web.context is not None,
            )
            app = await stack.enter_async_context(page.at_work())
        config = _configuration(FailureLog(app))
        write_atomically(home / PORT_FILE, str(port).encode(), mode=0o644)
        sock.listen(config.backlog)
        sock.setblocking(False)
        server = _Server(config)
        state = server.server_state
        running = asyncio.create_task(server.serve([]))
        accepting = asyncio.create_task(
            accept(sock, lambda: TimedProtocol(config, state, {}), state, lambda: web.context)
        )
        try:
            scheme = "http" if web.context is None else "https"
            web.url = f"{scheme}://{format_host_port(host, port)}"
            yield web
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            server.end()
            await running


def _configuration(app: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=TimedProtocol,  # of httptools: h11 has no answer for requests without Host, which zerotier-cli sends
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # TimedProtocol has it
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=STOP_GRACE,
    )
    config.load()
    # It has a line for its start, and one for each request that is none.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return config


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Have ``serve`` end."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Until ``end``. uvicorn's own looks ten times a second whether that is so, and keeps a clock."""
        await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the node's."""
        yield


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, f"--api {format_host_port(host, port)}: {error.strerror}") from None
        raise
    return sock


def _tls(options: WebOptions) -> ssl.SSLContext | None:
    if options.certificate is None or options.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # OpenSSL would ask the terminal for a pass phrase, or standard input, and the node wait with it.
        context.load_cert_chain(options.certificate, options.key, password="")
    except ssl.SSLError as error:
        files = f"{options.certificate} and {options.key}"
        raise ValueError(f"{files} are no certificate with its key, without a pass phrase: {error}") from None
    return context
