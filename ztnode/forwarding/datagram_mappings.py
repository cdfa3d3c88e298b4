"""UDP mappings: datagrams from many senders, each with a socket of its own on the other side until it has been idle."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from ztclient.forms import is_numeric
from ztnode.forwarding.mapping import Expose, Forward, LocalAddress, TcpAddress
from ztnode.forwarding.overlay import Overlay
from ztnode.socket_watch import Watch
from ztnode.worker.udp_pairs import DATAGRAM, FAILURE, MAX_DATAGRAM, build_record, parse_record

IDLE_SECONDS: Final = 60.0
"""After the last datagram either way a sender's socket is given up; the next one gets another."""
FLOWS: Final = 256
"""Senders of one mapping at a time; one more takes the place of the one idle longest."""
EARLY: Final = 16
"""Datagrams of a sender that are kept while its socket is being made."""
BATCH: Final = 64
"""Datagrams of one socket before anything else has its turn."""
AGAIN_SECONDS: Final = 2.0
"""Before a node tries again to listen where it could not."""

Tell = Callable[[str], None]


class _Flow:
    """One sender. ``sock``: its socket on the other side, once that is made."""

    def __init__(self, sender: Any, now: float) -> None:
        self.sender = sender
        self.used = now
        self.sock: socket.socket | None = None
        self.watch: Watch | None = None
        self.early: list[bytes] = []
        self.opening: asyncio.Task[None] | None = None


class _Flows(ABC):
    """The senders of one mapping, in the order in which they were heard last."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._flows: dict[Any, _Flow] = {}

    @abstractmethod
    async def _open(self) -> socket.socket:
        """A socket for the sender, non-blocking. Raises OSError."""

    @abstractmethod
    def _send(self, sock: socket.socket, data: bytes) -> None:
        """Send to the target. Raises OSError."""

    @abstractmethod
    def _receive(self, flow: _Flow, sock: socket.socket) -> None:
        """Pass on one datagram that the target sent. Raises OSError: BlockingIOError when there is none, any other ends
        the flow."""

    def arrived(self, sender: Any, data: bytes) -> None:
        """A sender sends this. What finds no room is dropped, as datagrams are."""
        now = asyncio.get_running_loop().time()
        flow = self._flows.pop(sender, None)
        if flow is None:
            if len(self._flows) >= FLOWS:
                self._end(next(iter(self._flows.values())))
            flow = _Flow(sender, now)
            flow.opening = asyncio.create_task(self._begin(flow))
        self._flows[sender] = flow
        flow.used = now
        if flow.sock is not None:
            self._pass(flow.sock, data)
        elif len(flow.early) < EARLY:
            flow.early.append(data)

    async def _begin(self, flow: _Flow) -> None:
        try:
            sock = await self._open()
        except OSError as error:
            self._tell(error.strerror or str(error))
            self._flows.pop(flow.sender, None)
            return
        flow.sock = sock
        try:
            flow.watch = Watch(sock, self._answered, flow, sock)
        except OSError as error:
            self._tell(error.strerror or str(error))
            self._end(flow)
            return
        early, flow.early = flow.early, []
        for data in early:
            self._pass(sock, data)

    def _pass(self, sock: socket.socket, data: bytes) -> None:
        try:
            self._send(sock, data)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                self._tell(_words(error))

    def _answered(self, flow: _Flow, sock: socket.socket) -> None:
        flow.used = asyncio.get_running_loop().time()
        with contextlib.suppress(BlockingIOError):
            try:
                for _ in range(BATCH):
                    self._receive(flow, sock)
            except BlockingIOError:
                raise
            except ConnectionRefusedError as error:
                self._tell(_words(error))
            except OSError:
                self._end(flow)

    async def expire(self) -> None:
        """End those that have been idle; until cancelled."""
        while True:
            await asyncio.sleep(IDLE_SECONDS / 4)
            now = asyncio.get_running_loop().time()
            for flow in [flow for flow in self._flows.values() if now - flow.used >= IDLE_SECONDS]:
                self._end(flow)

    def close(self) -> None:
        """End all."""
        for flow in list(self._flows.values()):
            self._end(flow)

    def _end(self, flow: _Flow) -> None:
        if self._flows.get(flow.sender) is flow:
            del self._flows[flow.sender]
        if flow.opening is not None:
            flow.opening.cancel()
        if flow.watch is not None:
            flow.watch.stop()
            flow.watch = None
        if flow.sock is not None:
            flow.sock.close()
            flow.sock = None


class UdpForwarding(_Flows):
    """A UDP port of this machine, carried to one of the overlay."""

    def __init__(self, overlay: Overlay, mapping: Forward, tell: Tell) -> None:
        super().__init__(lambda text: tell(f"{mapping}: {text}"))
        self._overlay = overlay
        self._mapping = mapping
        self._near: socket.socket | None = None
        self._target = b"", 0

    def open(self) -> str:
        """Bind; a line on the mapping. Raises OSError with one line for a person."""
        local = self._mapping.local
        assert isinstance(local, TcpAddress)  # mapping.py lets no other be UDP
        near = socket.socket(socket.AF_INET6 if ":" in local.host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            near.setblocking(False)
            near.bind((local.host, local.port))
        except OSError as error:
            near.close()
            raise OSError(error.errno, f"cannot bind UDP at {local}: {os.strerror(error.errno or 0)}") from None
        self._near = near
        return f"forwarding UDP {TcpAddress(*near.getsockname()[:2])} to {self._mapping.remote}"

    def close(self) -> None:
        """See _Flows."""
        super().close()
        if self._near is not None:
            self._near.close()

    async def run(self) -> None:
        """Until cancelled."""
        assert self._near is not None
        loop = asyncio.get_running_loop()
        loop.add_reader(self._near, self._many, self._near)
        try:
            await self.expire()
        finally:
            loop.remove_reader(self._near)

    def _many(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(BATCH):
                data, sender = near.recvfrom(MAX_DATAGRAM)
                self.arrived(sender, data)

    async def _open(self) -> socket.socket:
        remote = self._mapping.remote
        ip = remote.host if is_numeric(remote.host) else await self._overlay.resolve(remote.host)
        self._target = ip_address(ip).packed, remote.port
        return await self._overlay.open_udp()

    def _send(self, sock: socket.socket, data: bytes) -> None:
        sock.send(build_record(*self._target, data))

    def _receive(self, flow: _Flow, sock: socket.socket) -> None:
        record = sock.recv(MAX_DATAGRAM + 64)
        if not record:
            raise ConnectionResetError(errno.ECONNRESET, "the overlay's socket is gone")
        kind, host, port, data = parse_record(record)
        if (ip_address(host).packed, port) != self._target:
            return  # a stranger's
        if kind == FAILURE:
            self._tell(os.strerror(int.from_bytes(data[:4], "big")))
        elif kind == DATAGRAM and self._near is not None:
            with contextlib.suppress(OSError):
                self._near.sendto(data, flow.sender)


class UdpExposing(_Flows):
    """A UDP port of the overlay, carried to a server of this machine."""

    def __init__(self, overlay: Overlay, mapping: Expose, tell: Tell, *, patient: bool) -> None:
        super().__init__(lambda text: tell(f"{mapping}: {text}"))
        self._overlay = overlay
        self._mapping = mapping
        self._patient = patient
        self._far: socket.socket | None = None
        self._ended = asyncio.Event()

    async def open(self) -> str:
        """Bind; a line on the mapping. Raises OSError with one line for a person."""
        where = self._mapping.overlay
        try:
            self._far = await self._overlay.open_udp(where.host or None, where.port)
        except OSError as error:
            if not self._patient or error.errno not in (errno.EADDRNOTAVAIL, errno.ENETDOWN):
                raise
            return f"exposing UDP {self._mapping.local} at {where} as soon as this node has that address"
        return f"exposing UDP {self._mapping.local} at {where}"

    def close(self) -> None:
        """See _Flows."""
        super().close()
        if self._far is not None:
            self._far.close()
            self._far = None

    async def run(self) -> None:
        """Until cancelled. Raises OSError where it cannot go on and is not patient."""
        expiring = asyncio.create_task(self.expire())
        try:
            while True:
                with contextlib.suppress(OSError):
                    if self._far is None:
                        await self.open()
                if self._far is not None:
                    await self._carry(self._far)
                    self.close()
                    if not self._patient:
                        raise ConnectionResetError(errno.ECONNRESET, f"{self._mapping}: the overlay's socket is gone")
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            expiring.cancel()

    async def _carry(self, far: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._ended.clear()
        loop.add_reader(far, self._many, far)
        try:
            await self._ended.wait()
        finally:
            loop.remove_reader(far)

    def _many(self, far: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                try:
                    record = far.recv(MAX_DATAGRAM + 64)
                except BlockingIOError:
                    raise
                except OSError:
                    record = b""
                if not record:
                    self._ended.set()
                    return
                kind, host, port, data = parse_record(record)
                if kind == DATAGRAM:
                    self.arrived((host, port), data)

    async def _open(self) -> socket.socket:
        local: LocalAddress = self._mapping.local
        assert isinstance(local, TcpAddress)
        found = await asyncio.get_running_loop().getaddrinfo(local.host, local.port, type=socket.SOCK_DGRAM)
        family, kind, _, _, where = found[0]
        near = socket.socket(family, kind)
        try:
            near.setblocking(False)
            near.connect(where)
        except BaseException:
            near.close()
            raise
        return near

    def _send(self, sock: socket.socket, data: bytes) -> None:
        sock.send(data)

    def _receive(self, flow: _Flow, sock: socket.socket) -> None:
        data = sock.recv(MAX_DATAGRAM)
        if self._far is not None:
            host, port = flow.sender
            with contextlib.suppress(OSError):
                self._far.send(build_record(ip_address(host).packed, port, data))


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else str(error)
