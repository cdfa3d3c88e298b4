"""A real socket for a connection of a node elsewhere, on an event loop: a gRPC byte stream pumped through a loopback
TCP pair. ztclient.byte_stream says why."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

from ztclient.byte_stream import CHUNK
from ztclient.loopback import reset_on_close, socket_pair

if TYPE_CHECKING:
    from ztclient.aio.channel import Control
    from ztclient.v1 import node_pb2 as pb

_pumps: set[asyncio.Task[None]] = set()
"""An event loop keeps no more than a weak reference to a task."""


async def open_stream(
    control: Control, first: pb.StreamRequest, timeout: float | None
) -> tuple[socket.socket, pb.StreamOpened]:
    """Begin a byte stream with ``first`` (dial or token); its connected socket, which does not block, and its ends.

    ``timeout``: seconds until the stream must stand. Raises OSError.
    """
    import grpc

    call: Any = control.stub.Stream(metadata=control.metadata)
    try:
        with control.translated():
            async with asyncio.timeout(timeout):
                await call.write(first)
                response = await call.read()
        if response is grpc.aio.EOF or response.WhichOneof("message") != "opened":
            raise ConnectionResetError(errno.ECONNRESET, "the stream ended before it stood")
        near, far = socket_pair()
    except asyncio.InvalidStateError:
        # The call ended while we wrote; its status says why.
        raise await _reason(control, call) from None
    except TimeoutError as error:
        call.cancel()
        if error.errno is not None:
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"the node at {control.address} did not answer in time") from None
    except BaseException:
        call.cancel()
        raise
    near.setblocking(False)
    far.setblocking(False)
    task = asyncio.get_running_loop().create_task(_pump(call, far))
    _pumps.add(task)
    task.add_done_callback(_pumps.discard)
    return near, response.opened


async def _reason(control: Control, call: Any) -> Exception:
    import grpc

    return control.failure(
        grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    )


async def _pump(call: Any, far: socket.socket) -> None:
    """Both directions, until both have ended in good order; any other end is a reset on both sides."""
    import grpc

    tasks = [asyncio.create_task(_upload(call, far)), asyncio.create_task(_download(call, far))]
    try:
        await asyncio.gather(*tasks)
        # What the node says last: a reset that came after the end of the stream is none of ours.
    except (OSError, grpc.RpcError, asyncio.InvalidStateError):
        call.cancel()
        reset_on_close(far)
    except asyncio.CancelledError:
        call.cancel()
        reset_on_close(far)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        far.close()


async def _upload(call: Any, far: socket.socket) -> None:
    from ztclient.v1 import node_pb2 as pb

    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(far, CHUNK):
        await call.write(pb.StreamRequest(data=data))
    await call.write(pb.StreamRequest(half_close=pb.HalfClose()))
    await call.done_writing()


async def _download(call: Any, far: socket.socket) -> None:
    import grpc

    loop = asyncio.get_running_loop()
    ended = False
    while (response := await call.read()) is not grpc.aio.EOF:
        match response.WhichOneof("message"):
            case "data":
                await loop.sock_sendall(far, response.data)
            case "half_close":
                ended = True
                far.shutdown(socket.SHUT_WR)
    if not ended:
        raise ConnectionResetError(errno.ECONNRESET, "the connection was reset by its peer")
