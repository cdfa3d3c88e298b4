"""One TCP connection (RFC 9293)."""

from __future__ import annotations

from collections.abc import Mapping

from ztnode.netstack.tcp.network import Buffer
from ztnode.netstack.tcp.state import State


class TcpConnection:
    """A connection as its owner sees it. No method blocks; watch `TcpLayer.ready()` and look at the properties."""

    state: State
    error: OSError | None
    """Why the connection failed (ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH ...); None while all is well."""
    nodelay: bool
    keepalive: bool
    owner: object
    """The owner's own; TCP never looks at it."""

    @property
    def established(self) -> bool:
        """The handshake is complete (stays true until the connection is closed or fails)."""
        return False

    @property
    def closed(self) -> bool:
        """Nothing will ever happen here any more (CLOSED or TIME-WAIT)."""
        return False

    @property
    def readable(self) -> int:
        """Bytes in order and unread."""
        return 0

    @property
    def eof(self) -> bool:
        """The peer's FIN arrived and everything before it was read."""
        return False

    @property
    def writable(self) -> int:
        """Free bytes of the send buffer."""
        return 0

    def read(self, limit: int) -> list[Buffer]:
        """Take up to `limit` bytes in order. Views are good until the stack's `settle()`."""
        return []

    def write(self, data: Buffer) -> None:
        """Queue data; takes ownership (do not change the buffer), copies nothing. May exceed `writable`.

        Raises BrokenPipeError after `shutdown()`, or `error` when the connection failed.
        """

    def shutdown(self) -> None:
        """No more data from us: FIN after what is queued. Reading goes on."""

    def close(self) -> None:
        """No more interest: FIN after what is queued; received data that nobody read makes it a reset (RFC 2525)."""

    def abort(self) -> None:
        """Reset the connection now."""

    @property
    def local(self) -> tuple[str, int]:
        """Our address and port."""
        return "", 0

    @property
    def remote(self) -> tuple[str, int]:
        """The peer's address and port."""
        return "", 0

    def info(self) -> Mapping[str, int | float | str]:
        """Figures as `ss -i` shows them: rtt, cwnd, mss, retransmissions ..."""
        return {}
