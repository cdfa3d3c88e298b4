"""UDP on an event loop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from ztclient import records
from ztclient.aio import handoff
from ztclient.datagrams import DatagramSocket, as_record

if TYPE_CHECKING:
    from ztclient.aio.channel import Control
    from ztclient.v1 import node_pb2 as pb

BATCH = 64
"""Datagrams received before others have their turn."""
QUEUE_BYTES = 1 << 20
"""Of datagrams that wait to be sent; what is more is dropped, as UDP may."""

_pumps: set[asyncio.Task[None]] = set()


class OverlayTransport(asyncio.DatagramTransport):
    """One DatagramSocket and its protocol. uvloop's own transports speak to the kernel past Python's sockets."""

    def __init__(self, sock: DatagramSocket, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, Any]] = deque()
        self._bytes = 0
        self._closing = False
        self._loop.call_soon(protocol.connection_made, self)
        self._loop.call_soon(self._begin)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one datagram, to the connected remote without ``addr``. Errors go to the protocol."""
        if self._closing:
            return
        if self._waiting or not self._send(bytes(data), addr):
            if self._bytes + len(data) > QUEUE_BYTES:
                return
            if not self._waiting:
                self._loop.add_writer(self._sock, self._on_room)
            self._waiting.append((bytes(data), addr))
            self._bytes += len(data)

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._closing

    def close(self) -> None:
        """Send what waits, then close."""
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._sock)
            if not self._waiting:
                self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        """Close at once."""
        if self._waiting:
            self._loop.remove_writer(self._sock)
            self._waiting.clear()
        if self._closing:
            self._loop.call_soon(self._end, None)
        self.close()

    def _begin(self) -> None:
        if not self._closing:
            self._loop.add_reader(self._sock, self._on_datagram)

    def _send(self, data: bytes, addr: Any) -> bool:
        try:
            if addr is None:
                self._sock.send(data)
            else:
                self._sock.sendto(data, addr)
        except BlockingIOError:
            return False
        except OSError as error:
            self._protocol.error_received(error)
        return True

    def _on_room(self) -> None:
        while self._waiting:
            data, addr = self._waiting[0]
            if not self._send(data, addr):
                return
            self._waiting.popleft()
            self._bytes -= len(data)
        self._loop.remove_writer(self._sock)
        if self._closing:
            self._end(None)

    def _on_datagram(self) -> None:
        for _ in range(BATCH):
            if self._closing:
                return
            try:
                data, address = self._sock.recvfrom(records.MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    self._closing = True
                    self._loop.remove_reader(self._sock)
                    self._end(error)
                else:
                    self._protocol.error_received(error)
                return
            self._protocol.datagram_received(data, address)

    def _end(self, reason: Exception | None) -> None:
        if self._sock.fileno() >= 0:
            self._protocol.connection_lost(reason)
            self._sock.close()


async def open_udp(control: Control, request: pb.OpenUdpRequest) -> DatagramSocket:
    """A UDP socket, which does not block, as ``request`` asks for it. Raises OSError."""
    if control.address.scheme == "unix":
        answer: pb.OpenUdpResponse = await control.call(control.stub.OpenUdp, request)
        try:
            plain = await handoff.claim(answer.handoff_path, answer.token)
        except (FileNotFoundError, PermissionError):
            pass  # in a container without the worker's socket
        else:
            return _not_blocking(DatagramSocket(plain, (answer.local.ip, answer.local.port), answer.token))
    return await _by_stream(control, request)


def _not_blocking(sock: DatagramSocket) -> DatagramSocket:
    sock.setblocking(False)
    return sock


async def _by_stream(control: Control, request: pb.OpenUdpRequest) -> DatagramSocket:
    import grpc

    from ztclient.v1 import node_pb2 as pb

    call: Any = control.stub.Datagrams(metadata=control.metadata)
    try:
        with control.translated():
            await call.write(pb.DatagramsRequest(open=request))
            response = await call.read()
        if response is grpc.aio.EOF:
            raise OSError(errno.ENETDOWN, "the node ended the call")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except BaseException:
        call.cancel()
        raise
    far.setblocking(False)
    task = asyncio.get_running_loop().create_task(_pump(call, far))
    _pumps.add(task)
    task.add_done_callback(_pumps.discard)
    return _not_blocking(DatagramSocket(near, (response.opened.ip, response.opened.port), response.token))


async def _pump(call: Any, far: socket.socket) -> None:
    tasks = [asyncio.create_task(_upload(call, far)), asyncio.create_task(_download(call, far))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        call.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        far.close()


async def _upload(call: Any, far: socket.socket) -> None:
    from ztclient.v1 import node_pb2 as pb

    loop = asyncio.get_running_loop()
    while record := await loop.sock_recv(far, records.MAX_RECORD):
        _, ip, port, start = records.parse(record)
        datagram = pb.Datagram(remote=pb.Endpoint(ip=ip, port=port), data=record[start:])
        await call.write(pb.DatagramsRequest(datagram=datagram))


async def _download(call: Any, far: socket.socket) -> None:
    import grpc

    loop = asyncio.get_running_loop()
    while (response := await call.read()) is not grpc.aio.EOF:
        await loop.sock_sendall(far, as_record(response))
