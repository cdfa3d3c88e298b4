"""UDP and ping over the overlay, through real workers."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from tests.system.harness import Overlay, ipv4
from ztclient import aio


def out_of_reach(path: str, token: bytes) -> socket.socket:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)


@pytest.mark.parametrize("way", ["hand-off", "stream"])
def test_there_and_back(overlay: Overlay, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "stream":
        monkeypatch.setattr("ztclient.handoff.claim", out_of_reach)
    mine = ipv4(overlay.beta, overlay.nwid)
    with overlay.alpha.node.open_udp(overlay.ip) as server, overlay.beta.node.open_udp() as client:
        server.settimeout(30)
        client.settimeout(30)
        for size in (0, 1, 1400, 9000, 60000):
            client.sendto(b"x" * size, server.getsockname())
            data, address = server.recvfrom(65535)
            assert data == b"x" * size and address == (mine, client.getsockname()[1])
            server.sendto(b"back", address)
            assert client.recvfrom(100) == (b"back", server.getsockname())
        gone = server.getsockname()
    with overlay.beta.node.open_udp() as client:
        client.settimeout(30)
        client.connect(gone)
        client.send(b"nobody is there")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def test_asyncio(overlay: Overlay) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: object) -> None:
            assert isinstance(self.transport, asyncio.DatagramTransport)
            self.transport.sendto(data.upper(), addr)  # type: ignore[arg-type]

    async def main() -> None:
        alpha, beta = aio.Node(state=overlay.alpha.state), aio.Node(state=overlay.beta.state)
        transport, _ = await aio.create_datagram_endpoint(Echo, (overlay.ip, 0), node=alpha)
        loop = asyncio.get_running_loop()
        with await beta.open_udp() as client:
            client.connect(transport.get_extra_info("sockname"))
            client.send(b"hello")
            assert await asyncio.wait_for(loop.sock_recv(client, 100), 30) == b"HELLO"
        transport.close()
        assert 0 < await beta.ping(overlay.ip, 30) < 30

    asyncio.run(main())


def test_ping(overlay: Overlay) -> None:
    assert 0 < overlay.beta.node.ping(overlay.ip, 30, size=1000) < 30
    with pytest.raises(OSError) as caught:
        overlay.beta.node.ping("10.121.15.254" if overlay.ip != "10.121.15.254" else "10.121.15.253", 1)
    assert caught.value.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT)
    with pytest.raises(OSError, match="route") as caught:
        overlay.beta.node.ping("8.8.8.8")
    assert caught.value.errno == errno.ENETUNREACH
