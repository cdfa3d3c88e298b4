"""A node whose overlay is loopback, and servers on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest

from tests.system.conftest import overlay
from tests.unit.conftest import running_node, tls_files
from tests.unit.fake_node import RunningNode
from tests.unit.tls_files import TlsFiles

__all__ = ["overlay", "running_node", "tls_files"]

HOST = "10.121.15.99"
NAME = "web.lab.example"


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """``/echo`` says the body back piece by piece, ``/away`` redirects to it, ``/slow`` never answers, ``/version`` is
    the version of HTTP."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"application/octet-stream")]
    match scope["path"]:
        case "/slow":
            await asyncio.sleep(60)
        case "/away":
            while (await receive()).get("more_body", False):  # hypercorn fails where it is not read
                pass
            await send({"type": "http.response.start", "status": 307, "headers": [(b"location", b"/echo")]})
            await send({"type": "http.response.body"})
        case "/version":
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": scope["http_version"].encode()})
        case _:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            more = True
            while more:
                message = await receive()
                more = message.get("more_body", False)
                await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


class Web:
    """A server of HTTP/1.1 and HTTP/2, in clear at port 80 and with TLS at 443, that stands for one on the overlay."""

    def __init__(self, running: RunningNode, files: TlsFiles) -> None:
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        config = hypercorn.config.Config()
        config.bind, config.insecure_bind = ["127.0.0.1:0"], ["127.0.0.1:0"]
        config.certfile, config.keyfile = str(files.certificate), str(files.key)
        config.alpn_protocols = ["h2", "http/1.1"]
        config.errorlog = None
        config.shutdown_timeout = config.graceful_timeout = 0.1
        sockets = config.create_sockets()
        for port, sock in ((443, sockets.secure_sockets[0]), (80, sockets.insecure_sockets[0])):
            sock.listen()  # now, and not when the thread gets there
            running.serve(HOST, port, sock.getsockname())
        config.create_sockets = lambda: sockets  # type: ignore[method-assign]
        serving: Any = hypercorn.asyncio.serve(pages, config, shutdown_trigger=self._end.wait)
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(serving,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)


@pytest.fixture
def web(running_node: RunningNode, tls_files: TlsFiles) -> Iterator[TlsFiles]:
    """The server; NAME is a name of it, which the certificate holds."""
    (running_node.state / "hosts").write_text(f"{HOST} {NAME}\n")
    served = Web(running_node, tls_files)
    yield tls_files
    served.close()
