"""The gRPC byte stream: a pump between one Stream call and the connected socket that the worker hands over.

Backpressure needs no code of its own: a message is read from the call only after the one before has gone into the
socket, and from the socket only after the one before has gone into the call, so gRPC's flow control and the TCP window
meet. Whatever ends the call other than a half-close from both sides closes the socket with a reset, which the worker
passes on to the peer: truncated data must not look complete.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Coroutine

import grpc

from ztclient.byte_stream import CHUNK
from ztclient.loopback import reset_on_close
from ztclient.v1 import node_pb2 as pb
from ztnode.control import convert
from ztnode.control.failure import Context, invalid
from ztnode.node.api import Handoff


async def carry(context: Context, connected: socket.socket, handoff: Handoff) -> None:
    """Pump until both directions are closed; takes over ``connected`` (non-blocking).

    Raises RpcFailure for a client that breaks the protocol and OSError when the connection fails.
    """
    with connected:
        complete = False
        try:
            await context.write(
                pb.StreamResponse(
                    opened=pb.StreamOpened(
                        local=convert.endpoint(handoff.local), remote=convert.endpoint(handoff.remote)
                    )
                )
            )
            await _both(_to_socket(context, connected), _to_client(context, connected))
            complete = True
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ENOTCONN):
                raise
            # What a write or a half-close sees of a reset that came before it.
            raise ConnectionResetError(errno.ECONNRESET, "the connection was reset by its peer") from error
        finally:
            if not complete:
                reset_on_close(connected)


async def _both(*pumps: Coroutine[None, None, None]) -> None:
    """Run the pumps together; the first failure ends the others and is raised."""
    tasks = [asyncio.create_task(pump) for pump in pumps]
    try:
        done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        # The socket may be closed only when nobody waits on it any more.
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_socket(context: Context, connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        request = await context.read()
        if request is grpc.aio.EOF:
            raise OSError(errno.ECONNABORTED, "the client ended the call without half_close: the connection was reset")
        match request.WhichOneof("message"):
            case "data":
                await loop.sock_sendall(connected, request.data)
            case "half_close":
                connected.shutdown(socket.SHUT_WR)
                return
            case other:
                raise invalid(f"a stream takes data or half_close after its first message, not {other}")


async def _to_client(context: Context, connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(connected, CHUNK):
        await context.write(pb.StreamResponse(data=data))
    await context.write(pb.StreamResponse(half_close=pb.HalfClose()))
