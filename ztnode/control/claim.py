"""The node's own way to claim a connection, on behalf of a client that reaches it by gRPC alone."""

from __future__ import annotations

import errno
import socket

from ztclient.aio import handoff as client
from ztnode.node.api import Handoff


async def claim(handoff: Handoff) -> socket.socket:
    """Fetch the connected socket, non-blocking, from the worker. Raises OSError; ECONNRESET when the worker no longer
    has the connection."""
    try:
        return await client.claim(handoff.path, handoff.token)
    except FileNotFoundError as error:
        raise OSError(errno.ECONNRESET, "the stack worker that held the connection is gone") from error
