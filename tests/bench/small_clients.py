"""Programs that ask for little: eight threads of http.client, a selector with a hundred connections, POSTs."""

from __future__ import annotations

import http.client
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.bench.http_peer import CHUNK, Incomplete, content_length

THREADS: Final = 8
CONNECTIONS: Final = 100
POSTED: Final = bytes(1024)

Connect = Callable[[], socket.socket]


def threads(connect: Connect, path: str, count: int) -> list[float]:
    """``count`` GETs of http.client, by eight threads with a connection each; seconds of each."""

    def ask(_: int) -> list[float]:
        return _asked(connect(), "GET", path, None, count // THREADS)

    with ThreadPoolExecutor(THREADS) as pool:
        return [second for times in pool.map(ask, range(THREADS)) for second in times]


def posts(connect: Connect, path: str, count: int) -> list[float]:
    """``count`` POSTs of 1 KB by http.client on one connection; seconds of each."""
    return _asked(connect(), "POST", path, POSTED, count)


def _asked(sock: socket.socket, method: str, path: str, body: bytes | None, count: int) -> list[float]:
    connection = http.client.HTTPConnection("peer.example")
    connection.sock = sock
    times = []
    try:
        for _ in range(count):
            began = time.perf_counter()
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - began)
            if answer.status != http.client.OK:
                raise Incomplete(f"status {answer.status}")
    finally:
        connection.close()
    return times


def selector(connect: Connect, path: str, count: int) -> None:
    """``count`` GETs by one thread, on a hundred connections with one under way on each."""
    question = f"GET {path} HTTP/1.1\r\nHost: peer.example\r\n\r\n".encode()
    buffer = bytearray(CHUNK)
    asked = answered = 0
    with selectors.DefaultSelector() as ready:
        for _ in range(min(CONNECTIONS, count)):
            made = connect()
            made.setblocking(False)
            ready.register(made, selectors.EVENT_READ, bytearray())
            made.send(question)
            asked += 1
        while answered < count:
            for key, _ in ready.select():
                sock, received = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                size = sock.recv_into(buffer)
                if not size:
                    raise Incomplete("the server closed between requests")
                received += buffer[:size]
                head, found, body = bytes(received).partition(b"\r\n\r\n")
                if not found or len(body) < content_length(head):
                    continue
                received.clear()
                answered += 1
                if asked < count:
                    sock.send(question)
                    asked += 1
        for key in list(ready.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
