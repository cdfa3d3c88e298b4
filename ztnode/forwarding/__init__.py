"""Ports carried over the overlay, in both directions, for programs that know nothing of it.

``mappings`` runs any number of them on one event loop, of the node itself or of a command beside it. It accepts and
dials; the bytes of a connection pass through the stack worker alone, which gets the kernel's socket. Exported is how
mappings are written, and nothing that makes a command slow to start.
"""

from ztnode.forwarding.mapping import (
    Expose,
    Forward,
    LocalAddress,
    TcpAddress,
    UnixAddress,
    parse_expose,
    parse_forward,
)

__all__ = ["Expose", "Forward", "LocalAddress", "TcpAddress", "UnixAddress", "parse_expose", "parse_forward"]
