"""Servers that others wrote take our listeners, and see the overlay's peer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.config
import pytest
import trio
import uvicorn
import waitress
import websockets.asyncio.server
import ztclient.socket as socket  # type: ignore[import-not-found] # on the path that the package extends
from aiohttp import web

import ztclient
from tests.unit.fake_node import IP, RunningNode
from ztclient.listener import overlay_ends

PEER = "10.121.15.99"
"""Whom the fake node names as the peer of everything that is accepted."""
PORT = 8000


def get(tries: int = 200) -> str:
    """What a server on the overlay answers: the peer that it sees."""
    while True:
        connection = ztclient.HTTPConnection(IP, PORT, timeout=20)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except ConnectionError:
            tries -= 1
            if not tries:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


@contextlib.contextmanager
def thread(target: Any) -> Iterator[None]:
    running = threading.Thread(target=target, daemon=True)
    running.start()
    yield
    running.join(20)
    assert not running.is_alive()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: says the peer's address as the server has it, translated."""
    if scope["type"] != "http":
        return
    host, port = scope["client"]
    ends = overlay_ends((host, port))
    body = (host if ends is None else ends[1][0]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    ends = overlay_ends((environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])))
    body = (environ["REMOTE_ADDR"] if ends is None else str(ends[1][0])).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def test_uvicorn(running_node: RunningNode) -> None:
    with ztclient.create_server((IP, PORT)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        with thread(lambda: asyncio.run(server.serve(sockets=[listener]))):
            assert get() == PEER
            server.should_exit = True


def test_uvicorn_by_descriptor(running_node: RunningNode, tmp_path: Path) -> None:
    """``uvicorn --fd``: the listener is another process's, which has inherited its descriptor."""
    (tmp_path / "peers.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'served'})\n"
    )
    with ztclient.create_server((IP, PORT)) as listener:
        command = [sys.executable, "-m", "uvicorn", "--log-level", "error", "--lifespan", "off", "--fd"]
        child = subprocess.Popen(
            [*command, str(listener.fileno()), "peers:app"], pass_fds=[listener.fileno()], cwd=tmp_path
        )
        try:
            assert get() == "served"
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(20)


def test_hypercorn(running_node: RunningNode) -> None:
    config = hypercorn.config.Config()
    config.errorlog = None
    config.graceful_timeout = 0.1
    end = asyncio.Event()
    loop = asyncio.new_event_loop()
    with ztclient.create_server((IP, PORT)) as listener:
        config.bind = [f"fd://{os.dup(listener.fileno())}"]
        serving: Any = hypercorn.asyncio.serve(application, config, shutdown_trigger=end.wait)
        with thread(lambda: loop.run_until_complete(serving)):
            assert get() == PEER
            loop.call_soon_threadsafe(end.set)


def test_gunicorn_forks_before(running_node: RunningNode, tmp_path: Path) -> None:
    """Two workers that were forked accept from one listener of the master, whose descriptor it inherited."""
    (tmp_path / "peers.py").write_text(
        "import os\n"
        "def app(environ, start_response):\n"
        "    body = str(os.getpid()).encode()\n"
        "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
        "    return [body]\n"
    )
    with ztclient.create_server((IP, PORT)) as listener:
        command = [sys.executable, "-m", "gunicorn", "-w", "2", "--log-level", "error", "--no-control-socket"]
        command += ["--bind", f"fd://{listener.fileno()}", "peers:app"]
        child = subprocess.Popen(command, pass_fds=[listener.fileno()], cwd=tmp_path)
        try:
            assert len({get() for _ in range(40)} - {str(child.pid)}) in (1, 2)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(20)


def test_waitress(running_node: RunningNode) -> None:
    with socket.create_server((IP, PORT)) as listener:
        server: Any = waitress.create_server(wsgi, sockets=[listener])
        with thread(server.run):
            assert get() == PEER
            server.close()


def test_waitress_is_refused_where_it_would_listen_elsewhere(running_node: RunningNode) -> None:
    """It makes its own socket of the kernel where the address is a managed one: that must fail."""
    with pytest.raises(OSError, match=r"[Cc]annot assign"):
        waitress.create_server(wsgi, host=IP, port=PORT)


def test_aiohttp_sock_site(running_node: RunningNode) -> None:
    async def main() -> None:
        async def handle(request: web.Request) -> web.Response:
            assert request.transport is not None
            address = request.transport.get_extra_info("peername")
            ends = overlay_ends(address)
            return web.Response(text=address[0] if ends is None else str(ends[1][0]))

        app = web.Application()
        app.router.add_get("/", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        with ztclient.create_server((IP, PORT)) as listener:
            await web.SockSite(runner, listener).start()
            assert await asyncio.to_thread(get) == PEER
            await runner.cleanup()

    asyncio.run(main())


def test_trio(running_node: RunningNode) -> None:
    async def main() -> None:
        with ztclient.create_server((IP, PORT)) as listener:
            accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))

            def client() -> bytes:
                with ztclient.create_connection((IP, PORT), 20) as connected:
                    connected.sendall(b"question")
                    return connected.recv(100)

            async with trio.open_nursery() as nursery:
                answers: list[bytes] = []

                async def ask() -> None:
                    answers.append(await trio.to_thread.run_sync(client))

                nursery.start_soon(ask)
                stream = await accepting.accept()
                assert await stream.receive_some(100) == b"question"
                ends = overlay_ends(stream.socket.getpeername())
                assert ends is not None and ends[1][0] == PEER
                await stream.send_all(b"answer")
            assert answers == [b"answer"]

    trio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(running_node: RunningNode, backend: str) -> None:
    async def main() -> None:
        with ztclient.create_server((IP, PORT)) as listener:
            accepting = await anyio.abc.SocketListener.from_socket(listener.dup())

            async def answer(stream: anyio.abc.SocketStream) -> None:
                async with stream:
                    ends = overlay_ends(stream.extra(anyio.abc.SocketAttribute.remote_address))
                    assert ends is not None and ends[1][0] == PEER
                    await stream.send(b"answer")

            def client() -> bytes:
                with ztclient.create_connection((IP, PORT), 20) as connected:
                    return connected.recv(100)

            async with accepting, anyio.create_task_group() as group:
                group.start_soon(accepting.serve, answer)
                assert await anyio.to_thread.run_sync(client) == b"answer"
                group.cancel_scope.cancel()

    anyio.run(main, backend=backend)


def test_what_trio_cannot_take_fails_loudly(running_node: RunningNode) -> None:
    """It wants the very class of the standard library, which ``dup`` gives."""
    with ztclient.create_server((IP, PORT)) as listener, pytest.raises(TypeError, match="Listener"):
        trio.socket.from_stdlib_socket(listener)


def test_socketserver(running_node: RunningNode) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            body = str(self.client_address[0]).encode()
            self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    server = socketserver.ThreadingTCPServer((IP, PORT), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = ztclient.create_server((IP, PORT))
    with server, thread(lambda: server.serve_forever(0.05)):
        assert get() == PEER
        server.shutdown()


def test_websockets(running_node: RunningNode) -> None:
    async def echo(websocket: Any) -> None:
        await websocket.send(f"{overlay_ends(websocket.remote_address) or websocket.remote_address}")

    async def main() -> None:
        with ztclient.create_server((IP, PORT)) as listener:
            async with websockets.asyncio.server.serve(echo, sock=listener):
                from ztclient.integrations.websockets import connect

                async with connect(f"ws://{IP}:{PORT}/") as websocket:
                    assert PEER in str(await websocket.recv())

    asyncio.run(main())
