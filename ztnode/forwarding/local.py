"""The kernel's side of a mapping: listening sockets, accepted connections and dialled ones, TCP or Unix."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from ztnode.forwarding.mapping import LocalAddress, UnixAddress

BACKLOG: Final = 1024
"""Connections that may wait, from the overlay and from this machine: the servers behind have queues of their own."""
CONNECT_SECONDS: Final = 4.0
"""A server of this machine or its neighborhood answers within it, or is dead; the overlay's peer waits meanwhile."""
RETRY_SECONDS: Final = 0.2
"""After the system had no descriptor for one more connection."""

T = TypeVar("T")


def listen(address: LocalAddress) -> socket.socket:
    """A listening socket, non-blocking. A Unix socket is for its owner alone, and replaces one that nobody serves.
    Raises OSError with one line for a person."""
    try:
        if isinstance(address, UnixAddress):
            listener = _listen_unix(Path(address.path))
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {os.strerror(error.errno or 0)}") from None
    listener.setblocking(False)
    return listener


def _listen_unix(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "something else has this name")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
        raise OSError(errno.EADDRINUSE, "another program serves it")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def connect(address: LocalAddress, timeout: float = CONNECT_SECONDS) -> socket.socket:
    """A connected socket, non-blocking. Raises OSError with one line for a person."""
    try:
        async with asyncio.timeout(timeout):
            return await _connect(address)
    except TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, f"{address} does not answer") from None
    except socket.gaierror as error:
        raise OSError(errno.EHOSTUNREACH, f"{address}: {error.strerror}") from None
    except OSError as error:
        raise OSError(error.errno, f"{address}: {os.strerror(error.errno or 0)}") from None


async def _connect(address: LocalAddress) -> socket.socket:
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        return await _connected(socket.AF_UNIX, address.path)
    try:
        version = ipaddress.ip_address(address.host).version
    except ValueError:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    else:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        return await _connected(family, (address.host, address.port))
    failure: OSError | None = None
    for family, _type, _protocol, _name, where in found:
        try:
            return await _connected(family, where)
        except OSError as error:
            failure = failure or error
    raise failure or OSError(errno.EHOSTUNREACH, "no address")


async def _connected(family: int, where: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def next_connection(listener: socket.socket) -> socket.socket:
    """Accept, as soon as there is one and a descriptor for it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return (await loop.sock_accept(listener))[0]
        except ConnectionError:
            continue  # it ended in the queue
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            await asyncio.sleep(RETRY_SECONDS)


class Crowd:
    """Tasks at work on one connection each, so many at once at most; they end with it. A context manager."""

    def __init__(self, limit: int) -> None:
        self._room = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, arrival: Callable[[], Awaitable[T]], work: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        """Wait for room, then for the next one, and let a task work on it."""
        await self._room.acquire()
        try:
            item = await arrival()
        except BaseException:
            self._room.release()
            raise
        task = asyncio.create_task(work(item))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
