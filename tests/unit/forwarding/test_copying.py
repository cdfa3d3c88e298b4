"""Requests in absolute form where the bytes pass through the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from ztnode.forwarding import proxy_service
from ztnode.worker.loan import Loan

ASKED = b"GET http://one/ HTTP/1.1\r\n\r\n"
OTHER = b"GET http://two/ HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def copied(data: bytes, answer: bytes, *, half_closed: bool = False) -> tuple[bytes | None, bytes]:
    """What is for another server when a client has said ``data`` and the server ``answer``, but neither the end (None:
    that took too long); and what the client got."""

    async def scenario() -> tuple[bytes | None, bytes]:
        (client, near), (server, far) = socket.socketpair(), socket.socketpair()
        with client, near, server, far:
            for each in (client, near, server, far):
                each.setblocking(False)
            if half_closed:
                client.shutdown(socket.SHUT_WR)
            far.send(answer)
            copying = proxy_service._Copying(None, near, server)
            rest: bytes | None = None
            with contextlib.suppress(TimeoutError):
                rest = await copying.run(Loan("one", 80, None, data))
            near.close()
            got = b""
            while part := client.recv(1000):
                got += part
            return rest, got

    return asyncio.run(asyncio.wait_for(scenario(), 30))


def test_who_asks_another_has_the_answers_and_nothing_more() -> None:
    assert copied(ASKED + ASKED + OTHER, ANSWER * 2) == (OTHER, ANSWER * 2)
    assert copied(ASKED + OTHER, ANSWER + b"HTTP/1.1 200 A lie about two\r\n\r\n")[1] == ANSWER


@pytest.mark.parametrize(("data", "half_closed"), [(ASKED, False), (ASKED, True), (ASKED + OTHER, False)])
def test_a_server_that_says_nothing_keeps_nobody(
    data: bytes, half_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_service, "IDLE_SECONDS", 0.1)
    assert copied(data, b"", half_closed=half_closed) == (None, b"")
