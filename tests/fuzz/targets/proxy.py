"""What proxies read of clients and servers: SOCKS4, SOCKS5, HTTP, the datagrams of UDP ASSOCIATE."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from ztnode.proxy import ProxyServer
from ztnode.proxy.http import BadRequest, RequestStream
from ztnode.proxy.proxy_server import MAX_BUFFERED
from ztnode.proxy.request import BadHandshake
from ztnode.proxy.socks5 import parse_datagram


def fuzz(data: bytes) -> None:
    """Pieces: what a client sends, to a proxy without and with a password; then requests behind a kept connection."""
    servers = (ProxyServer(None), ProxyServer(lambda name, word: (name, word) == ("u", "p")))
    stream = RequestStream(None)
    for selector, content in split(data):
        for server in servers:
            if server.request is None and not server.closed:
                server.receive(content)
                assert len(server.to_send()) <= MAX_BUFFERED
        if selector & 1:
            with contextlib.suppress(BadHandshake):
                parse_datagram(content)
        with contextlib.suppress(BadRequest):
            for _piece in stream.receive(content):
                pass


def seeds() -> Iterator[bytes]:
    """One request of each kind."""
    for request in (
        b"\5\1\0\5\1\0\1\x0a\1\2\3\0\x50",
        b"\5\1\2\1\1u\1p\5\1\0\3\7a.b-c.d\0\x16",
        b"\4\1\0\x50\0\0\0\1\0peer.zt\0",
        b"CONNECT [fd00::1]:22 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic dTpw\r\n\r\n",
        b"POST http://peer.zt/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"\0\0\0\1\x0a\1\2\3\0\x50data",
    ):
        yield join((0, request))
        yield join(*((1, request[at : at + 3]) for at in range(0, len(request), 3)))
