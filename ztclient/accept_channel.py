"""How the node's stack worker is told to bring a listener's connections itself; ``ListenResponse.handoff_path`` in
node.proto has the bytes. The worker's side is ztnode.worker.accept_channel."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

from ztclient import handoff
from ztclient.forms import ip_of
from ztclient.overlay_socket import OverlayAddress, overlay_address

SOURCES, DESCRIPTORS, TOKENS = range(3)
"""How connections are wanted."""
ENDS = struct.Struct("!HB16sH16sH")
"""A port, length of the addresses, the address and port of our end, those of the peer's."""
OPEN = b"\0"
"""The worker brings what comes; then before each connection, or for each source that is used."""
ENDED = b"\1"
"""Nothing comes any more; the node says why."""
DEAF = b"\3"
"""Nobody listens at the port that sources were connected to."""
FIRST_SECONDS = 5.0
"""How long a worker may not know a listener that the node has just made."""
RETRY_SECONDS = 0.05
"""Before a worker that is being replaced is looked for again."""

_ATTEND = b"\xfe" * handoff.TOKEN_BYTES
_REQUEST = struct.Struct("!16sBH")
_NUMBER = struct.Struct("!H")


def request(token: bytes, kind: int, port: int = 0) -> bytes:
    """What makes the worker bring connections."""
    return _ATTEND + _REQUEST.pack(token, kind, port)


def credit(*numbers: int) -> bytes:
    """Room for that many more."""
    return b"".join(map(_NUMBER.pack, numbers))


def ends(entry: bytes) -> tuple[int, OverlayAddress, OverlayAddress] | None:
    """The port, and local and remote end on the overlay; None for what was never written."""
    port, length, local, local_port, remote, remote_port = ENDS.unpack(entry)
    if length not in (4, 16):
        return None
    return (
        port,
        overlay_address(ip_of(local[:length]), local_port),
        overlay_address(ip_of(remote[:length]), remote_port),
    )


class Patience:
    """Whether to look for the worker once more, after it was not there, or did not know the listener."""

    def __init__(self, is_listening: Callable[[], bool]) -> None:
        """``is_listening``: whether the node still has the listener."""
        self._is_listening = is_listening
        self._until = time.monotonic() + FIRST_SECONDS

    def succeeded(self) -> None:
        """It knows the listener: whoever takes its place will know it too."""
        self._until = float("inf")

    def permits(self, error: OSError) -> bool:
        """Whether there is sense in another attempt after ``error``."""
        if self._until < float("inf") and isinstance(error, FileNotFoundError | PermissionError):
            return False  # brought into a container without the worker's socket: see dialling
        return self._is_listening() and time.monotonic() < self._until


def attend(path: str, message: bytes, table: int) -> socket.socket:
    """A channel (blocking) on which the worker brings connections into the ``table``, the descriptor of memory. Raises
    OSError."""
    with contextlib.ExitStack() as undo:
        channel = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        channel.settimeout(handoff.CLAIM_TIMEOUT)
        handoff.connect(channel, path, time.monotonic() + handoff.CLAIM_TIMEOUT)
        socket.send_fds(channel, [message], [table])
        check(channel.recv(1))
        channel.settimeout(None)
        undo.pop_all()
    return channel


def check(answer: bytes) -> None:
    """Raises OSError unless the worker says that it will bring what comes."""
    if answer != OPEN:
        raise handoff.exhausted() if answer == handoff.EXHAUSTED else ConnectionResetError("the listener is not known")
