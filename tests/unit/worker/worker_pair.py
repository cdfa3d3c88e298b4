"""Two hosts without an overlay: the frames of one supervisor's workers go straight to the other's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import uvloop

from ztnode.node.api import Handoff
from ztnode.node.supervisor import Supervisor
from ztnode.worker.tcp_pair import RESET_ON_CLOSE

NWID = 0x8056C2E21C000001
A, B = "10.121.0.1", "10.121.0.2"
A6, B6 = "fd00::1", "fd00::2"


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on the loop that the node uses."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


def fetch(handoff: Handoff) -> socket.socket:
    """What a client does with a Handoff; the socket does not block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(handoff.path)
        sock.sendall(handoff.token)
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    if not fds:
        raise ConnectionRefusedError("the worker did not accept the token")
    client = socket.socket(fileno=fds[0])
    client.setblocking(False)
    return client


class Pair:
    """Supervisors ``a`` and ``b`` on one Ethernet."""

    def __init__(self, directory: Path, workers: int = 1) -> None:
        self.drop: Callable[[memoryview], bool] = lambda _frame: False
        self.frames = 0
        for name in "ab":
            (directory / name).mkdir()
        self.a = Supervisor(directory / "a", lambda records: self._pass(records, self.b), workers=workers)
        self.b = Supervisor(directory / "b", lambda records: self._pass(records, self.a), workers=workers)

    def _pass(self, records: list[tuple[int, memoryview]], to: Supervisor) -> None:
        self.frames += len(records)
        to.send_frames([(index, (frame[:14], frame[14:])) for index, frame in records if not self.drop(frame)])

    async def start(self) -> None:
        await asyncio.gather(self.a.start(), self.b.start())
        await asyncio.gather(self.a.ready(), self.b.ready())
        for supervisor, mac, addresses in (
            (self.a, 0x020000000001, [f"{A}/24", f"{A6}/64"]),
            (self.b, 0x020000000002, [f"{B}/24", f"{B6}/64"]),
        ):
            supervisor.port_up(7, nwid=NWID, mac=mac, mtu=2800, addresses=addresses, routes=[])

    async def connect(self, host: str = B) -> tuple[socket.socket, socket.socket]:
        """A connection from a to b: both clients' sockets."""
        listener, (_, port) = await self.b.listen(None, 0)
        accepting = asyncio.create_task(self.b.accept(listener))
        dialled = fetch(await self.a.dial(host, port))
        accepted = fetch(await accepting)
        await self.b.close_listener(listener)
        return dialled, accepted

    async def stop(self) -> None:
        await asyncio.gather(self.a.stop(), self.b.stop())


@contextlib.asynccontextmanager
async def running_pair(directory: Path, workers: int = 1) -> AsyncIterator[Pair]:
    """A pair, started, and stopped afterwards."""
    pair = Pair(directory, workers)
    await pair.start()
    try:
        yield pair
    finally:
        await pair.stop()


@contextlib.asynccontextmanager
async def connected_pair(directory: Path, host: str = B) -> AsyncIterator[tuple[Pair, socket.socket, socket.socket]]:
    """A running pair with a connection from a to b: both clients' sockets, closed afterwards."""
    async with running_pair(directory) as pair:
        dialled, accepted = await pair.connect(host)
        with dialled, accepted:
            yield pair, dialled, accepted


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; the limit is for what will never come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


def holds(sock: socket.socket, data: bytes) -> bool:
    """Whether the next that the socket will give is ``data``, all of it."""
    with contextlib.suppress(BlockingIOError):
        return sock.recv(len(data), socket.MSG_PEEK) == data
    return False


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


async def read_all(sock: socket.socket) -> bytes:
    """Up to the end of stream. Raises ConnectionResetError."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while piece := await loop.sock_recv(sock, 1 << 18):
        data += piece
    return bytes(data)
