"""SOCKS5's datagrams between a real client's socket and a real UDP socket of the overlay."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from tests.unit.worker.worker_pair import B6, B, on_loop, running_pair
from ztnode.forwarding.local import listen
from ztnode.forwarding.mapping import TcpAddress
from ztnode.forwarding.node_overlay import NodeOverlay
from ztnode.forwarding.proxy_service import ProxyService
from ztnode.names import Resolver
from ztnode.node.api import NodeApi
from ztnode.node.handoffs import claim_records
from ztnode.proxy.socks5 import build_datagram, parse_address, parse_datagram
from ztnode.worker.udp_pairs import build_record, parse_record


async def ask(client: socket.socket, port: int = 0) -> tuple[str, int]:
    """Associate; where the proxy wants the datagrams."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"\5\1\0" + b"\5\3\0\1\0\0\0\0" + port.to_bytes(2, "big"))
    answer = b""
    while len(answer) < 12:
        answer += await loop.sock_recv(client, 100)
    assert answer[:5] == b"\5\0\5\0\0"
    address = parse_address(answer[5:])
    assert address is not None
    return address[1:]


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@on_loop
async def test_datagrams_both_ways_until_the_connection_ends(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with running_pair(tmp_path) as pair:
        # A supervisor has of a node all that this needs.
        service = ProxyService(NodeOverlay(cast(NodeApi, pair.a), Resolver(cast(NodeApi, pair.a))))
        listener = listen(TcpAddress("127.0.0.1", 0))
        serving = asyncio.create_task(service.run(listener))
        client = socket.create_connection(listener.getsockname())
        client.setblocking(False)
        with (
            listener,
            client,
            udp() as near,
            udp() as stranger,
            await claim_records(await pair.b.open_udp(None, 7000)) as far,
        ):
            where = await ask(client)
            for host in (B, B6):
                near.sendto(b"\0\0\1" + build_datagram(host, 7000, b"a fragment")[3:], where)
                near.sendto(b"nonsense", where)
                near.sendto(build_datagram("a.name", 7000, b"the overlay has none"), where)
                near.sendto(build_datagram(host, 7000, b"question"), where)
                async with asyncio.timeout(20):
                    _kind, source, port, payload = parse_record(await loop.sock_recv(far, 2000))
                assert payload == b"question"
                stranger.sendto(build_datagram(host, 7000, b"from elsewhere"), where)
                far.send(build_record(ip_address(source).packed, port, b"answer"))
                async with asyncio.timeout(20):
                    answer = await loop.sock_recv(near, 2000)
                assert parse_datagram(answer) == (host, 7000, b"answer")
            near.sendto(build_datagram(B, 7000, b"last"), where)
            async with asyncio.timeout(20):
                assert parse_record(await loop.sock_recv(far, 2000))[3] == b"last", "nothing of the stranger's"
            client.close()
            near.connect(where)
            async with asyncio.timeout(20):
                while True:
                    try:
                        near.send(b"x")
                        await asyncio.sleep(0.01)
                    except ConnectionRefusedError:
                        break  # nobody has that port any more
        serving.cancel()
