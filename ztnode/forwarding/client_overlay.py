"""The overlay of a node that is reached by its control plane, on this machine or from afar."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import ztclient
from ztclient.aio.handoff import ask_to_join
from ztclient.byte_stream import Pump
from ztclient.datagrams import open_records
from ztclient.destination import Destination
from ztclient.forms import is_numeric
from ztclient.loopback import reset_on_close, socket_pair, tuned
from ztclient.reach import SLACK, resolved, udp_request
from ztclient.v1 import node_pb2 as pb
from ztnode.forwarding.attendance import Attendance
from ztnode.forwarding.local import BACKLOG
from ztnode.node.api import Handoff
from ztnode.node.handoffs import claim, drop, give
from ztnode.wire.endpoint import Endpoint

if TYPE_CHECKING:
    import grpc

    from ztclient.channel import Control


class ClientOverlay:
    """See ``forwarding.overlay.Overlay``. No thread waits for a dial or for a connection to accept."""

    def __init__(self, node: ztclient.Node) -> None:
        self._node = node
        self._leases: dict[int, grpc.Call] = {}
        self._attended: dict[int, Attendance] = {}

    async def dial(self, host: str, port: int, timeout: float) -> Handoff:
        """See Overlay."""
        control = self._node.control
        request = Destination(host, port, timeout).message()
        call = control.stub.Dial.future(request, timeout=timeout + SLACK, metadata=control.metadata)
        answer: pb.DialResponse = await _answer(control, call)
        control.learn(answer)
        return _handoff(answer.connection)

    async def connect(self, host: str, port: int, timeout: float, connected: socket.socket) -> None:
        """See Overlay."""
        control = self._node.control
        path = control.direct_path
        if path and is_numeric(host):
            began = time.monotonic()
            if await ask_to_join(path, Destination(host, port, timeout), control.idle, connected):
                connected.close()
                return
            timeout = max(timeout - (time.monotonic() - began), 0.001)
        await self.join(await self.dial(host, port, timeout), connected)

    async def listen(self, host: str | None, port: int) -> tuple[int, Endpoint]:
        """See Overlay."""
        control = self._node.control
        request = pb.ListenRequest(ip=host or "", port=port, backlog=BACKLOG)
        lease: Any = control.stub.Listen(request, metadata=control.metadata)
        with control.translated():
            answer = await asyncio.to_thread(next, lease, None)
        if answer is None:
            raise ConnectionAbortedError("the node ended the call")
        self._leases[answer.listener_id] = lease
        if answer.handoff_path:
            self._attended[answer.listener_id] = Attendance(answer.handoff_path, answer.token, lease.is_active)
        return answer.listener_id, (answer.bound.ip, answer.bound.port)

    async def accept(self, listener: int) -> Handoff:
        """See Overlay."""
        attended = self._attended.get(listener)
        if attended is not None and (handoff := await attended.next()) is not None:
            return handoff
        control = self._node.control
        call = control.stub.Accept.future(pb.AcceptRequest(listener_id=listener), metadata=control.metadata)
        return _handoff((await _answer(control, call)).connection)

    async def close_listener(self, listener: int) -> None:
        """See Overlay."""
        if (attended := self._attended.pop(listener, None)) is not None:
            attended.close()
        if (lease := self._leases.pop(listener, None)) is not None:
            lease.cancel()

    async def join(self, handoff: Handoff, connected: socket.socket) -> None:
        """See Overlay. From afar, or where the worker's socket is out of reach, the bytes go by a stream of the control
        plane."""
        if handoff.path:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                await give(handoff, connected)
                return
        await self._pump(handoff, connected)

    async def dial_and_lend(
        self, host: str, port: int, timeout: float, client: socket.socket, way_back: socket.socket
    ) -> bool:
        """See Overlay."""
        control = self._node.control
        if not control.direct_path or not is_numeric(host):
            return False
        return await ask_to_join(control.direct_path, Destination(host, port, timeout), control.idle, client, way_back)

    async def lend(self, handoff: Handoff, client: socket.socket, way_back: socket.socket) -> bool:
        """See Overlay."""
        if not _within_reach(handoff):
            return False
        await give(handoff, client, way_back)
        return True

    async def fetch(self, handoff: Handoff) -> socket.socket:
        """See Overlay."""
        if _within_reach(handoff):
            return await claim(handoff)
        near, far = socket_pair()
        try:
            await self._pump(handoff, far)
        except BaseException:
            near.close()
            raise
        near.setblocking(False)
        return near

    async def open_udp(self, host: str | None = None, port: int = 0) -> socket.socket:
        """See Overlay."""
        request = udp_request(host or "", port, None)
        plain, _bound, _token = await asyncio.to_thread(open_records, self._node.control, request)
        plain.setblocking(False)
        return plain

    async def resolve(self, name: str) -> str:
        """See Overlay."""
        control = self._node.control
        call = control.stub.Resolve.future(pb.ResolveRequest(name=name), metadata=control.metadata)
        return resolved(name, await _answer(control, call))[0]

    async def is_foreign(self, name: str) -> bool:
        """See Overlay."""
        control = self._node.control
        call = control.stub.Resolve.future(pb.ResolveRequest(name=name), metadata=control.metadata)
        answer: pb.ResolveResponse = await _answer(control, call)
        return answer.foreign

    async def drop(self, handoff: Handoff) -> None:
        """See Overlay."""
        if handoff.path:
            await drop(handoff)
            return
        near, far = socket_pair()
        with near, contextlib.suppress(OSError):
            # Only a stream that stands passes a reset on for certain.
            await self._pump(handoff, far)
            reset_on_close(near)

    async def _pump(self, handoff: Handoff, connected: socket.socket) -> None:
        far = socket.socket(fileno=connected.detach())
        if far.family == socket.AF_UNIX:
            far.settimeout(None)
        else:
            tuned(far)
        pump = Pump(self._node.control, pb.StreamRequest(token=handoff.token), far)
        await asyncio.wrap_future(pump.opened)


def _within_reach(handoff: Handoff) -> bool:
    return bool(handoff.path) and os.access(handoff.path, os.W_OK)


async def _answer(control: Control, call: Any) -> Any:
    """What a call answers; it is cancelled with us. Raises OSError."""
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()

    def wake(_call: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(answered.set)

    call.add_done_callback(wake)
    try:
        await answered.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    with control.translated():
        return call.result()


def _handoff(connection: pb.Connection) -> Handoff:
    local, remote = connection.local, connection.remote
    return Handoff(connection.handoff_path, connection.token, (local.ip, local.port), (remote.ip, remote.port))
