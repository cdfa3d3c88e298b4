"""From a call that opens or accepts a connection to its socket: handed over here, or a byte stream from afar."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from ztclient import byte_relay, byte_stream, handoff
from ztclient.overlay_socket import connection

if TYPE_CHECKING:
    from ztclient.channel import Control
    from ztclient.destination import Destination
    from ztclient.v1 import node_pb2 as pb


def dial(control: Control, to: Destination, timeout: float) -> socket.socket:
    """A connected socket (blocking). ``timeout``: seconds until the node must have answered. Raises OSError."""
    if control.address.scheme != "unix":
        return _by_stream(control, to, timeout)
    waited = 0.0
    if control.direct_path:
        # The worker itself, where it is known, the address is numeric, and it answers at once.
        began = time.monotonic()
        connected = handoff.ask(control.direct_path, to, control.idle)
        if connected is not None:
            return connected
        waited = time.monotonic() - began
    answer: pb.DialResponse = control.call(control.stub.Dial, to.message(waited), timeout)
    control.learn(answer)
    return connected_socket(control, answer.connection)


def join(control: Control, to: Destination, end: socket.socket, timeout: float) -> None:
    """Dial, and have ``end``, one end of a connected pair that is taken over, carry the connection's bytes. Raises
    OSError; ``end`` is still the caller's then."""
    from ztclient.v1 import node_pb2 as pb

    if control.address.scheme == "unix":
        answer: pb.DialResponse = control.call(control.stub.Dial, to.message(), timeout)
        made = answer.connection
        try:
            handed = handoff.join(made.handoff_path, made.token, end)
        except (FileNotFoundError, PermissionError):  # as in connected_socket
            first = pb.StreamRequest(token=made.token)
        else:
            if handed is not None:
                byte_relay.start(end.dup(), handed)
            end.close()
            return
    else:
        first = pb.StreamRequest(dial=to.message())
    byte_stream.join_stream(control, first, end, timeout)


def _by_stream(control: Control, to: Destination, timeout: float) -> socket.socket:
    from ztclient.v1 import node_pb2 as pb

    return byte_stream.open_stream(control, pb.StreamRequest(dial=to.message()), timeout)


def connected_socket(control: Control, made: pb.Connection) -> socket.socket:
    """The socket of a connection that Dial or Accept gave, by hand-off where that is possible."""
    from ztclient.v1 import node_pb2 as pb

    if made.handoff_path:
        try:
            plain = handoff.claim(made.handoff_path, made.token)
            return connection(plain, (made.local.ip, made.local.port), (made.remote.ip, made.remote.port))
        except (FileNotFoundError, PermissionError):
            # The control socket was brought into a container and the worker's was not: the stream goes there too.
            pass
    return byte_stream.open_stream(control, pb.StreamRequest(token=made.token), handoff.CLAIM_TIMEOUT)
