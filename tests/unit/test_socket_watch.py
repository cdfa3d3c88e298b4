"""Connected datagram sockets hear again after an error, whatever the event loop."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

import pytest
import uvloop

from ztnode.hookspecs import Datagrams
from ztnode.plugins.udp import UdpTransport
from ztnode.socket_watch import Watch
from ztnode.wire.endpoint import Endpoint

LOOPS = pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
PATIENCE = 10.0


def absent() -> Endpoint:
    """Where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        found: Endpoint = taken.getsockname()
    return found


@LOOPS
def test_a_watched_socket_hears_again_after_an_error(loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        other = absent()
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        def readable() -> None:
            try:
                heard.put_nowait(near.recv(100))
            except ConnectionRefusedError:
                heard.put_nowait(b"refused")

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.setblocking(False)
            near.connect(other)
            watch = Watch(near, readable)
            for _ in range(2):
                near.send(b"anybody there?")
                assert await asyncio.wait_for(heard.get(), PATIENCE) == b"refused"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
                far.bind(other)
                far.sendto(b"now", near.getsockname())
                assert await asyncio.wait_for(heard.get(), PATIENCE) == b"now"
                watch.stop()
                watch.stop()
                far.sendto(b"too late", near.getsockname())
                await asyncio.sleep(0.05)
                assert heard.empty()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="peers have sockets of their own on Linux alone")
@LOOPS
def test_a_peer_that_was_away_is_heard(loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Its process ends, what is sent to it meanwhile is refused, and it is back at the same port."""

    async def main() -> None:
        other = absent()
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        transport = UdpTransport()

        def receive(datagrams: Datagrams) -> None:
            for data, _ in datagrams:
                heard.put_nowait(data)

        transport.bind(0, receive)
        try:
            transport.favor([other])
            for _ in range(3):
                transport.send(other, [b"anybody there?"])
                await asyncio.sleep(0.01)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
                far.bind(other)
                far.sendto(b"back", ("127.0.0.1", transport.local_endpoints()[0][1]))
                assert await asyncio.wait_for(heard.get(), PATIENCE) == b"back"
        finally:
            await transport.close()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(main())
