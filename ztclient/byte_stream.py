"""A real socket for a connection of a node elsewhere: a gRPC byte stream pumped through a loopback TCP pair.

A TCP pair and not a Unix pair, because only TCP can tell a reset from an end. Two threads serve a connection: gRPC's
own, which draws the upload from ``Pump._requests``, and one that writes the download. A slow reader on either side
stops the other, by the socket buffers here and by gRPC's flow control in between.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ztclient.errors import from_rpc
from ztclient.loopback import reset_on_close, socket_pair

if TYPE_CHECKING:
    from ztclient.channel import Control
    from ztclient.v1 import node_pb2 as pb

CHUNK = 256 * 1024
"""Most bytes in one message, in either direction."""


def open_stream(control: Control, first: pb.StreamRequest, timeout: float | None) -> socket.socket:
    """Begin a byte stream with ``first`` (dial or token) and give its connected socket.

    ``timeout``: seconds until the stream must stand. Raises OSError.
    """
    near, far = socket_pair()
    pump = Pump(control, first, far)
    try:
        pump.opened.result(timeout)
    except BaseException as error:
        pump.cancel()
        near.close()
        if isinstance(error, TimeoutError) and not pump.opened.done():
            raise TimeoutError(errno.ETIMEDOUT, f"the node at {control.address} did not answer in time") from error
        raise
    return near


def join_stream(control: Control, first: pb.StreamRequest, far: socket.socket, timeout: float | None) -> None:
    """Begin a byte stream with ``first`` and carry its bytes to and from ``far``, taken over. Raises OSError."""
    pump = Pump(control, first, far)
    try:
        pump.opened.result(timeout)
    except BaseException:
        pump.cancel()
        raise


class Pump:
    """One Stream call and the far end of a socket pair, which it takes over."""

    def __init__(self, control: Control, first: pb.StreamRequest, far: socket.socket) -> None:
        self.opened: Future[None] = Future()
        """Done once the node says that the connection stands, or why it does not."""
        self._control = control
        self._far = far
        self._reading = threading.Lock()
        self._call = control.stub.Stream(self._requests(first), metadata=control.metadata)
        threading.Thread(target=self._download, name="ztclient-stream", daemon=True).start()

    def cancel(self) -> None:
        """End the call; the node resets the connection."""
        self._call.cancel()

    def _requests(self, first: pb.StreamRequest) -> Iterator[pb.StreamRequest]:
        from ztclient.v1 import node_pb2 as pb

        yield first
        while True:
            try:
                # The lock tells _close when no recv is under way.
                with self._reading:
                    data = self._far.recv(CHUNK)
            except OSError:
                self._call.cancel()
                return
            if not data:
                break
            yield pb.StreamRequest(data=data)
        yield pb.StreamRequest(half_close=pb.HalfClose())

    def _download(self) -> None:
        import grpc

        reset = True
        try:
            for response in self._call:
                match response.WhichOneof("message"):
                    case "data":
                        self._far.sendall(response.data)
                    case "half_close":
                        self._far.shutdown(socket.SHUT_WR)
                    case "opened":
                        self.opened.set_result(None)
            reset = False
        except grpc.RpcError as error:
            if not self.opened.done():
                self.opened.set_exception(from_rpc(error, str(self._control.address)))
        except OSError:
            self._call.cancel()  # the application closed or reset its end
        finally:
            self._close(reset)

    def _close(self, reset: bool) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError(errno.ECONNRESET, "the stream ended before it stood"))
        # A socket on which another thread waits would live on after close() and send no reset. SHUT_RD wakes that
        # thread and is invisible to the other end.
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RD)
        with self._reading:
            if reset:
                reset_on_close(self._far)
            self._far.close()
