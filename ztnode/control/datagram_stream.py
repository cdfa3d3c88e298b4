"""The datagrams of one UDP socket over gRPC: a pump between a call and the record socket that the worker hands over."""

from __future__ import annotations

import asyncio
import errno
import socket

import grpc

from ztclient import records
from ztclient.v1 import node_pb2 as pb
from ztnode.control import convert
from ztnode.control.failure import Context, invalid
from ztnode.node.api import Handoff


async def carry(context: Context, relay: socket.socket, handoff: Handoff) -> None:
    """Pump until the client ends its side; takes over ``relay`` (non-blocking). Raises RpcFailure, OSError."""
    with relay:
        await context.write(pb.DatagramsResponse(opened=convert.endpoint(handoff.local), token=handoff.token))
        down = asyncio.create_task(_to_client(context, relay))
        up = asyncio.create_task(_to_socket(context, relay))
        try:
            done, _ = await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            down.cancel()
            up.cancel()
            # The socket may be closed only when nobody waits on it any more.
            await asyncio.gather(down, up, return_exceptions=True)


async def _to_socket(context: Context, relay: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while (request := await context.read()) is not grpc.aio.EOF:
        if request.WhichOneof("message") != "datagram":
            raise invalid("after its first message a call for datagrams takes nothing else")
        datagram = request.datagram
        if len(datagram.data) > records.MAX_DATAGRAM:
            raise invalid(f"a datagram holds at most {records.MAX_DATAGRAM} bytes")
        ip, port = convert.ip_address(datagram.remote.ip), convert.port_number(datagram.remote.port)
        await loop.sock_sendall(relay, records.header(records.DATAGRAM, ip, port) + datagram.data)


async def _to_client(context: Context, relay: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while record := await loop.sock_recv(relay, records.MAX_RECORD):
        kind, ip, port, start = records.parse(record)
        remote = pb.Endpoint(ip=ip, port=port)
        if kind == records.DATAGRAM:
            message = pb.DatagramsResponse(datagram=pb.Datagram(remote=remote, data=record[start:]))
        else:
            number = records.error_number(record, start)
            reason = errno.errorcode.get(number, "EIO")
            message = pb.DatagramsResponse(
                failure=pb.DatagramFailure(remote=remote, reason=reason, refused=kind == records.REFUSED)
            )
        await context.write(message)
    raise OSError(errno.ENETDOWN, "the socket's network or its worker is gone")
