"""A listener's connections from the stack worker itself, on an event loop: see ztclient.accept_channel."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from ztclient.accept_channel import check
from ztclient.aio.handoff import connect, readable
from ztclient.handoff import CLAIM_TIMEOUT


async def attend(path: str, message: bytes) -> socket.socket:
    """A channel (non-blocking) on which the worker brings connections. Raises OSError."""
    with contextlib.ExitStack() as undo:
        channel = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        channel.setblocking(False)
        async with asyncio.timeout(CLAIM_TIMEOUT):
            await connect(channel, path)
            channel.send(message)
            await readable(channel)
        check(channel.recv(1))
        undo.pop_all()
    return channel
