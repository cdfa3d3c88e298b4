"""From a call that opens or accepts a connection to its socket: handed over here, or a byte stream from afar."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from ztclient import byte_relay, byte_stream, handoff
from ztclient.forms import is_numeric
from ztclient.times import remaining

if TYPE_CHECKING:
    from ztclient.channel import Control
    from ztclient.v1 import node_pb2 as pb


def dial(control: Control, request: pb.DialRequest, timeout: float) -> socket.socket:
    """A connected socket (blocking) as ``request`` asks for it. ``timeout``: seconds until the node must have answered.
    Raises OSError."""
    from ztclient.v1 import node_pb2 as pb

    if control.address.scheme != "unix":
        return byte_stream.open_stream(control, pb.StreamRequest(dial=request), timeout)
    connected = _asked_for(control, request)
    if connected is not None:
        return connected
    answer: pb.DialResponse = control.call(control.stub.Dial, request, timeout)
    control.learn(answer)
    return connected_socket(control, answer.connection)


def join(control: Control, request: pb.DialRequest, end: socket.socket, timeout: float) -> None:
    """Dial, and have ``end``, one end of a connected pair that is taken over, carry the connection's bytes. Raises
    OSError; ``end`` is still the caller's then."""
    from ztclient.v1 import node_pb2 as pb

    if control.address.scheme == "unix":
        answer: pb.DialResponse = control.call(control.stub.Dial, request, timeout)
        connection = answer.connection
        try:
            handed = handoff.join(connection.handoff_path, connection.token, end)
        except (FileNotFoundError, PermissionError):  # as in connected_socket
            first = pb.StreamRequest(token=connection.token)
        else:
            if handed is not None:
                byte_relay.start(end.dup(), handed)
            end.close()
            return
    else:
        first = pb.StreamRequest(dial=request)
    byte_stream.join_stream(control, first, end, timeout)


def _asked_for(control: Control, request: pb.DialRequest) -> socket.socket | None:
    """What the worker itself is asked for, where it is known and answers at once."""
    if not control.direct_path or not is_numeric(request.ip):
        return None
    began = time.monotonic()
    connected = handoff.ask(control.direct_path, request, control.idle)
    if connected is None:
        request.timeout.CopyFrom(remaining(request.timeout, began))
    return connected


def connected_socket(control: Control, connection: pb.Connection) -> socket.socket:
    """The socket of a connection that Dial or Accept gave, by hand-off where that is possible."""
    from ztclient.v1 import node_pb2 as pb

    if connection.handoff_path:
        try:
            return handoff.claim(connection.handoff_path, connection.token)
        except (FileNotFoundError, PermissionError):
            # The control socket was brought into a container and the worker's was not: the stream goes there too.
            pass
    return byte_stream.open_stream(control, pb.StreamRequest(token=connection.token), handoff.CLAIM_TIMEOUT)
