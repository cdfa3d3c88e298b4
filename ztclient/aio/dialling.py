"""From a call that opens or accepts a connection to its socket, on an event loop: see ztclient.dialling."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ztclient.aio import byte_stream, handoff
from ztclient.forms import is_numeric
from ztclient.handoff import CLAIM_TIMEOUT
from ztclient.overlay_socket import Connection, connection
from ztclient.times import remaining

if TYPE_CHECKING:
    from ztclient.aio.channel import Control
    from ztclient.v1 import node_pb2 as pb


async def dial(control: Control, request: pb.DialRequest, timeout: float) -> Connection:
    """A connected socket, which does not block, as ``request`` asks for it. ``timeout``: seconds until the node must
    have answered. Raises OSError."""
    from ztclient.v1 import node_pb2 as pb

    if control.address.scheme != "unix":
        return await _by_stream(control, pb.StreamRequest(dial=request), timeout)
    if control.direct_path and is_numeric(request.ip):
        began = time.monotonic()
        asked = await handoff.ask(control.direct_path, request, control.idle)
        if asked is not None:
            return asked
        request.timeout.CopyFrom(remaining(request.timeout, began))
    answer: pb.DialResponse = await control.call(control.stub.Dial, request, timeout)
    control.learn(answer)
    return await connected_socket(control, answer.connection)


async def connected_socket(control: Control, made: pb.Connection) -> Connection:
    """The socket of a connection that Dial or Accept gave, by hand-off where that is possible."""
    from ztclient.v1 import node_pb2 as pb

    if made.handoff_path:
        try:
            plain = await handoff.claim(made.handoff_path, made.token)
            return connection(plain, (made.local.ip, made.local.port), (made.remote.ip, made.remote.port))
        except (FileNotFoundError, PermissionError):
            # The control socket was brought into a container and the worker's was not: the stream goes there too.
            pass
    return await _by_stream(control, pb.StreamRequest(token=made.token), CLAIM_TIMEOUT)


async def _by_stream(control: Control, first: pb.StreamRequest, timeout: float) -> Connection:
    plain, opened = await byte_stream.open_stream(control, first, timeout)
    return connection(plain, (opened.local.ip, opened.local.port), (opened.remote.ip, opened.remote.port))
