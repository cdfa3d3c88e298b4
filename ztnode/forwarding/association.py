"""SOCKS5's UDP ASSOCIATE (RFC 1928, section 7): datagrams of one client, for as long as its connection stands."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Final

from ztclient.aio.handoff import readable
from ztnode.forwarding.overlay import Overlay
from ztnode.proxy import BadHandshake
from ztnode.proxy.socks5 import build_datagram, parse_datagram
from ztnode.worker.udp_pairs import DATAGRAM, MAX_DATAGRAM, build_record, parse_record

BATCH: Final = 64
"""Datagrams of one side before anything else has its turn."""


class Association:
    """A local UDP socket for the client and one of the overlay. What finds no room is dropped, as datagrams are."""

    def __init__(self, near: socket.socket, far: socket.socket, client: str, port: int) -> None:
        """``near``: bound to a local port, for the client at the address ``client`` and from its ``port`` (0: from
        whichever it sends first). ``far``: records of ``worker/udp_pairs.py``. Both are taken over, non-blocking."""
        self._near = near
        self._far = far
        self._host = client
        self._client = (client, port) if port else None

    async def run(self, control: socket.socket) -> None:
        """Until ``control``, the client's connection, ends."""
        loop = asyncio.get_running_loop()
        with self._near, self._far:
            loop.add_reader(self._near, self._many, self._outward)
            loop.add_reader(self._far, self._many, self._inward)
            try:
                while True:
                    await readable(control)
                    with contextlib.suppress(OSError):
                        if control.recv(4096):
                            continue  # there is nothing to say any more; it is not kept
                    return
            finally:
                loop.remove_reader(self._near)
                loop.remove_reader(self._far)

    def _many(self, one: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            for _ in range(BATCH):
                one()

    def _outward(self) -> None:
        data, source = self._near.recvfrom(MAX_DATAGRAM)
        if source[0] != self._host or (self._client is not None and source[:2] != self._client):
            return
        try:
            host, port, payload = parse_datagram(data)
            packed = ipaddress.ip_address(host).packed
        except (BadHandshake, ValueError):
            return  # a fragment, or a name, which the overlay has none of
        self._client = source[0], source[1]
        with contextlib.suppress(OSError):
            self._far.send(build_record(packed, port, payload))

    def _inward(self) -> None:
        record = self._far.recv(MAX_DATAGRAM + 64)
        if not record:
            raise BlockingIOError
        kind, host, port, payload = parse_record(record)
        if kind == DATAGRAM and self._client is not None:
            with contextlib.suppress(OSError):
                self._near.sendto(build_datagram(host, port, payload), self._client)


async def associate(overlay: Overlay, control: socket.socket, port: int) -> tuple[Association, tuple[str, int]]:
    """An association for the client of ``control``, and where it listens for it. Raises OSError."""
    here, client = control.getsockname()[0], control.getpeername()[0]
    near = socket.socket(control.family, socket.SOCK_DGRAM)
    try:
        near.setblocking(False)
        near.bind((here, 0))
        far = await overlay.open_udp()
    except BaseException:
        near.close()
        raise
    return Association(near, far, client, port), (here, near.getsockname()[1])
