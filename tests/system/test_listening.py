"""Listeners of the overlay as the programs of others use a listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import selectors
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvloop

from tests.system.harness import Overlay, ipv4, until
from tests.unit import tls_files as tls_files_module
from ztclient import aio
from ztclient.listener import Listener, overlay_ends
from ztnode.forwarding.client_overlay import ClientOverlay

LINGER_RESET = b"\x01\0\0\0\0\0\0\0"


@pytest.fixture
def listener(overlay: Overlay) -> Iterator[Listener]:
    with overlay.alpha.node.listen(overlay.ip) as listening:
        listening.settimeout(30)
        yield listening


def dial(overlay: Overlay, listener: Listener | int) -> socket.socket:
    port = listener if isinstance(listener, int) else listener.getsockname()[1]
    return overlay.beta.node.create_connection((overlay.ip, port), 30)


def ask(overlay: Overlay, port: int, text: bytes = b"hello") -> bytes:
    with dial(overlay, port) as connected:
        connected.sendall(text)
        connected.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connected.recv(65536), b""))


def test_it_is_a_socket(overlay: Overlay, listener: Listener) -> None:
    assert isinstance(listener, socket.socket) and listener.getsockname()[0] == overlay.ip
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        assert selector.select(0) == []
        with dial(overlay, listener) as dialled:
            assert selector.select(30)
            accepted, peer = listener.accept()
            with accepted:
                assert peer == accepted.getpeername()
                assert peer[0] == ipv4(overlay.beta, overlay.nwid)
                assert accepted.getsockname() == listener.getsockname()
                with accepted.dup() as again:
                    assert again.getpeername() == peer
                dialled.sendall(b"hello")
                assert accepted.recv(5) == b"hello"
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_resets_stay_resets_both_ways(overlay: Overlay, listener: Listener) -> None:
    for first in (True, False):
        dialled = dial(overlay, listener)
        accepted, _ = listener.accept()
        ending, other = (dialled, accepted) if first else (accepted, dialled)
        ending.sendall(b"half a sentence")
        assert other.recv(15, socket.MSG_WAITALL) == b"half a sentence"
        ending.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        ending.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere accept() sends strangers away")
def test_nobody_else_connects(listener: Listener) -> None:
    port = socket.socket.getsockname(listener)[1]
    for source in ("127.0.0.1", "127.77.0.1"):
        with socket.socket() as stranger:
            stranger.bind((source, 0))
            stranger.settimeout(0.2)
            with pytest.raises(TimeoutError):
                stranger.connect(("127.0.0.1", port))


def test_many_at_once(overlay: Overlay, listener: Listener) -> None:
    with ThreadPoolExecutor(20) as pool:
        dialled = list(pool.map(lambda _: dial(overlay, listener), range(100)))
        accepted = [listener.accept() for _ in range(100)]
    assert {peer for _, peer in accepted} == {each.getpeername() for each, _ in accepted}
    assert len({peer for _, peer in accepted}) == 100
    for each in [*dialled, *(connected for connected, _ in accepted)]:
        each.close()


def test_tls_around_the_listener(overlay: Overlay, listener: Listener, tmp_path: Path) -> None:
    files = tls_files_module.make(tmp_path, "server", overlay.ip)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    port = listener.getsockname()[1]
    with context.wrap_socket(listener, server_side=True) as wrapped, ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(wrapped.accept)
        with trusting.wrap_socket(dial(overlay, port), server_hostname=overlay.ip) as dialled:
            accepted, address = accepting.result(30)
            with accepted:
                accepted.sendall(b"secret")
                assert dialled.recv(6) == b"secret"
                ends = overlay_ends(address)
                assert ends is not None and ends[1][0] == ipv4(overlay.beta, overlay.nwid)
                assert ends[0] == (overlay.ip, port)
    # The descriptor went its own way and is closed: so is the listener on the overlay.
    refused(overlay, port)


def refused(overlay: Overlay, port: int) -> None:
    """Wait until nobody listens there any more."""
    for _ in range(200):
        try:
            dial(overlay, port).close()
        except ConnectionRefusedError:
            return
        except ConnectionError:
            pass
        threading.Event().wait(0.05)
    raise AssertionError("still listening")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_asyncio_serves_it(overlay: Overlay, listener: Listener, loop: str) -> None:
    peers: list[object] = []
    port = listener.getsockname()[1]

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        writer.write((await reader.read()).upper())
        writer.close()

    async def main() -> list[bytes]:
        async with await asyncio.start_server(shout, sock=listener):
            return await asyncio.gather(*(asyncio.to_thread(ask, overlay, port) for _ in range(10)))

    run = asyncio.run if loop == "asyncio" else uvloop.run
    assert run(main()) == [b"HELLO"] * 10
    mine = ipv4(overlay.beta, overlay.nwid)
    shown = peers if loop == "asyncio" else [ends[1] for peer in peers if (ends := overlay_ends(peer))]
    assert [peer[0] for peer in shown] == [mine] * 10  # type: ignore[index]


def test_sock_accept(overlay: Overlay, listener: Listener) -> None:
    listener.setblocking(False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        dialled = await asyncio.to_thread(dial, overlay, listener)
        accepted, peer = await accepting
        assert peer[0] == ipv4(overlay.beta, overlay.nwid)
        accepted.close()
        dialled.close()

    asyncio.run(main())


def test_socketserver(overlay: Overlay) -> None:
    seen: list[str] = []

    class Shout(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            seen.append(self.client_address[0])
            self.wfile.write(self.rfile.read().upper())

    server = socketserver.ThreadingTCPServer((overlay.ip, 0), Shout, bind_and_activate=False)
    server.socket.close()
    server.socket = overlay.alpha.node.listen(overlay.ip)
    port = server.socket.getsockname()[1]
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        assert ask(overlay, port) == b"HELLO"
        server.shutdown()
        thread.join()
    assert seen == [ipv4(overlay.beta, overlay.nwid)]


def forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a child; its process id."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_pre_forked_children_and_their_parent(overlay: Overlay, listener: Listener) -> None:
    port = listener.getsockname()[1]
    mine = ipv4(overlay.beta, overlay.nwid)

    def serve() -> None:
        for _ in range(5):
            accepted, peer = listener.accept()
            with accepted:
                assert peer[0] == mine and accepted.getpeername() == peer
                accepted.recv(5, socket.MSG_WAITALL)
                accepted.sendall(b"child %d" % os.getpid())
        listener.close()

    children = [forked(serve) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(overlay, port), range(15)))
    assert all(answer.startswith(b"child ") for answer in answers)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    # The children closed it; here it goes on.
    with dial(overlay, listener) as dialled:
        accepted, _ = listener.accept()
        dialled.close()
        accepted.close()


def test_fork_for_each_connection(overlay: Overlay, listener: Listener) -> None:
    def serve(accepted: socket.socket) -> None:
        listener.close()
        accepted.sendall(accepted.recv(5, socket.MSG_WAITALL).upper())

    for _ in range(5):
        dialled = dial(overlay, listener)
        dialled.sendall(b"hello")
        accepted, _ = listener.accept()
        child = forked(lambda served=accepted: serve(served))  # type: ignore[misc]
        accepted.close()
        assert dialled.recv(5, socket.MSG_WAITALL) == b"HELLO"
        assert dialled.recv(1) == b""
        dialled.close()
        assert os.waitpid(child, 0)[1] == 0


def test_a_parent_that_closes_leaves_it_to_its_children(overlay: Overlay) -> None:
    listener = overlay.alpha.node.listen(overlay.ip)
    port = listener.getsockname()[1]

    def serve() -> None:
        for _ in range(2):
            accepted, _ = listener.accept()
            accepted.sendall(b"child")
            accepted.close()

    child = forked(serve)
    listener.close()
    assert [ask(overlay, port, b"") for _ in range(2)] == [b"child", b"child"]
    assert os.waitpid(child, 0)[1] == 0
    refused(overlay, port)


FORKS = """
import os, sys, ztclient
with ztclient.create_server((sys.argv[1], 0)) as listener:
    for _ in range(3):
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
"""


def test_a_fork_says_nothing_on_stderr(overlay: Overlay) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ZTNODE", "GRPC"))}
    done = subprocess.run(
        [sys.executable, "-c", FORKS, overlay.ip],
        env=environment | {"ZTNODE_STATE": str(overlay.alpha.state)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_linux_refuses_beside_each_other_is_refused(overlay: Overlay, listener: Listener) -> None:
    port = listener.getsockname()[1]
    for ip in (overlay.ip, ""):
        with pytest.raises(OSError, match="in use") as caught:
            overlay.alpha.node.listen(ip, port)
        assert caught.value.errno == errno.EADDRINUSE
    with overlay.alpha.node.listen("", 0) as everywhere, pytest.raises(OSError, match="in use"):
        overlay.alpha.node.listen(overlay.ip, everywhere.getsockname()[1])


def test_out_of_descriptors_is_emfile(overlay: Overlay, listener: Listener) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    dialled = dial(overlay, listener)
    with selectors.DefaultSelector() as selector:  # it has come, for which descriptors were needed here too
        selector.register(listener, selectors.EVENT_READ)
        assert selector.select(30)
    limit = max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for attempt in (listener.accept, lambda: dial(overlay, listener), lambda: overlay.alpha.node.listen()):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EMFILE
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # Nothing was lost.
    accepted, _ = listener.accept()
    dialled.sendall(b"x")
    assert accepted.recv(1) == b"x"
    accepted.close()
    dialled.close()


def test_listeners_outlive_a_worker_and_end_with_the_node(overlay: Overlay) -> None:
    member = overlay.network.add("listens")
    member.wait_online()
    ip = ipv4(member, overlay.nwid)
    beta = overlay.beta.node

    async def serve(accept: Callable[[], Awaitable[socket.socket]], port: int) -> None:
        accepting = asyncio.ensure_future(accept())
        with await asyncio.to_thread(beta.create_connection, (ip, port), 30) as dialled, await accepting as accepted:
            accepted.setblocking(True)
            await asyncio.to_thread(accepted.sendall, b"hello")
            assert await asyncio.to_thread(dialled.recv, 5, socket.MSG_WAITALL) == b"hello"

    async def main() -> None:
        real = member.node.listen(ip, nwid=overlay.nwid)
        on_loop = await aio.Node(state=member.state).listen(ip, nwid=overlay.nwid)
        tunnel = ClientOverlay(member.node)
        exposed, bound = await tunnel.listen(ip, 0)

        async def by_token() -> socket.socket:
            return await tunnel.fetch(await tunnel.accept(exposed))

        async def from_loop() -> socket.socket:
            return (await on_loop.accept())[0]

        async def from_kernel() -> socket.socket:
            return (await asyncio.to_thread(real.accept))[0]

        ways = (
            (from_kernel, real.getsockname()[1]),
            (from_loop, on_loop.getsockname()[1]),
            (by_token, bound[1]),
        )
        for accept, port in ways:
            await serve(accept, port)
        channels = real._feed._channel, on_loop._channel, tunnel._attended[exposed]._channel
        assert all(channels), "the worker brings them, not the node"
        worker = member.node.status().workers[0].pid
        os.kill(worker, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: member.node.status().workers[0].pid not in (0, worker))
        for accept, port in ways:
            await serve(accept, port)
        *waiting, last = [asyncio.ensure_future(accept()) for accept, _ in ways]
        member.node.leave(overlay.nwid)
        for each in waiting:
            with pytest.raises(OSError, match="network that the listener was bound to is gone"):
                await asyncio.wait_for(each, 30)
        await asyncio.to_thread(member.stop)
        with pytest.raises(OSError):
            await asyncio.wait_for(last, 30)
        await on_loop.close()
        await tunnel.close_listener(exposed)
        real.close()

    asyncio.run(main())
    overlay.network.members.pop("listens")
