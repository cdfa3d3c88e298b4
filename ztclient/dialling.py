"""From a call that opens or accepts a connection to its socket: handed over here, or a byte stream from afar."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from ztclient import byte_relay, byte_stream, handoff
from ztclient.forms import is_numeric

if TYPE_CHECKING:
    from ztclient.channel import Control
    from ztclient.v1 import node_pb2 as pb


def dial(control: Control, request: pb.DialRequest, timeout: float) -> socket.socket:
    """A connected socket (blocking) as ``request`` asks for it. ``timeout``: seconds until the node must have answered.
    Raises OSError."""
    from ztclient.v1 import node_pb2 as pb

    if control.address.scheme != "unix":
        return byte_stream.open_stream(control, pb.StreamRequest(dial=request), timeout)
    # The addresses of a name may be tried side by side: which has our token is not known then.
    if control.handoff_path and is_numeric(request.ip) and control.appointments.acquire(blocking=False):
        try:
            return _dial_by_appointment(control, request, timeout)
        finally:
            control.appointments.release()
    answer: pb.DialResponse = control.call(control.stub.Dial, request, timeout)
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


def _dial_by_appointment(control: Control, request: pb.DialRequest, timeout: float) -> socket.socket:
    """Dial, and wait at the hand-off socket meanwhile: the node's answer is waited for only when no socket comes."""
    import grpc

    path = control.handoff_path
    request.token = os.urandom(handoff.TOKEN_BYTES)
    call = control.stub.Dial.future(request, timeout=timeout, metadata=control.metadata)
    try:
        appointment = handoff.appoint(path, request.token)
        if appointment is not None:
            with appointment:

                def answered(call: Any) -> None:
                    # A connection that stands at this worker is on its way; a worker that is late must find us here.
                    if call.code() is not grpc.StatusCode.OK or call.result().connection.handoff_path != path:
                        appointment.cancel()

                # It also keeps the call, which would be cancelled with its last reference, until its answer is there.
                call.add_done_callback(answered)
                connected = appointment.keep(timeout)
            if connected is not None:
                return connected
    except BaseException:
        call.cancel()
        raise
    with control.translated():
        return connected_socket(control, call.result().connection)


def connected_socket(control: Control, connection: pb.Connection) -> socket.socket:
    """The socket of a connection that Dial or Accept gave, by hand-off where that is possible."""
    from ztclient.v1 import node_pb2 as pb

    if connection.handoff_path:
        try:
            connected = handoff.claim(connection.handoff_path, connection.token)
            control.remember(connection.handoff_path)
            return connected
        except (FileNotFoundError, PermissionError):
            # The control socket was brought into a container and the worker's was not: the stream goes there too.
            pass
    return byte_stream.open_stream(control, pb.StreamRequest(token=connection.token), handoff.CLAIM_TIMEOUT)
